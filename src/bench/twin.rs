//! The PyTorch side of a comparison: `benches/peers/torch_b4r.py`, run as it is, and what it prints.

use super::child::Child;
use super::train;
use super::workload::Workload;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The script is part of this program, so that it need not be where the source is.
const SCRIPT: &str = include_str!("../../benches/peers/torch_b4r.py");
const MATMUL: &str = include_str!("../../benches/peers/matmul.py");
const REMEDY: &str = "give a Python with `pip install torch==2.9.1 numpy`; torch.compile also wants a C++ compiler \
                      (or leave `compiled` out of --variants); --timeout gives more time";

/// A way to train with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// As given on the command line.
    pub name: &'static str,
    /// Its `--modes`.
    mode: &'static str,
    /// Its `--pads`.
    pad: &'static str,
}

/// All of them.
pub const VARIANTS: [Variant; 3] = [
    Variant { name: "padded", mode: "eager", pad: "full" },
    Variant { name: "compiled", mode: "compile", pad: "full" },
    Variant { name: "bucketed", mode: "eager", pad: "bucket" },
];

/// A Python that has PyTorch, and the script in a folder that lives as long.
pub struct Twin {
    python: PathBuf,
    folder: tempfile::TempDir,
    /// Version of PyTorch.
    pub torch: String,
}

/// What it said of its training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trained {
    /// Real tokens a second: of the median step where batches are padded to one length, else of the mean.
    pub tokens_a_second: f64,
    /// Largest resident set.
    pub peak_bytes: u64,
}

impl Twin {
    /// Looks whether `python` has PyTorch and NumPy.
    ///
    /// # Errors
    /// [`Error::Config`] naming `--python`; [`Error::Io`].
    pub fn new(python: &Path) -> Result<Self> {
        let problem = Error::io("write", Path::new("the PyTorch script into a temporary folder"));
        let folder = tempfile::tempdir().and_then(|folder| {
            fs::write(folder.path().join("torch_b4r.py"), SCRIPT)?;
            fs::write(folder.path().join("matmul.py"), MATMUL)?;
            Ok(folder)
        });
        let folder = folder.map_err(problem)?;
        let mut twin = Twin { python: python.to_path_buf(), folder, torch: String::new() };
        let version = "import numpy, torch; print(torch.__version__)";
        twin.torch = twin.python(&["-c", version], Duration::from_secs(300))?.trim().to_string();
        Ok(twin)
    }

    fn python(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        let child = Child {
            program: &self.python,
            arguments,
            // The CPU is compared, whatever else there is.
            environment: &[("CUDA_VISIBLE_DEVICES", "")],
            key: "python",
            remedy: REMEDY,
        };
        child.run(limit)
    }

    fn script(&self, name: &str, arguments: &[String], limit: Duration) -> Result<String> {
        let script = self.folder.path().join(name).display().to_string();
        let words: Vec<&str> =
            std::iter::once(&script).chain(arguments).map(String::as_str).collect();
        self.python(&words, limit)
    }

    /// GFLOP/s of its own product of 2048 x 2048 matrices, as [`super::rates::product_gflops`] takes it.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn matmul(&self, threads: usize, limit: Duration) -> Result<f64> {
        let text = self.script("matmul.py", &[threads.to_string()], limit)?;
        text.trim().parse().map_err(|_| not_understood(&text))
    }

    /// Trains on the histories of the case's file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn train(&self, case: &train::Case, variant: Variant, limit: Duration) -> Result<Trained> {
        let train::Case { workload, threads, steps, attention_dropout } = case;
        let mut arguments = sizes(workload, *threads);
        let words = ["--modes", variant.mode, "--pads", variant.pad, "--mask-prob", "0.2"];
        arguments.extend(words.map(String::from));
        arguments.extend(["--steps".to_string(), steps.to_string()]);
        arguments.extend(["--attn-dropout".to_string(), attention_dropout.to_string()]);
        // The script ends its measurement by itself before it is ended.
        arguments.extend(["--seconds".to_string(), (limit.as_secs() / 2).to_string()]);
        let text = self.script("torch_b4r.py", &arguments, limit)?;
        trained(&text).ok_or_else(|| not_understood(&text))
    }

    /// Users a second of full ranking on the histories of the workload's file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn evaluate(
        &self,
        workload: &Workload,
        threads: usize,
        most_users: usize,
        limit: Duration,
    ) -> Result<f64> {
        let mut arguments = sizes(workload, threads);
        arguments
            .extend(["--steps", "1", "--warmup", "0", "--eval", "--eval-users"].map(String::from));
        arguments.push(most_users.to_string());
        let text = self.script("torch_b4r.py", &arguments, limit)?;
        ranked(&text).ok_or_else(|| not_understood(&text))
    }
}

fn sizes(workload: &Workload, threads: usize) -> Vec<String> {
    let numbers = [
        ("--max-len", workload.max_len),
        ("--dim", workload.hidden_size),
        ("--layers", workload.n_layers),
        ("--heads", workload.n_heads),
        ("--batch", workload.sequences),
        ("--threads", threads),
    ];
    let data =
        workload.data.iter().flat_map(|path| ["--data".to_string(), path.display().to_string()]);
    let mut arguments: Vec<String> = data.collect();
    for (flag, number) in numbers {
        arguments.extend([flag.to_string(), number.to_string()]);
    }
    arguments
}

/// The line of a training measurement: `... | wall: seq/s 900 tok/s 37000 | ... rss 1000 MiB`.
fn trained(text: &str) -> Option<Trained> {
    let line = text.lines().find(|line| line.contains(" pad="))?;
    let (_, wall) = line.split_once("| wall:")?;
    let tokens_a_second = after(wall, "tok/s")?;
    let peak_bytes = after(line, "rss")? as u64 * (1 << 20);
    Some(Trained { tokens_a_second, peak_bytes })
}

/// The line of an evaluation: `... users/s wall 3747 per cpu-s 2000`.
fn ranked(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains(" eval users "))?;
    after(line, "wall")
}

/// The number behind the first `word`.
fn after(text: &str, word: &str) -> Option<f64> {
    let mut words = text.split_whitespace().skip_while(|&other| other != word);
    words.nth(1)?.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
}

fn not_understood(text: &str) -> Error {
    let problem = format!("the PyTorch script printed something else than expected:\n{text}");
    Error::config("python", problem, REMEDY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as torch_b4r.py has printed them.
    const TRAINING: &str = "params 214034\nA eager    pad=full   fp32 thr=2 n=20: wall 140.2 ms (min 131.0) cpu 270.1 ms \
        (min 255.9)/step | wall: seq/s 913 tok/s 38211 | per cpu-s: seq 474 tok 19834 | real tok/step 5357 slots 6400 \
        first step 0.4s loss 6.912 rss 987 MiB\n";

    #[test]
    fn figures_are_found_in_what_the_script_prints() {
        let found = trained(TRAINING).unwrap();
        assert_eq!(found, Trained { tokens_a_second: 38_211.0, peak_bytes: 987 << 20 });
        let line = "A eager eval users 943: users/s wall 3747 per cpu-s 2011";
        assert_eq!(ranked(line), Some(3747.0));
        assert_eq!(trained("A eager pad=full | wall: seq/s 1 tok/s nan | rss 1 MiB"), None);
        assert_eq!(ranked(TRAINING), None);
    }
}
