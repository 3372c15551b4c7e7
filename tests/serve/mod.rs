//! `b4r-recommend --serve` as its clients meet it: the program itself, a small trained run, real sockets.

mod client;
mod cuda;
mod devtools;
mod endpoints;
mod hostile;
mod life;
mod page;

use client::{Client, Reply};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

/// Longest wait for anything that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// An id that would be a script, were it not text. It is the most popular item.
const SCRIPT: &str = "<img src=x onerror=\"document.title='broken in'\">";
/// Ids that need care in a URL.
const AWKWARD: [&str; 5] = ["a/b", "50% off", "größe", "../../etc/passwd", "q?k=1#x"];

/// A trained run in a folder of its own.
struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    /// The run that tests share which only read it; trained when first asked for.
    fn shared() -> Arc<Run> {
        static SHARED: Mutex<Weak<Run>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let run = Arc::new(Run::train(7));
            *shared = Arc::downgrade(&run);
            run
        })
    }

    fn train(seed: u64) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("clicks.inter");
        fs::write(&data, interactions()).unwrap();
        let run = Run { folder };
        let mut train = Command::new(env!("CARGO_BIN_EXE_b4r-train"));
        train.arg(format!("--dataset={}", data.display())).arg(format!("--seed={seed}"));
        train.arg(format!("--run-dir={}", run.path().display()));
        let small = "--hidden_size=16 --inner_size=32 --n_layers=1 --n_heads=2 --max_len=12 \
                     --train_batch_size=256 --epochs=2 --show_progress=false";
        let output = train.args(small.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        run
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

/// 60 users who each took the script and 11 others of 40 items, in a row.
fn interactions() -> String {
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    for user in 0..60 {
        let _ = writeln!(text, "u{user}\t{SCRIPT}\t0");
        for time in 1..12 {
            let item = (user * 7 + time * 3) % 40;
            let item = AWKWARD.get(item).map_or(format!("i{item}"), |id| id.to_string());
            let _ = writeln!(text, "u{user}\t{item}\t{time}");
        }
    }
    text
}

/// A server, and what it says on stderr.
struct Server {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    /// Kept for as long as it is served.
    run: Option<Arc<Run>>,
}

impl Server {
    /// A server of the shared run on a free port.
    fn start(flags: &[&str]) -> Server {
        let run = Run::shared();
        let mut server = Server::of(&run.path(), flags, &[]);
        server.run = Some(run);
        server
    }

    fn of(run: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Server {
        let mut command = Server::command(run, flags);
        command.envs(environment.iter().copied()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (listening, address) = mpsc::channel();
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, log) = (BufReader::new(child.stderr.take().unwrap()), said.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    let _ = listening.send(address.parse().unwrap());
                }
                *log.lock().unwrap() += &(line + "\n");
            }
        });
        let address = address.recv_timeout(PATIENCE);
        let address = address.unwrap_or_else(|_| panic!("no address: {}", said.lock().unwrap()));
        Server { child, address, said, run: None }
    }

    fn command(run: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-recommend"));
        command.env_remove("B4R_TOKEN").stdin(Stdio::null()).stdout(Stdio::null());
        command.arg(run).arg("--threads=1");
        if !flags.contains(&"--serve") {
            command.args(["--serve", "127.0.0.1:0"]);
        }
        command.args(flags);
        command
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn get(&self, path: &str) -> Reply {
        self.client().get(path)
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.client().post(path, body)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn wait_until_said(&self, words: &str) {
        assert!(wait_for(|| self.said().contains(words)), "`{words}` not said: {}", self.said());
    }

    /// The value of a metric, by its name with labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The exit code, once it has ended by itself.
    fn exit_code(&mut self) -> Option<i32> {
        assert!(wait_for(|| self.child.try_wait().unwrap().is_some()), "it does not end");
        self.child.wait().unwrap().code()
    }

    /// Ends the server, which must be in good health until then.
    fn finish(mut self) {
        assert_eq!(self.get("/health").status, 200);
        self.signal("TERM");
        assert_eq!(self.exit_code(), Some(0), "{}", self.said());
        assert!(!self.said().contains("panicked"), "{}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
