//! Reads configuration files. They may come from anywhere, so size, depth and alias replay are bounded.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Options, Spanned};

use super::resolve::{Entry, Place};
use super::value::{Value, shorten};
use crate::Error;

/// Largest configuration file, in bytes; a full one has about 4 KiB.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Deepest nesting of lists and mappings; `eval_args` needs 3.
const MAX_DEPTH: usize = 16;

/// Keys and values of the file at `path`, in the order written.
///
/// # Errors
/// [`Error::Input`] when the file cannot be read, is not UTF-8, not YAML, or not a mapping.
pub fn read(path: &Path) -> crate::Result<Vec<Entry>> {
    parse(&read_text(path)?, path)
}

/// Keys and values of `text`, which stands in the file at `path`.
///
/// # Errors
/// [`Error::Input`] when it is not YAML, or not a mapping.
pub fn parse(text: &str, path: &Path) -> crate::Result<Vec<Entry>> {
    let document: Document =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            let location = error.location();
            Error::Input {
                path: path.to_path_buf(),
                line: location.map(|l| l.line()).filter(|&line| line > 0),
                column: location.map(|l| l.column().to_string()),
                problem: problem(&error),
                remedy: "write one `key: value` a line, each key once; put values with \
                         special characters in quotes, such as \"[5,inf)\""
                    .to_string(),
            }
        })?;
    let entry = |(key, value): (Spanned<String>, Value)| Entry {
        place: Place::File { path: path.to_path_buf(), line: key.referenced.line() },
        key: key.value,
        value,
    };
    Ok(document.0.into_iter().map(entry).collect())
}

/// One value, as it could stand behind a key.
pub(super) fn parse_value(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, options())
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            // One more than allowed, so that the error says what is wrong.
            max_documents: 2,
            max_nodes: 20_000,
            max_events: 50_000,
            max_aliases: 100,
            max_recorded_anchor_events: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // `yes` and `y` may be column names; keys that want a truth value accept them as text.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
    }
}

/// What is wrong, in a sentence without the place, which [`Error::Input`] has its own room for.
fn problem(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error.without_snippet() {
        Yaml::AliasError { error, .. } => problem(error),
        Yaml::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{}` is given twice", shorten(key))
        }
        Yaml::MultipleDocuments { .. } => "more than one YAML document".to_string(),
        Yaml::Budget { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasExpansionLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. } => {
            "more values, nesting or aliases than any configuration has".to_string()
        }
        other => {
            let text = other.to_string();
            let line = text.lines().next().unwrap_or_default();
            let end = line.find(" at line ").unwrap_or(line.len());
            shorten(line[..end].trim_end_matches([':', ' ']))
        }
    }
}

fn read_text(path: &Path) -> crate::Result<String> {
    let unreadable = |error: std::io::Error| {
        Error::input(
            path,
            format!("cannot read this configuration file: {error}"),
            "name a YAML file that exists; settings on the command line look like --key=value",
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::input(
            path,
            format!("larger than {MAX_FILE_BYTES} bytes, so hardly a configuration file"),
            "name a YAML file; interaction files are given by --dataset=PATH",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Error::Input {
            path: path.to_path_buf(),
            line: Some(line as u64),
            column: None,
            problem: "not UTF-8 text".to_string(),
            remedy: "save the file as UTF-8".to_string(),
        }
    })
}

/// The top level of a file, with the line of each key.
struct Document(Vec<(Spanned<String>, Value)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of keys to values")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Document, E> {
        Ok(Document(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Document, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Document(entries))
    }
}
