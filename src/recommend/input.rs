//! Requests, one after another: JSON lines, CSV, or an interaction file.
//!
//! The first two are read line by line in constant memory, and a line that is damaged is a [`Fault`] of its
//! own: the next line begins at the next line feed, whatever stands before it. An interaction file has to be
//! read whole, since a user's lines may stand anywhere in it.

use super::request_lines::{Columns, csv_line, json_line};
use crate::config::DataConfig;
use crate::data::{self, Histories};
use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Longest line, in bytes.
const LONGEST_LINE: usize = 16 << 20;
/// Read-ahead, in bytes.
const BUFFER: usize = 256 << 10;
/// How much is looked at to recognise a format, in bytes.
const HEAD: usize = 64 << 10;
/// The name of standard input in messages.
const STDIN: &str = "standard input";

/// How requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    JsonLines,
    /// A header with `user`, `history` or `items`, and a line a request.
    Csv,
    /// Any format that training reads, one request for each of its users.
    Interactions,
}

/// One request as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Who it is.
    pub user: Option<String>,
    /// Items, oldest first; `None` stands for what the run holds of the user.
    pub history: Option<Vec<String>>,
    /// Items to be scored.
    pub items: Option<Vec<String>>,
}

/// A request that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who it is, where that much is known.
    pub user: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

/// A request and its line number (of an interaction file: the user's number), from 1.
pub type Numbered = (u64, std::result::Result<Asked, Fault>);

/// Where requests come from.
pub struct Source {
    name: PathBuf,
    kind: Kind,
    /// Whether somebody types the requests and waits for each answer.
    pub interactive: bool,
    /// How far reading has come; drawn where asked for.
    pub bar: ProgressBar,
}

enum Kind {
    Lines { reader: BufReader<Box<dyn Read>>, columns: Option<Columns>, line: Vec<u8>, number: u64 },
    Users { histories: Histories, next: usize, scoring: bool },
}

impl Source {
    /// Opens a file, or standard input. `format` `None` judges by the first line; `data` says what the columns
    /// of an interaction file are called.
    ///
    /// # Errors
    /// [`Error::Input`] where it cannot be opened or has no usable header.
    pub fn open(
        path: Option<&Path>,
        format: Option<Format>,
        data: &DataConfig,
        progress: bool,
    ) -> Result<Self> {
        let name = path.unwrap_or(Path::new(STDIN)).to_path_buf();
        let interactive = path.is_none() && io::stdin().is_terminal();
        let bar = if progress && !interactive { progress_bar(path) } else { ProgressBar::hidden() };
        let raw: Box<dyn Read> = match path {
            Some(path) => Box::new(bar.wrap_read(open_file(path)?)),
            None => Box::new(bar.wrap_read(io::stdin())),
        };
        let read_error = |error| Error::io("read", &name)(error);
        let (mut head, mut raw) = with_head(raw).map_err(read_error)?;
        if head.starts_with(&[0x1f, 0x8b]) {
            (head, raw) = with_head(Box::new(MultiGzDecoder::new(raw))).map_err(read_error)?;
        }
        let format = format.unwrap_or_else(|| sniff(&head));
        if format == Format::Interactions {
            let data = DataConfig {
                format: None,
                rating_field: None,
                rating_interval: None,
                ..data.clone()
            };
            let histories = data::histories(raw, &name, &data)?;
            let bar = if progress { users_bar(histories.users.len()) } else { bar };
            let kind = Kind::Users { histories, next: 0, scoring: false };
            return Ok(Source { name, kind, interactive, bar });
        }
        let reader = BufReader::with_capacity(BUFFER, raw);
        let kind = Kind::Lines { reader, columns: None, line: Vec::new(), number: 0 };
        let mut source = Source { name, kind, interactive, bar };
        if format == Format::Csv {
            source.read_header()?;
        }
        Ok(source)
    }

