//! Programs that are run to be measured, or to measure: without a shell, and not for ever.

use crate::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its errors that are shown.
const SHOWN: usize = 12;

/// A program to run.
pub struct Child<'a> {
    /// What to start.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// Variables of its environment, beside our own.
    pub environment: &'a [(&'a str, &'a str)],
    /// Key or flag that errors name.
    pub key: &'a str,
    /// What to do when it fails.
    pub remedy: &'a str,
}

impl Child<'_> {
    /// Runs it and returns what it wrote to stdout.
    ///
    /// # Errors
    /// [`Error::Config`] when it cannot be started, fails, or takes longer than `limit`; it is ended then.
    pub fn run(&self, limit: Duration) -> Result<String> {
        let name = self.program.display();
        let wrong = |problem: String| Error::config(self.key, problem, self.remedy);
        let mut command = Command::new(self.program);
        command.args(self.arguments).envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| wrong(format!("{name} cannot be started: {error}")))?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let end = Instant::now() + limit;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < end => thread::sleep(LOOK),
                _ => {
                    // It may have ended by itself meanwhile.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        let (out, err) = (joined(out), joined(err));
        match status {
            Some(status) if status.success() => Ok(out),
            Some(status) => Err(wrong(format!("{name} ended with {status}\n{}", last_lines(&err)))),
            None => Err(wrong(format!(
                "{name} was not done after {} s and was ended\n{}",
                limit.as_secs(),
                last_lines(&err)
            ))),
        }
    }
}

/// Reads beside the program, which must not wait for us.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    let mut pipe = pipe?;
    let read = move || {
        let mut bytes = Vec::new();
        // What was read until a failure is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    thread::Builder::new().spawn(read).ok()
}

fn joined(text: Option<JoinHandle<String>>) -> String {
    text.and_then(|text| text.join().ok()).unwrap_or_default()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, arguments: &[&str], limit: u64) -> Result<String> {
        let program = Path::new(program);
        let child = Child {
            program,
            arguments,
            environment: &[("B4R_WORD", "told")],
            key: "python",
            remedy: "mend it",
        };
        child.run(Duration::from_millis(limit))
    }

    #[test]
    fn programs_are_run_and_ended() {
        assert_eq!(run("/bin/sh", &["-c", "echo $B4R_WORD"], 20_000).unwrap(), "told\n");
        let failed =
            run("/bin/sh", &["-c", "echo why >&2; exit 3"], 20_000).unwrap_err().to_string();
        assert!(
            failed.contains("why") && failed.contains('3') && failed.contains("mend it"),
            "{failed}"
        );
        let missing = run("/nowhere/python", &[], 20_000).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/python cannot be started"), "{missing}");
        let start = Instant::now();
        let late = run("/bin/sleep", &["60"], 100).unwrap_err().to_string();
        assert!(late.contains("was not done after"), "{late}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
