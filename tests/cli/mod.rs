//! `b4r-train` as a user runs it: exit codes, refusals, kill and resume, full disks.

mod cuda;
mod disk;
mod fallback;
mod family;
mod protocols;
mod refusals;
mod runs;
mod stopped;

use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest that a program may take over a step that these tests wait for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small data set in a folder of its own, and runs on it.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// 90 users with 12 to 40 of 50 items each; what comes next mostly follows from what came before.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let sandbox = Sandbox { folder };
        fs::write(sandbox.data(), interactions(1)).expect("the data file");
        sandbox
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The interaction file.
    pub fn data(&self) -> PathBuf {
        self.path("clicks.inter")
    }

    /// A run into `run_dir` with a model small enough to train within a second or two.
    pub fn command(&self, run_dir: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-train"));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.arg(format!("--dataset={}", self.data().display()));
        command.arg(format!("--run-dir={}", run_dir.display()));
        let small = "--hidden_size=16 --inner_size=32 --n_layers=2 --n_heads=2 --max_len=16 \
                     --train_batch_size=128 --epochs=8 --seed=7 --show_progress=false";
        command.args(small.split_whitespace()).args(more);
        command
    }

    /// Runs to the end.
    pub fn run(&self, run_dir: &Path, more: &[&str]) -> Output {
        self.command(run_dir, more).output().expect("the program starts")
    }

    /// Runs to the end, which must be a good one.
    pub fn finish(&self, run_dir: &Path, more: &[&str]) -> Output {
        let output = self.run(run_dir, more);
        assert!(output.status.success(), "{}", stderr(&output));
        output
    }

    /// Starts a run and does not wait.
    pub fn start(&self, run_dir: &Path, more: &[&str]) -> Running {
        let mut command = self.command(run_dir, more);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Running { child: Some(child.expect("the program starts")), run_dir: run_dir.to_path_buf() }
    }

    /// An uninterrupted run with what decides its result, to compare others with.
    pub fn reference(&self, more: &[&str]) -> Artifacts {
        let run_dir = self.path("reference");
        self.finish(&run_dir, more);
        Artifacts::of(&run_dir)
    }
}

/// An interaction file; other `salt`, other interactions.
pub fn interactions(salt: u64) -> String {
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    let mut state = salt;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for user in 0..90 {
        let mut item = random(50);
        for time in 0..12 + random(29) {
            writeln!(text, "u{user}\ti{item}\t{time}").expect("a string takes everything");
            item = if random(5) == 0 { random(50) } else { (item * 7 + 3) % 50 };
        }
    }
    text
}

/// A run under way; killed when dropped.
pub struct Running {
    child: Option<Child>,
    run_dir: PathBuf,
}

impl Running {
    /// Waits until `metrics.jsonl` has `count` lines; false when the run ended before.
    pub fn wait_for_lines(&mut self, count: usize) -> bool {
        let log = self.run_dir.join("metrics.jsonl");
        self.wait_until(|| lines_in(&log) >= count)
    }

    /// Waits until `metrics.jsonl` has fewer than `count` lines.
    pub fn wait_for_fewer_lines(&mut self, count: usize) -> bool {
        let log = self.run_dir.join("metrics.jsonl");
        self.wait_until(|| lines_in(&log) < count)
    }

    /// Waits for a file that may come and go unseen, at most until there are `count` lines.
    pub fn wait_for_file_or_lines(&mut self, file: &str, count: usize) -> bool {
        let (path, log) = (self.run_dir.join(file), self.run_dir.join("metrics.jsonl"));
        self.wait_until(|| path.exists() || lines_in(&log) >= count)
    }

    /// Waits until `file` of the run directory is there; false when the run ended before.
    pub fn wait_for_file(&mut self, file: &str) -> bool {
        let path = self.run_dir.join(file);
        self.wait_until(|| path.exists())
    }

    fn wait_until(&mut self, reached: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        while !reached() {
            let child = self.child.as_mut().expect("not waited for yet");
            if child.try_wait().expect("its state").is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "nothing happens in {}", self.run_dir.display());
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("not waited for yet");
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end.
    pub fn output(mut self) -> Output {
        let child = self.child.take().expect("not waited for yet");
        child.wait_with_output().expect("its output")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lines_in(file: &Path) -> usize {
    fs::read(file).map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count())
}

/// What equal runs have in common, byte for byte.
#[derive(PartialEq)]
pub struct Artifacts {
    model: Vec<u8>,
    /// Lines of the log, without their times.
    pub metrics: Vec<Value>,
    test: Value,
}

impl Artifacts {
    /// Those of a finished run.
    pub fn of(run_dir: &Path) -> Self {
        let read = |name: &str| fs::read(run_dir.join(name)).expect(name);
        let text = String::from_utf8(read("metrics.jsonl")).expect("UTF-8");
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("a JSON object a line");
            let fields = line.as_object_mut().expect("an object");
            for time in ["seconds", "train_seconds"] {
                fields.remove(time).expect(time);
            }
            line
        };
        let results: Value = serde_json::from_slice(&read("results.json")).expect("JSON");
        Artifacts {
            model: read("model.safetensors"),
            metrics: text.lines().map(line).collect(),
            test: results["test"].clone(),
        }
    }
}

/// What a finished run came to.
pub fn results(run_dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(run_dir.join("results.json")).unwrap()).unwrap()
}

/// Fails with what differs.
pub fn assert_equal_runs(one: &Artifacts, other: &Artifacts) {
    assert_eq!(one.metrics, other.metrics, "metrics.jsonl");
    assert!(one.model == other.model, "model.safetensors differs");
    assert_eq!(one.test, other.test, "results.json");
}

/// What a program wrote to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that a run failed with `code`, without a panic, and says each of `words`.
pub fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

/// Names in a folder, temporary files of a write among them.
pub fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("its name").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
