//! A text file as a bounded stream: decompressed, hashed and limited while it is read once.
//!
//! Files are streamed and never mapped into memory: a mapped file that another program cuts short kills
//! the reader with SIGBUS, while a stream merely ends early, which is an ordinary parse error.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Longest line (or quoted record) that is read, in bytes.
pub(super) const MAX_LINE: u64 = 16 << 20;
/// How much is looked at to recognise a format, in bytes.
const HEAD: usize = 64 << 10;
/// Largest read-ahead of the parsers above this reader, in bytes.
pub(super) const BUFFER: usize = 64 << 10;
/// From this many bytes on, a gzip file that expands more than [`BOMB_RATIO`] times is refused.
const BOMB_START: u64 = 64 << 20;
/// Interaction logs shrink 3 to 20 times; only made-up files come near the 1,000 that gzip can reach.
const BOMB_RATIO: u64 = 200;
/// Smaller files are read before a bar could be seen.
const BAR_FROM: u64 = 16 << 20;

/// A refusal by the reader itself, carried through [`io::Error`] and the parsers above.
#[derive(Debug)]
struct Refusal {
    problem: String,
    remedy: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Refusal {}

/// Makes the crate's error out of a failed read of `path` in or after line `line`.
pub(super) fn read_error(path: &Path, line: u64, error: io::Error) -> Error {
    let (problem, remedy) =
        if let Some(refusal) = error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()) {
            (refusal.problem.clone(), refusal.remedy)
        } else {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => (
                    "the gzip file is cut short, or followed by other data".to_string(),
                    "copy or download the file again; `gzip -t` tells whether it is whole",
                ),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => (
                    format!("the gzip data is damaged ({error})"),
                    "copy or download the file again; `gzip -t` tells whether it is whole",
                ),
                _ => {
                    return Error::Io { action: "read", path: path.to_path_buf(), source: error };
                }
            }
        };
    Error::Input {
        path: path.to_path_buf(),
        line: Some(line),
        column: None,
        problem,
        remedy: remedy.to_string(),
    }
}

/// Counts what is read from the file itself, before decompression.
struct Counted {
    inner: Box<dyn Read>,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

enum Source {
    Plain(Counted),
    Gzip(Box<MultiGzDecoder<Counted>>),
}

/// The uncompressed text of a file. Reading it yields the text without byte-order mark and always with a
/// final line feed, so that parsers need not treat the last line apart.
pub(super) struct Text {
    source: Source,
    hasher: Sha256,
    /// Uncompressed bytes taken from the source.
    taken: u64,
    /// What [`Text::head`] has read ahead, and how much of it was handed out.
    head: Vec<u8>,
    head_used: usize,
    /// Bytes handed out, and where in them the current record begins.
    given: u64,
    record_start: u64,
    /// The latest bytes handed out: a quote, a carriage return and a line feed at the most interesting.
    latest: [u8; 3],
    bar: ProgressBar,
}

impl Text {
    /// Opens a file of any kind that can be read from front to back.
    pub(super) fn open(path: &Path, progress: bool) -> Result<Self> {
        let file = File::open(path).map_err(|error| cannot_open(path, &error.to_string()))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            return Err(cannot_open(path, "it is a folder"));
        }
        let bar = if progress && metadata.len() >= BAR_FROM {
            progress_bar(metadata.len(), "reading")
        } else {
            ProgressBar::hidden()
        };
        let mut text = Text::new(bar.wrap_read(file), path)?;
        text.bar = bar;
        Ok(text)
    }

    /// Reads plain or gzip text, told apart by the first bytes rather than the name.
    pub(super) fn new(mut file: impl Read + 'static, path: &Path) -> Result<Self> {
        let mut magic = Vec::with_capacity(2);
        file.by_ref()
            .take(2)
            .read_to_end(&mut magic)
            .map_err(|error| read_error(path, 1, error))?;
        let gzip = magic == [0x1f, 0x8b];
        let counted = Counted { inner: Box::new(Cursor::new(magic).chain(file)), bytes: 0 };
        let source = if gzip {
            Source::Gzip(Box::new(MultiGzDecoder::new(counted)))
        } else {
            Source::Plain(counted)
        };
        Ok(Text {
            source,
            hasher: Sha256::new(),
            taken: 0,
            head: Vec::new(),
            head_used: 0,
            given: 0,
            record_start: 0,
            latest: [b'\n'; 3],
            bar: ProgressBar::hidden(),
        })
    }

