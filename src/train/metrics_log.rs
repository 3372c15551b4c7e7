//! `metrics.jsonl`: one JSON object a line for each evaluation.

use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// One evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Optimizer steps before it.
    pub step: u64,
    /// Mean training loss of the epoch.
    pub train_loss: f64,
    /// Learning rate of the latest step.
    pub learning_rate: f32,
    /// Validation metrics.
    pub valid: Map<String, Value>,
    /// Training and evaluation time so far; the only field that differs between equal runs.
    pub seconds: f64,
}

/// Appends a line to a log of `length` bytes and returns its new length.
///
/// # Errors
/// [`Error::Io`]; the log is then as before.
pub fn append(path: &Path, length: u64, line: &Line) -> Result<u64> {
    let mut text = serde_json::to_vec(line)
        .map_err(|error| Error::io("lay out", path)(std::io::Error::other(error)))?;
    text.push(b'\n');
    let write = || {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&text).inspect_err(|_| {
            // Half a line would follow; a resumed run cuts it off too.
            let _ = file.set_len(length);
        })
    };
    write().map_err(Error::io("write", path))?;
    Ok(length + text.len() as u64)
}

/// Cuts the log back to `length` bytes and returns the length it then has: less where lines were lost.
///
/// # Errors
/// [`Error::Io`].
pub fn cut(path: &Path, length: u64) -> Result<u64> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(Error::io("write", path))?,
    };
    let present = file.metadata().map_err(Error::io("read", path))?.len();
    if present > length {
        file.set_len(length).map_err(Error::io("write", path))?;
    }
    Ok(present.min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut line = Line {
            epoch: 1,
            step: 9,
            train_loss: 0.5,
            learning_rate: 0.001,
            valid: Map::from_iter([("ndcg@10".to_string(), Value::from(0.25))]),
            seconds: 1.5,
        };
        assert_eq!(cut(&path, 7).unwrap(), 0);
        let first = append(&path, 0, &line).unwrap();
        line.epoch = 2;
        let second = append(&path, first, &line).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"epoch":1,"step":9,"train_loss":0.5,"learning_rate":0.001,"valid":{"ndcg@10":0.25},"seconds":1.5}"#
        );
        assert_eq!(text.len() as u64, second);
        assert_eq!(cut(&path, first).unwrap(), first);
        assert_eq!(cut(&path, second).unwrap(), first, "a log is not made longer");
    }
}
