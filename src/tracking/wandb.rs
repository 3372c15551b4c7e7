//! `log_wandb`: logs to Weights & Biases through the user's own `wandb`, where it is installed.
//!
//! A Python process beside the run reads the run directory and does all of it: its mode, account and server are
//! what `wandb` takes from the environment (`WANDB_MODE`, `WANDB_API_KEY`, ...). Training neither waits for it
//! nor fails with it. Names are RecBole's: `train/train_loss`, `valid/ndcg@10`, and `eval/ndcg@10` in the
//! summary.

use crate::config::{Config, keys};
use crate::train::progress::say;
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("wandb.py");
/// Environment variable that names the Python interpreter.
const PYTHON: &str = "B4R_PYTHON";
/// Longest time that the last upload may take; the numbers are on disk in any case.
const PATIENCE: Duration = Duration::from_secs(300);
/// Which run of Weights & Biases belongs to a run directory.
pub const ID_FILE: &str = "wandb.id";

/// The process that logs.
#[derive(Debug)]
pub struct Wandb {
    child: Child,
    run_dir: PathBuf,
}

impl Wandb {
    /// Starts logging `run_dir` where `config` asks for it and there is a Python.
    pub fn start(config: &Config, run_dir: &Path) -> Option<Self> {
        let run = &config.run;
        if !run.log_wandb {
            return None;
        }
        let python = std::env::var_os(PYTHON).unwrap_or_else(|| "python3".into());
        let name = run_dir.file_name().unwrap_or(run_dir.as_os_str());
        let mut command = Command::new(&python);
        command.arg("-c").arg(SCRIPT).arg(run_dir).arg(&run.wandb_project).arg(name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        match command.spawn() {
            Ok(mut child) => {
                let line = format!("{}\n", Value::Object(parameters(config)));
                // A process that has ended already has said why.
                let _ = child.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
                Some(Wandb { child, run_dir: run_dir.to_path_buf() })
            }
            Err(error) => {
                say(format_args!(
                    "log_wandb: {} cannot be run ({error}), so nothing is logged to Weights & Biases. {}",
                    python.display(),
                    later(run_dir)
                ));
                None
            }
        }
    }

    /// Tells the process that the run has ended, waits for its last upload, and says what was done.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > PATIENCE {
                // Best effort: it may have ended in between.
                let _ = self.child.kill();
                say(format_args!(
                    "log_wandb: the upload took more than {} s and was given up. {}",
                    PATIENCE.as_secs(),
                    later(&self.run_dir)
                ));
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            // What cannot be read is reported as nothing said.
            let _ = stdout.read_to_string(&mut text);
        }
        let _ = self.child.wait();
        say(format_args!("log_wandb: {}", outcome(&text, &self.run_dir)));
    }
}

/// What the process's last line says, for people.
fn outcome(text: &str, run_dir: &Path) -> String {
    let said = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let field = |name: &str| said.as_ref().and_then(|said| said[name].as_str()).unwrap_or("?");
    match field("state") {
        "logged" => format!("logged to {}", field("where")),
        "offline" => format!(
            "written for later, in offline mode; upload it with `wandb sync {}`",
            field("where")
        ),
        "disabled" => "wandb is disabled (WANDB_MODE), so nothing was logged".to_string(),
        "missing" => format!(
            "{} has no module `wandb`, so nothing was logged. {}",
            field("python"),
            later(run_dir)
        ),
        "refused" => format!("wandb would not start: {}. {}", field("why"), later(run_dir)),
        _ => format!("wandb failed, see above. {}", later(run_dir)),
    }
}

/// How to make up for it.
fn later(run_dir: &Path) -> String {
    format!(
        "The numbers are in {}; once `pip install wandb` and `wandb login` are done, `b4r-train --run-dir {} \
         --resume --log-wandb` logs them without training again ({PYTHON} names another interpreter)",
        run_dir.display(),
        run_dir.display()
    )
}

/// The configuration as Weights & Biases shows it.
fn parameters(config: &Config) -> Map<String, Value> {
    use crate::config::value::Value as Setting;
    let json = |value: Setting| match value {
        Setting::Null => None,
        Setting::Bool(value) => Some(value.into()),
        Setting::Integer(value) => Some(i64::try_from(value).map_or(Value::Null, Value::from)),
        Setting::Number(value) => Some(value.into()),
        Setting::Text(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    };
    let values = keys::all().filter(|key| key.section != keys::Section::Run);
    values.filter_map(|key| Some((key.name.to_string(), json((key.get)(config)?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_done_and_what_to_do() {
        let say = |text: &str| outcome(text, Path::new("runs/x"));
        let logged = say("noise\n{\"state\": \"logged\", \"where\": \"https://wandb.ai/a/b\"}\n");
        assert_eq!(logged, "logged to https://wandb.ai/a/b");
        assert!(say("{\"state\": \"offline\", \"where\": \"w/o\"}").contains("`wandb sync w/o`"));
        assert!(say("{\"state\": \"disabled\"}").contains("WANDB_MODE"));
        for failed in [
            "{\"state\": \"missing\", \"python\": \"/usr/bin/python3\"}",
            "{\"state\": \"refused\", \"why\": \"no key\"}",
            "Traceback",
            "",
        ] {
            assert!(say(failed).contains("--run-dir runs/x --resume --log-wandb"), "{failed}");
        }
    }
}