    /// The first bytes of the text, without consuming them; the second value tells whether that is all.
    pub(super) fn head(&mut self, path: &Path) -> Result<(&[u8], bool)> {
        let mut head = vec![0; HEAD];
        let mut length = 0;
        while length < HEAD {
            match self.take_from_source(&mut head[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let line = 1 + memchr::memchr_iter(b'\n', &head[..length]).count() as u64;
                    return Err(read_error(path, line, error));
                }
            }
        }
        head.truncate(length);
        self.head = head;
        self.head_used = if self.head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Ok((&self.head[self.head_used..], length < HEAD))
    }

    /// Tells where the record now being read begins, counted in bytes handed out: the limit on its length
    /// counts from there.
    pub(super) fn record_starts_at(&mut self, byte: u64) {
        self.record_start = byte;
    }

    /// Whether what was handed out so far ends with a line that ends with a double quote.
    pub(super) fn ends_with_quote(&self) -> bool {
        matches!(self.latest, [_, b'"', b'\n'] | [b'"', b'\r', b'\n'])
    }

    /// SHA-256 of the whole uncompressed text, once it has been read to its end.
    pub(super) fn sha256(self) -> String {
        self.bar.finish_and_clear();
        hex(&self.hasher.finalize())
    }

    fn take_from_source(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.source {
            Source::Plain(reader) => reader.read(buffer)?,
            Source::Gzip(reader) => reader.read(buffer)?,
        };
        self.hasher.update(&buffer[..n]);
        self.taken += n as u64;
        if let Source::Gzip(reader) = &self.source {
            let compressed = reader.get_ref().bytes;
            if self.taken > BOMB_START && self.taken / BOMB_RATIO > compressed {
                return Err(io::Error::other(Refusal {
                    problem: format!(
                        "the gzip file expands more than {BOMB_RATIO} times: this is no interaction log"
                    ),
                    remedy: "if it really is one, unpack it with gunzip and give the unpacked file",
                }));
            }
        }
        Ok(n)
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.given - self.record_start > MAX_LINE + 2 * BUFFER as u64 {
            return Err(io::Error::other(Refusal {
                problem: format!("the line is longer than {} MiB", MAX_LINE >> 20),
                remedy: "split the line; if a double quote was opened and never closed, close it",
            }));
        }
        let rest = &self.head[self.head_used..];
        let mut n = if rest.is_empty() {
            self.take_from_source(buffer)?
        } else {
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            self.head_used += n;
            n
        };
        if n == 0 && self.latest[2] != b'\n' {
            buffer[0] = b'\n';
            n = 1;
        }
        for &byte in &buffer[n.saturating_sub(3)..n] {
            self.latest = [self.latest[1], self.latest[2], byte];
        }
        self.given += n as u64;
        Ok(n)
    }
}

/// A bar in bytes; drawn only on a terminal.
pub(super) fn progress_bar(length: u64, verb: &'static str) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(verb)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cannot_open(path: &Path, why: &str) -> Error {
    Error::input(
        path,
        format!("cannot be opened: {why}"),
        "give the path of a readable interaction file, or a known data set's name",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn hash_is_of_the_text_as_stored_and_a_final_line_feed_is_added() {
        let stored = b"\xef\xbb\xbfa b".to_vec();
        let want = hex(&Sha256::digest(&stored));
        for bytes in [stored.clone(), gzip(&stored)] {
            let mut text = Text::new(Cursor::new(bytes), Path::new("f")).unwrap();
            assert_eq!(text.head(Path::new("f")).unwrap(), (&b"a b"[..], true));
            let mut read = String::new();
            text.read_to_string(&mut read).unwrap();
            assert_eq!(read, "a b\n");
            assert_eq!(text.sha256(), want);
        }
    }

    #[test]
    fn a_gzip_bomb_is_refused_soon_after_the_first_64_mib() {
        let bomb = gzip(&b"1 2\n".repeat(24 << 20));
        let mut text = Text::new(Cursor::new(bomb), Path::new("f")).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        let error = loop {
            match text.read(&mut buffer) {
                Ok(0) => panic!("read to the end"),
                Ok(n) => total += n as u64,
                Err(error) => break error,
            }
            text.record_starts_at(total);
        };
        assert!(total <= BOMB_START + (1 << 16));
        let message = read_error(Path::new("f"), 1, error).to_string();
        assert!(message.contains("200 times"), "{message}");
    }
}
