//! `metrics.jsonl`: one JSON object a line for each evaluation.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Tokens worked through in training so far.
    #[serde(default)]
    pub tokens: u64,
    /// Training and evaluation time so far. This and the next field alone differ between equal runs.
    pub seconds: f64,
    /// Training time so far.
    #[serde(default)]
    pub train_seconds: f64,
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

/// Reads the log; a line that a kill cut short is not there yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] naming the line that is none of ours.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("read", path))?,
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let parse = |(number, line): (u64, &str)| {
        serde_json::from_str(line).map_err(|error| Error::Input {
            path: path.to_path_buf(),
            line: Some(number),
            column: None,
            problem: format!("not a line of this program: {error}"),
            remedy: "give the directory of a run as b4r-train left it".to_string(),
        })
    };
    (1u64..).zip(text[..whole].lines()).map(parse).collect()
}

/// Cuts the log back to `length` bytes and returns the length it then has: less where lines were lost, of which no
/// part stays.
///
/// # Errors
/// [`Error::Io`].
pub fn cut(path: &Path, length: u64) -> Result<u64> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(Error::io("write", path))?,
    };
    let present = file.metadata().map_err(Error::io("read", path))?.len();
    let mut kept = length;
    if present < length {
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(Error::io("read", path))?;
        kept = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end as u64 + 1);
    }
    if present > kept {
        file.set_len(kept).map_err(Error::io("write", path))?;
    }
    Ok(kept)
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
            tokens: 70,
            seconds: 1.5,
            train_seconds: 1.25,
        };
        assert_eq!(cut(&path, 7).unwrap(), 0);
        let first = append(&path, 0, &line).unwrap();
        line.epoch = 2;
        let second = append(&path, first, &line).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"epoch":1,"step":9,"train_loss":0.5,"learning_rate":0.001,"valid":{"ndcg@10":0.25},"tokens":70,"seconds":1.5,"train_seconds":1.25}"#
        );
        assert_eq!(text.len() as u64, second);
        assert_eq!(read(&path).unwrap()[1], line);
        std::fs::write(&path, text.clone() + "{\"epoch\":3").unwrap();
        assert_eq!(read(&path).unwrap().len(), 2, "half a line is none");
        std::fs::write(&path, text.clone() + "{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("metrics.jsonl:3"));
        assert_eq!(cut(&path, first).unwrap(), first);
        assert_eq!(cut(&path, second).unwrap(), first, "a log is not made longer");
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(cut(&path, second).unwrap(), first, "what is left of a line goes too");
        assert_eq!(append(&path, first, &line).unwrap(), second);
        assert_eq!(read(&path).unwrap().len(), 2);
    }
}
