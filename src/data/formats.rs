//! The parsers: two loops, one over delimited records and one over plain lines.

use std::io::{BufRead, BufReader};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::lines::{BUFFER, Text, read_error};
use super::sniff::{Columns, Layout, choose_columns, sniff, words};
use super::table::{Field, Table, TableBuilder};
use crate::config::{DataConfig, DataFormat};
use crate::data::thousands;
use crate::{Error, Result};

/// Reads a whole file.
pub(super) fn read(path: &Path, config: &DataConfig, progress: bool) -> Result<Table> {
    read_text(path, Text::open(path, progress)?, config)
}

/// Reads a whole text; `path` is its name in errors and hints at its format.
pub(super) fn read_text(path: &Path, mut text: Text, config: &DataConfig) -> Result<Table> {
    let (head, whole) = text.head(path)?;
    let layout = sniff(path, head, whole, config)?;
    match layout.format {
        DataFormat::Inter | DataFormat::Csv | DataFormat::UData => {
            Delimited { path, layout, config }.read(text)
        }
        DataFormat::RatingsDat | DataFormat::Pairs | DataFormat::Sequences => {
            Lines { path, format: layout.format, config }.read(text)
        }
    }
}

/// Records of fields between single-byte separators.
struct Delimited<'a> {
    path: &'a Path,
    layout: Layout,
    config: &'a DataConfig,
}

impl Delimited<'_> {
    fn read(&self, text: Text) -> Result<Table> {
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true) // field counts are checked here, with a better message
            .delimiter(self.layout.separator)
            .quoting(self.layout.format == DataFormat::Csv)
            // With its own CRLF rule the crate counts lines wrongly; `Rows` cuts carriage returns off.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER)
            .from_reader(text);
        let mut record = ByteRecord::new();
        let mut notes = Vec::new();
        let has_header = self.layout.format != DataFormat::UData;
        let mut header_read = false;
        let mut rows: Option<Rows> = None;
        // The line of the latest record, if that ends within a quote for all that one can see of it.
        let mut open_since = None;
        // Records of several lines, and where the first begins.
        let mut spanning = (0u64, 0u64);
        loop {
            let before = reader.position().line();
            match reader.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(self.read_error(before, error)),
            }
            let start = reader.position().byte();
            reader.get_mut().record_starts_at(start);
            if record.len() == 1 && record[0].trim_ascii().is_empty() {
                continue;
            }
            let rows = match &mut rows {
                Some(rows) => rows,
                none => {
                    let names = if has_header { self.header(&record)? } else { positions(&record) };
                    let opened = none.insert(self.open(names, &mut notes)?);
                    if has_header {
                        header_read = true;
                        continue;
                    }
                    opened
                }
            };
            // The record ends on the line before the one the reader has reached, unless a quote stayed open.
            let feeds = line_feeds(&record);
            let line = reader.position().line().saturating_sub(1 + feeds).max(before);
            rows.push(self, line, &record)?;
            open_since =
                record.iter().next_back().filter(|field| field.ends_with(b"\n")).map(|_| line);
            if feeds > 0 {
                spanning = (spanning.0 + 1, if spanning.0 == 0 { line } else { spanning.1 });
            }
        }
        if let Some(line) = open_since.filter(|_| !reader.get_ref().ends_with_quote()) {
            return Err(Error::Input {
                path: self.path.to_path_buf(),
                line: Some(line),
                column: None,
                problem: "a double quote opened here is never closed".to_string(),
                remedy: "close it, or double it if it belongs to the text".to_string(),
            });
        }
        if let (records @ 1.., first) = spanning {
            notes.push(format!(
                "records of several lines, in double quotes: {}, the first at line {first}",
                thousands(records)
            ));
        }
        let sha256 = reader.into_inner().sha256();
        let builder = match rows {
            Some(rows) => rows.builder,
            None => TableBuilder::new(self.path, false, None),
        };
        let mut table = builder.finish(sha256, header_read)?;
        table.notes.extend(notes);
        Ok(table)
    }

    fn header(&self, record: &ByteRecord) -> Result<Vec<String>> {
        let name = |(column, field): (usize, &[u8])| {
            let name = std::str::from_utf8(field).map_err(|_| Error::Input {
                path: self.path.to_path_buf(),
                line: Some(1),
                column: Some((column + 1).to_string()),
                problem: "the column's name is not valid UTF-8".to_string(),
                remedy: "convert the file, for example with `iconv -f latin1 -t utf-8`".to_string(),
            })?;
            Ok(name.trim().to_string())
        };
        record.iter().enumerate().map(name).collect()
    }

    fn open(&self, names: Vec<String>, notes: &mut Vec<String>) -> Result<Rows> {
        let columns = match self.layout.format {
            DataFormat::UData => Columns {
                width: 4,
                user: 0,
                item: 1,
                rating: self.config.rating_field.as_ref().map(|_| 2),
                time: self.config.time_field.as_ref().map(|_| 3),
            },
            format => choose_columns(self.path, &names, format, self.config, notes)?,
        };
        if columns.rating.is_none() {
            refuse_interval_without_rating(self.path, self.config)?;
        }
        if columns.time.is_none() {
            notes.push(NO_TIME.to_string());
        }
        let builder =
            TableBuilder::new(self.path, columns.time.is_some(), self.config.rating_interval);
        Ok(Rows { names, columns, builder })
    }

    fn read_error(&self, line: u64, error: csv::Error) -> Error {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => read_error(self.path, line, error),
            other => Error::Input {
                path: self.path.to_path_buf(),
                line: Some(line),
                column: None,
                problem: format!("{other:?}"),
                remedy: "mend the line".to_string(),
            },
        }
    }
}

