//! What every subcommand reports, for people and for programs: tables of rows with named columns, beside the
//! machine, the commit and the command that they come from.

use super::bars::Bars;
use super::machine::{self, Machine};
use crate::data::thousands;
use crate::train::files;
use crate::train::results::distinct;
use crate::{Error, Result};
use clap::{Arg, ArgMatches, value_parser};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One table.
#[derive(Clone, Debug, PartialEq)]
struct Rows {
    name: &'static str,
    rows: Vec<Map<String, Value>>,
}

/// Everything that a subcommand has to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    benchmark: &'static str,
    command: String,
    commit: Option<String>,
    machine: Machine,
    tables: Vec<Rows>,
    notes: Vec<String>,
    chart: Option<Bars>,
}

/// Flags that say where a report goes besides the terminal.
pub fn arguments() -> [Arg; 3] {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    [
        file(
            "json",
            "Write everything as JSON into this file; `-`: to stdout, in place of the tables",
        ),
        file("csv", "Write all rows as CSV into this file; `-`: to stdout, in place of the tables"),
        file("svg", "Draw a chart into this file"),
    ]
}

impl Report {
    /// Empty, of this subcommand.
    pub fn new(benchmark: &'static str) -> Self {
        Report {
            benchmark,
            command: std::env::args().map(|word| quoted(&word)).collect::<Vec<_>>().join(" "),
            commit: machine::commit(),
            machine: Machine::this(),
            tables: Vec::new(),
            notes: Vec::new(),
            chart: None,
        }
    }

    /// Adds a table whose columns are the fields of `T`, in order.
    pub fn table<T: Serialize>(&mut self, name: &'static str, rows: &[T]) {
        let row = |row| match serde_json::to_value(row) {
            Ok(Value::Object(fields)) => fields,
            // A row is a struct of plain values.
            Ok(other) => Map::from_iter([("value".to_string(), other)]),
            Err(error) => Map::from_iter([("error".to_string(), error.to_string().into())]),
        };
        self.tables.push(Rows { name, rows: rows.iter().map(row).collect() });
    }

    /// Adds a sentence that stands below the tables.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// What `--svg` draws.
    pub fn chart(&mut self, chart: Bars) {
        self.chart = Some(chart);
    }

    /// Writes the files that `arguments` name, and to stdout what they leave for it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, arguments: &ArgMatches) -> Result<()> {
        let mut stdout = self.for_people();
        let mut failed = None;
        for name in ["json", "csv", "svg"] {
            let Some(path) = arguments.get_one::<PathBuf>(name) else { continue };
            let text = match name {
                "json" => Ok(format!("{:#}\n", self.as_json())),
                "csv" => self.as_csv(),
                _ => self.as_svg(path),
            };
            let written = match text {
                Ok(text) if path.as_os_str() == "-" => {
                    stdout = text;
                    Ok(())
                }
                Ok(text) => files::replace(path, |out| out.write_all(text.as_bytes())),
                Err(error) => Err(error),
            };
            // What was measured for hours goes wherever it can.
            failed = failed.or(written.err());
        }
        let mut out = std::io::stdout().lock();
        let written = out.write_all(stdout.as_bytes()).and_then(|()| out.flush());
        written.map_err(Error::io("write", Path::new("stdout")))?;
        failed.map_or(Ok(()), Err)
    }

    /// As `docs/bench.schema.json` describes.
    pub fn as_json(&self) -> Value {
        let tables = self.tables.iter().map(|table| {
            let rows = table.rows.iter().cloned().map(Value::Object).collect();
            (table.name.to_string(), Value::Array(rows))
        });
        json!({
            "benchmark": self.benchmark,
            "command": self.command,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": self.commit,
            "machine": self.machine,
            "tables": Value::Object(tables.collect()),
            "notes": self.notes,
        })
    }

    /// All rows of all tables under the columns of all, and what they come from.
    fn as_csv(&self) -> Result<String> {
        let columns = distinct(self.tables.iter().flat_map(columns));
        let own = ["table", "command", "commit", "machine"];
        let machine = self.machine.to_string();
        let mut writer = csv::Writer::from_writer(Vec::new());
        let wrong = |error: csv::Error| Error::io("lay out", Path::new("CSV"))(error.into());
        writer.write_record(own.iter().chain(&columns)).map_err(wrong)?;
        for table in &self.tables {
            for row in &table.rows {
                let commit = self.commit.as_deref().unwrap_or_default();
                let mut record =
                    [table.name, &self.command, commit, &machine].map(String::from).to_vec();
                record.extend(columns.iter().map(|&column| match row.get(column) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(value) => value.to_string(),
                }));
                writer.write_record(&record).map_err(wrong)?;
            }
        }
        let bytes = writer.into_inner().map_err(|error| {
            Error::io("lay out", Path::new("CSV"))(std::io::Error::other(error.to_string()))
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn as_svg(&self, path: &Path) -> Result<String> {
        let Some(chart) = &self.chart else {
            return Err(Error::config("svg", "there is nothing to draw", "leave --svg out"));
        };
        chart
            .to_svg(&self.origin())
            .map_err(|error| Error::io("draw", path)(std::io::Error::other(error.to_string())))
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text.push_str(&format!("{}\n\n{}\n\n", table.name, laid_out(table)));
        }
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        text.push_str(&format!("{}\n", self.origin().join("\n")));
        text
    }

    /// Machine and commit, and the command.
    fn origin(&self) -> [String; 2] {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        [format!("{}; commit {commit}", self.machine), self.command.clone()]
    }
}

/// Columns of a table in the order in which its rows bring them.
fn columns(table: &Rows) -> Vec<&str> {
    distinct(table.rows.iter().flat_map(|row| row.keys()).map(String::as_str))
}

fn laid_out(rows: &Rows) -> Table {
    let columns = columns(rows);
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(columns.iter().map(|column| column.replace('_', " ")));
    for row in &rows.rows {
        table.add_row(columns.iter().map(|&column| cell(row.get(column).unwrap_or(&Value::Null))));
    }
    for (index, &name) in columns.iter().enumerate() {
        let is_number = rows.rows.iter().any(|row| row.get(name).is_some_and(Value::is_number));
        if let Some(column) = table.column_mut(index).filter(|_| is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A value for people: three digits that say something.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => thousands(whole),
            (None, Some(x)) => match x.abs() {
                size if size >= 1000.0 => thousands(x.round() as u64),
                size if size >= 100.0 => format!("{x:.0}"),
                size if size >= 10.0 => format!("{x:.1}"),
                size if size >= 1.0 => format!("{x:.2}"),
                _ => format!("{x:.3}"),
            },
            (None, None) => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A word as a shell would take it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_say_something() {
        let cells = [
            json!(1234567),
            json!(1234.56),
            json!(123.45),
            json!(12.345),
            json!(1.2345),
            json!(0.01234),
            json!(null),
        ];
        assert_eq!(
            cells.map(|value| cell(&value)),
            ["1,234,567", "1,235", "123", "12.3", "1.23", "0.012", "-"]
        );
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(
            ["a-b=c", "", "a b", "it's"].map(quoted),
            ["a-b=c", "''", "'a b'", r"'it'\''s'"]
        );
    }
}
