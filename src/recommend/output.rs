//! Results as JSON lines or CSV, and where they go.

use super::{Fault, POPULARITY, Query, Recommendation};
use crate::train::files;
use crate::{Error, Result};
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Bytes buffered before a write call.
const BUFFER: usize = 256 << 10;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object for each request.
    JsonLines,
    /// A line for each item of each result; requests without a result have none.
    Csv,
}

/// Writes results in one format.
pub struct Results<'a> {
    out: &'a mut dyn Write,
    format: Format,
}

#[derive(Serialize)]
struct ScoredLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    items: Vec<ScoredItem<'a>>,
    unknown: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'static str>,
}

#[derive(Serialize)]
struct ScoredItem<'a> {
    item: &'a str,
    score: Option<f32>,
}

#[derive(Serialize)]
struct FaultLine<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    error: &'a str,
}

impl<'a> Results<'a> {
    /// Into `out`; `ranked` tells recommendations, which have a rank, from scores, which have none.
    pub fn begin(out: &'a mut dyn Write, format: Format, ranked: bool) -> io::Result<Self> {
        match (format, ranked) {
            (Format::JsonLines, _) => {}
            (Format::Csv, true) => out.write_all(b"line,user,rank,item,score,fallback\n")?,
            (Format::Csv, false) => out.write_all(b"line,user,item,score,fallback\n")?,
        }
        Ok(Results { out, format })
    }

    /// The recommendations for the request of line `line`.
    pub fn recommendation(&mut self, line: u64, result: &Recommendation) -> io::Result<()> {
        if self.format == Format::JsonLines {
            return self.json(result);
        }
        let (line, user) = (line.to_string(), result.user.as_deref().unwrap_or_default());
        let fallback = result.fallback.unwrap_or_default();
        for (index, scored) in result.items.iter().enumerate() {
            let (rank, score) = ((index + 1).to_string(), scored.score.to_string());
            self.csv(&[&line, user, &rank, &scored.item, &score, fallback])?;
        }
        Ok(())
    }

    /// The scores of `items` for the request of line `line`.
    pub fn scores(
        &mut self,
        line: u64,
        query: &Query,
        items: &[String],
        scores: &[Option<f32>],
    ) -> io::Result<()> {
        let fallback = query.is_empty().then_some(POPULARITY);
        let pairs = items.iter().map(String::as_str).zip(scores.iter().copied());
        if self.format == Format::JsonLines {
            let items = pairs.map(|(item, score)| ScoredItem { item, score }).collect();
            let user = query.user.as_deref();
            return self.json(&ScoredLine { user, items, unknown: &query.unknown, fallback });
        }
        let (line, user) = (line.to_string(), query.user.as_deref().unwrap_or_default());
        for (item, score) in pairs {
            let score = score.map(|score| score.to_string()).unwrap_or_default();
            self.csv(&[&line, user, item, &score, fallback.unwrap_or_default()])?;
        }
        Ok(())
    }

    /// In place of a result: what is wrong with the request of line `line`. CSV has no place for it.
    pub fn fault(&mut self, line: u64, fault: &Fault) -> io::Result<()> {
        match self.format {
            Format::JsonLines => {
                self.json(&FaultLine { line, user: fault.user.as_deref(), error: &fault.problem })
            }
            Format::Csv => Ok(()),
        }
    }

    fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self.out, value)?;
        self.out.write_all(b"\n")
    }

    fn csv(&mut self, fields: &[&str]) -> io::Result<()> {
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.out.write_all(b",")?;
            }
            if field.contains(['"', ',', '\n', '\r']) {
                write!(self.out, "\"{}\"", field.replace('"', "\"\""))?;
            } else {
                self.out.write_all(field.as_bytes())?;
            }
        }
        self.out.write_all(b"\n")
    }

    /// Hands on what is buffered, for somebody who waits.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Lets `fill` write to a file, or to standard output. An ordinary file is the old one until the new one is
/// whole; a reader that closes its pipe has had enough, and that is a good end.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_to(
    path: Option<&Path>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let Some(path) = path else {
        let outcome = buffered(io::stdout().lock(), fill);
        return heard_enough(outcome).map_err(Error::io("write", Path::new("standard output")));
    };
    let special = fs::metadata(path).is_ok_and(|about| !about.is_file());
    if !special {
        return files::replace(path, fill);
    }
    let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
    heard_enough(buffered(file, fill)).map_err(Error::io("write", path))
}

fn buffered(
    out: impl Write,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    let outcome = fill(&mut out).and_then(|()| out.flush());
    if outcome.is_err() {
        // What is left would be tried again when the buffer goes.
        let _ = out.into_parts();
    }
    outcome
}

fn heard_enough(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}