const NO_TIME: &str = "no time column: the file's own order is taken for the order in time";

struct Rows {
    /// The header's names, or `1`, `2`, ...
    names: Vec<String>,
    columns: Columns,
    builder: TableBuilder,
}

impl Rows {
    fn push(&mut self, parser: &Delimited, line: u64, record: &ByteRecord) -> Result<()> {
        let columns = &self.columns;
        if record.len() != columns.width {
            return Err(self.wrong_width(parser, line, record));
        }
        // `choose_columns` keeps every index below the width, which `names` has too.
        let last = columns.width - 1;
        let field = |column: usize| {
            let text = &record[column];
            let text = if column == last { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
            Field { text, column: &self.names[column] }
        };
        self.builder.push(
            line,
            field(columns.user),
            field(columns.item),
            columns.rating.map(field),
            columns.time.map(field),
        )
    }

    fn wrong_width(&self, parser: &Delimited, line: u64, record: &ByteRecord) -> Error {
        let (has, wants) = (record.len(), self.columns.width);
        let separator = char::from(parser.layout.separator).escape_debug();
        let expected = match parser.layout.format {
            DataFormat::UData => format!("user, item, rating and time make {wants}"),
            _ => format!("the header has {wants}"),
        };
        let remedy = if line_feeds(record) > 0 {
            "a double quote opened here runs over several lines: close it, or double it if it belongs to an id"
                .to_string()
        } else if has < wants {
            format!(
                "complete the line, or set field_separator if fields do not end at `{separator}`"
            )
        } else {
            format!(
                "put ids that hold a `{separator}` into double quotes (CSV), or set field_separator"
            )
        };
        Error::Input {
            path: parser.path.to_path_buf(),
            line: Some(line),
            column: (has < wants).then(|| self.names.get(has).cloned()).flatten(),
            problem: format!("the line has {}, {expected}", counted(has)),
            remedy,
        }
    }
}

/// Names of the columns of a file without header.
fn positions(record: &ByteRecord) -> Vec<String> {
    (1..=record.len().max(4)).map(|column| column.to_string()).collect()
}

fn counted(fields: usize) -> String {
    format!("{fields} field{}", if fields == 1 { "" } else { "s" })
}

fn line_feeds(record: &ByteRecord) -> u64 {
    memchr::memchr_iter(b'\n', record.as_slice()).count() as u64
}

fn refuse_interval_without_rating(path: &Path, config: &DataConfig) -> Result<()> {
    if config.rating_interval.is_none() {
        return Ok(());
    }
    Err(Error::input(
        path,
        "val_interval asks for a range of ratings, but the file has no rating column",
        "set RATING_FIELD to the column that holds ratings, or leave val_interval out",
    ))
}

/// Lines whose fields are separated by `::` or by spaces and tabs.
struct Lines<'a> {
    path: &'a Path,
    format: DataFormat,
    config: &'a DataConfig,
}