    /// Takes the items of an interaction file for what is to be scored, not for histories.
    pub fn scoring(mut self) -> Self {
        if let Kind::Users { scoring, .. } = &mut self.kind {
            *scoring = true;
        }
        self
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &Path {
        &self.name
    }

    fn read_header(&mut self) -> Result<()> {
        let fault = |problem: String| Error::Input {
            path: self.name.clone(),
            line: Some(1),
            column: None,
            problem,
            remedy: "write a header such as `user,history`, or set --input-format".to_string(),
        };
        let Kind::Lines { reader, columns, line, number } = &mut self.kind else { return Ok(()) };
        let outcome = read_line(reader, line).map_err(Error::io("read", &self.name))?;
        *number = 1;
        let header = match outcome {
            Outcome::End => return Err(fault("there is no header".to_string())),
            Outcome::TooLong => return Err(fault(too_long())),
            Outcome::Line => trimmed(line, 1),
        };
        *columns = Some(Columns::of_header(header).map_err(fault)?);
        Ok(())
    }

    /// The next request; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read on.
    pub fn next(&mut self) -> Result<Option<Numbered>> {
        match &mut self.kind {
            Kind::Users { histories, next, scoring } => {
                let user = *next;
                *next += 1;
                self.bar.inc(1);
                let asked =
                    (user < histories.users.len()).then(|| asked_of(histories, user, *scoring));
                Ok(asked.map(|asked| (user as u64 + 1, Ok(asked))))
            }
            Kind::Lines { reader, columns, line, number } => loop {
                let outcome = read_line(reader, line).map_err(Error::io("read", &self.name))?;
                *number += 1;
                let parsed = match outcome {
                    Outcome::End => return Ok(None),
                    Outcome::TooLong => Err(Fault { user: None, problem: too_long() }),
                    Outcome::Line => {
                        let line = trimmed(line, *number);
                        if line.trim_ascii().is_empty() {
                            continue;
                        }
                        match columns {
                            None => json_line(line),
                            Some(columns) => csv_line(line, columns),
                        }
                        .map_err(|problem| Fault { user: None, problem })
                    }
                };
                return Ok(Some((*number, parsed)));
            },
        }
    }
}

fn asked_of(histories: &Histories, user: usize, scoring: bool) -> Asked {
    let items = histories.sequences.get(user).iter();
    let items = items.map(|&item| histories.items.get(item as usize - 1).to_string());
    let (user, items) = (Some(histories.users.get(user).to_string()), Some(items.collect()));
    if scoring {
        Asked { user, history: None, items }
    } else {
        Asked { user, history: items, items: None }
    }
}

fn open_file(path: &Path) -> Result<File> {
    let remedy = "give a file of requests, or `-` for standard input";
    let file = File::open(path)
        .map_err(|error| Error::input(path, format!("cannot be opened: {error}"), remedy))?;
    match file.metadata() {
        Ok(about) if about.is_dir() => Err(Error::input(path, "is a folder", remedy)),
        _ => Ok(file),
    }
}

/// The first bytes, to the end of the first line at least where that is near, and a reader of everything.
fn with_head(mut reader: Box<dyn Read>) -> io::Result<(Vec<u8>, Box<dyn Read>)> {
    let mut head = vec![0; HEAD];
    let mut length = 0;
    while length < HEAD && memchr::memchr(b'\n', &head[..length]).is_none() {
        match reader.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(length);
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

/// Judges by the first line.
fn sniff(head: &[u8]) -> Format {
    let line = head.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let line = trimmed(line.unwrap_or_default(), 1).trim_ascii_start();
    if line.is_empty() || line.starts_with(b"{") {
        Format::JsonLines
    } else if Columns::of_header(line).is_ok() {
        Format::Csv
    } else {
        Format::Interactions
    }
}

enum Outcome {
    Line,
    TooLong,
    End,
}

/// Reads up to the next line feed, keeping no more than [`LONGEST_LINE`].
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Outcome> {
    line.clear();
    let (mut any, mut whole) = (false, true);
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = memchr::memchr(b'\n', available);
        let part = &available[..end.unwrap_or(available.len())];
        let used = part.len() + usize::from(end.is_some());
        if used == 0 {
            break;
        }
        any = true;
        whole &= line.len() + part.len() <= LONGEST_LINE;
        if whole {
            line.extend_from_slice(part);
        }
        reader.consume(used);
        if end.is_some() {
            break;
        }
    }
    Ok(match (any, whole) {
        (false, _) => Outcome::End,
        (true, false) => Outcome::TooLong,
        (true, true) => Outcome::Line,
    })
}

/// A line without carriage return and, where it is the first, byte-order mark.
fn trimmed(line: &[u8], number: u64) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line }
}

fn too_long() -> String {
    format!("the line is longer than {} MiB", LONGEST_LINE >> 20)
}

fn progress_bar(path: Option<&Path>) -> ProgressBar {
    let length = path.and_then(|path| path.metadata().ok()).filter(|about| about.is_file());
    match length {
        Some(about) => styled(
            ProgressBar::new(about.len()),
            "{wide_bar} {bytes}/{total_bytes} [{elapsed}, {eta} left] {msg}",
        ),
        None => styled(ProgressBar::no_length(), "{spinner} {bytes} [{elapsed}] {msg}"),
    }
}

fn users_bar(users: usize) -> ProgressBar {
    styled(ProgressBar::new(users as u64), "{wide_bar} {pos}/{len} users [{elapsed}, {eta} left]")
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