impl Lines<'_> {
    fn read(&self, text: Text) -> Result<Table> {
        let dat = self.format == DataFormat::RatingsDat;
        if !dat {
            refuse_interval_without_rating(self.path, self.config)?;
        }
        let with_time = dat && self.config.time_field.is_some();
        let mut builder = TableBuilder::new(self.path, with_time, self.config.rating_interval);
        let mut reader = BufReader::with_capacity(BUFFER, text);
        let mut buffer = Vec::new();
        let mut consumed = 0;
        for number in 1.. {
            buffer.clear();
            let length = reader
                .read_until(b'\n', &mut buffer)
                .map_err(|error| read_error(self.path, number, error))?;
            if length == 0 {
                break;
            }
            consumed += length as u64;
            reader.get_mut().record_starts_at(consumed);
            let line = buffer.strip_suffix(b"\n").unwrap_or(&buffer);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() {
                continue;
            }
            match self.format {
                DataFormat::RatingsDat => self.push_ratings_dat(&mut builder, number, line)?,
                DataFormat::Pairs => self.push_pair(&mut builder, number, line)?,
                _ => self.push_sequence(&mut builder, number, line)?,
            }
        }
        builder.finish(reader.into_inner().sha256(), false)
    }

    fn push_ratings_dat(&self, builder: &mut TableBuilder, number: u64, line: &[u8]) -> Result<()> {
        let mut fields = [&b""[..]; 4];
        let mut count = 0;
        let mut start = 0;
        let ends = memchr::memmem::find_iter(line, b"::").chain([line.len()]);
        for end in ends {
            if let Some(field) = fields.get_mut(count) {
                *field = &line[start..end];
            }
            count += 1;
            start = end + 2;
        }
        if count != 4 {
            let problem =
                format!("the line has {}, `user::item::rating::time` has 4", counted(count));
            return Err(self.fault(number, problem, "complete the line, or set format"));
        }
        let [user, item, rating, time] = fields;
        let field = |text, column| Field { text, column };
        builder.push(
            number,
            field(user, "1 (user)"),
            field(item, "2 (item)"),
            self.config.rating_field.as_ref().map(|_| field(rating, "3 (rating)")),
            self.config.time_field.as_ref().map(|_| field(time, "4 (time)")),
        )
    }

    fn push_pair(&self, builder: &mut TableBuilder, number: u64, line: &[u8]) -> Result<()> {
        let mut fields = words(line);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(user), Some(item), None) => builder.push(
                number,
                Field { text: user, column: "1 (user)" },
                Field { text: item, column: "2 (item)" },
                None,
                None,
            ),
            _ => {
                let count = words(line).count();
                let problem = format!("the line has {}, `user item` has 2", counted(count));
                let remedy = "write one user and one item on every line, or set format to `sequences` if \
                              a line is a user followed by all its items";
                Err(self.fault(number, problem, remedy))
            }
        }
    }

    fn push_sequence(&self, builder: &mut TableBuilder, number: u64, line: &[u8]) -> Result<()> {
        let mut fields = words(line);
        let user = fields.next().unwrap_or_default();
        let mut any = false;
        for item in fields {
            any = true;
            let user = Field { text: user, column: "1 (user)" };
            builder.push(number, user, Field { text: item, column: "items" }, None, None)?;
        }
        if any {
            return Ok(());
        }
        let problem = "the line has 1 field, `user item item ...` has 2 at least";
        Err(self.fault(number, problem.to_string(), "add the user's items, or delete the line"))
    }

    fn fault(&self, line: u64, problem: String, remedy: &str) -> Error {
        Error::Input {
            path: self.path.to_path_buf(),
            line: Some(line),
            column: None,
            problem,
            remedy: remedy.to_string(),
        }
    }
}
