//! Which format a file has, judged by its first lines, and which of its columns are wanted.

use std::path::Path;

use super::table::{parse_number, shorten};
use crate::config::{DataConfig, DataFormat};
use crate::{Error, Result};

/// How a file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub format: DataFormat,
    /// Between fields of [`DataFormat::Inter`], [`DataFormat::Csv`] and [`DataFormat::UData`].
    pub separator: u8,
}

/// Where the wanted columns stand, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub width: usize,
    pub user: usize,
    pub item: usize,
    pub rating: Option<usize>,
    pub time: Option<usize>,
}

const USER_ALIASES: [&str; 5] = ["userId", "user", "uid", "user_id", "session_id"];
const ITEM_ALIASES: [&str; 5] = ["movieId", "item", "iid", "itemId", "item_id"];
const RATING_ALIASES: [&str; 1] = ["rating"];
const TIME_ALIASES: [&str; 3] = ["timestamp", "time", "ts"];
const TYPES: [&str; 4] = ["token", "token_seq", "float", "float_seq"];
/// A column of nothing but larger numbers is taken for seconds since 1970.
const EARLIEST_TIME: f64 = 1e8;

/// Judges the first lines. `whole`: whether `head` is the whole text.
pub(super) fn sniff(path: &Path, head: &[u8], whole: bool, config: &DataConfig) -> Result<Layout> {
    refuse_binary(path, head)?;
    let lines = whole_lines(head, whole);
    let Some(first) = lines.iter().copied().find(|line| !line.trim_ascii().is_empty()) else {
        // Nothing to judge: the parser will say that the file is empty.
        let separator = separator(config, b'\t')?;
        return Ok(Layout { format: config.format.unwrap_or(DataFormat::Csv), separator });
    };
    let found = likely_separator(first);
    let format = match config.format {
        Some(format) => format,
        None => guess(path, first, &lines, separator(config, found)?, config)?,
    };
    Ok(Layout { format, separator: separator(config, found)? })
}

fn guess(
    path: &Path,
    first: &[u8],
    lines: &[&[u8]],
    separator: u8,
    config: &DataConfig,
) -> Result<DataFormat> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let header: Vec<String> = fields(first, separator);
    if name.ends_with(".inter") || header.iter().all(|name| split_type(name).1.is_some()) {
        return Ok(DataFormat::Inter);
    }
    let is_named = |name: &str, aliases: &[&str]| {
        header.iter().any(|h| h == name || aliases.iter().any(|a| a.eq_ignore_ascii_case(h)))
    };
    let has_header =
        is_named(&config.user_field, &USER_ALIASES) || is_named(&config.item_field, &ITEM_ALIASES);
    if !has_header && lines.iter().any(|line| memchr::memmem::find_iter(line, b"::").count() == 3) {
        return Ok(DataFormat::RatingsDat);
    }
    let delimited = matches!(separator, b',' | b';' | b'|');
    if has_header || delimited || name.ends_with(".csv") || name.ends_with(".tsv") {
        return Ok(DataFormat::Csv);
    }
    let rows = lines.iter().map(|line| words(line).collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|row| !row.is_empty()).collect();
    // Names the user did not tell us about: the parser will list them.
    if looks_like_header(&rows) { Ok(DataFormat::Csv) } else { guess_without_header(path, &rows) }
}

/// Whether a column is numeric everywhere but in the first row.
fn looks_like_header(rows: &[Vec<&[u8]>]) -> bool {
    let Some((first, rest)) = rows.split_first().filter(|(_, rest)| rest.len() >= 2) else {
        return false;
    };
    let is_number = |field: &[u8]| parse_number(field).is_some();
    rest.iter().all(|row| row.len() == first.len())
        && (0..first.len()).any(|column| {
            !is_number(first[column]) && rest.iter().all(|row| is_number(row[column]))
        })
}

/// Tells files of bare ids, separated by spaces or tabs, apart. Most lines decide, so that a damaged one is
/// an error of the format rather than a line of another.
fn guess_without_header(path: &Path, rows: &[Vec<&[u8]>]) -> Result<DataFormat> {
    let mut widths: Vec<usize> = rows.iter().map(Vec::len).collect();
    widths.sort_unstable();
    let width = widths.get(widths.len() / 2).copied().unwrap_or(0);
    let usual: Vec<_> = rows.iter().filter(|row| row.len() == width).collect();
    let mostly = 2 * usual.len() > rows.len();
    let last_within = |low: f64, high: f64| {
        let mut last = usual.iter().filter_map(|row| row.last());
        last.all(|field| parse_number(field).is_some_and(|x| x >= low && x <= high))
    };
    let looks_timed = mostly && width >= 3 && last_within(EARLIEST_TIME, f64::MAX);
    let looks_rated = mostly && width == 3 && usual.len() >= 8 && last_within(0.0, 10.0);
    match width {
        4 if looks_timed => Ok(DataFormat::UData),
        _ if looks_timed || looks_rated => Err(Error::Input {
            path: path.to_path_buf(),
            line: Some(1),
            column: Some(width.to_string()),
            problem: format!(
                "{width} columns without a header, the last of which looks like a {}",
                if looks_timed { "time" } else { "rating" }
            ),
            remedy:
                "put a header line such as `user_id item_id timestamp` on top, or, if all columns \
                     but the first are items, set format to `sequences`"
                    .to_string(),
        }),
        2 if usual.len() == rows.len() => Ok(DataFormat::Pairs),
        2 if 4 * usual.len() > 3 * rows.len() && users_repeat(rows) => Ok(DataFormat::Pairs),
        _ => Ok(DataFormat::Sequences),
    }
}

/// Whether a user has several lines, as in files of pairs and hardly in files of sequences.
fn users_repeat(rows: &[Vec<&[u8]>]) -> bool {
    let mut users: Vec<&[u8]> = rows.iter().filter_map(|row| row.first().copied()).collect();
    users.sort_unstable();
    users.windows(2).any(|pair| pair[0] == pair[1])
}

/// Finds the wanted columns in a header; remarks about columns that are not there go to `notes`.
pub(super) fn choose_columns(
    path: &Path,
    header: &[String],
    format: DataFormat,
    config: &DataConfig,
    notes: &mut Vec<String>,
) -> Result<Columns> {
    let names = column_names(path, header, format)?;
    let default = DataConfig::default();
    let find = |name: &str, default: &str, key: &str, aliases: &[&str]| {
        find_column(path, &names, name, name == default, key, aliases)
    };
    let required = |name: &str, default: &str, key: &str, aliases: &[&str]| {
        find(name, default, key, aliases)?.ok_or_else(|| missing(path, &names, name, key))
    };
    let optional =
        |name: &Option<String>, default: &Option<String>, key: &str, aliases: &[&str]| {
            let Some(name) = name else { return Ok(None) };
            match find(name, default.as_deref().unwrap_or_default(), key, aliases)? {
                None if Some(name) != default.as_ref() => Err(missing(path, &names, name, key)),
                found => Ok(found),
            }
        };
    let user = required(&config.user_field, &default.user_field, "USER_ID_FIELD", &USER_ALIASES)?;
    let item = required(&config.item_field, &default.item_field, "ITEM_ID_FIELD", &ITEM_ALIASES)?;
    let rating =
        optional(&config.rating_field, &default.rating_field, "RATING_FIELD", &RATING_ALIASES)?;
    let time = optional(&config.time_field, &default.time_field, "TIME_FIELD", &TIME_ALIASES)?;
    if user == item {
        return Err(Error::config(
            "ITEM_ID_FIELD",
            format!("`{}` is the user column as well", names[item]),
            "name two different columns",
        ));
    }
    let wanted = [
        (Some(user), Some(&config.user_field)),
        (Some(item), Some(&config.item_field)),
        (rating, config.rating_field.as_ref()),
        (time, config.time_field.as_ref()),
    ];
    for (found, asked) in wanted {
        if let (Some(found), Some(asked)) = (found, asked)
            && names[found] != asked.as_str()
        {
            notes.push(format!("column `{}` is taken for `{asked}`", names[found]));
        }
    }
    Ok(Columns { width: names.len(), user, item, rating, time })
}

fn find_column(
    path: &Path,
    names: &[&str],
    name: &str,
    is_default: bool,
    key: &str,
    aliases: &[&str],
) -> Result<Option<usize>> {
    let mut exact = names.iter().enumerate().filter(|(_, n)| **n == name).map(|(i, _)| i);
    if let Some(column) = exact.next() {
        if exact.next().is_some() {
            return Err(Error::Input {
                path: path.to_path_buf(),
                line: Some(1),
                column: Some(name.to_string()),
                problem: "the header names this column twice".to_string(),
                remedy: format!("rename one of the two, or set {key} to another column"),
            });
        }
        return Ok(Some(column));
    }
    // Other names are guessed only for a user who chose none.
    let alias = aliases.iter().filter(|_| is_default);
    Ok(alias.into_iter().find_map(|a| names.iter().position(|n| n.eq_ignore_ascii_case(a))))
}

fn missing(path: &Path, names: &[&str], name: &str, key: &str) -> Error {
    /// Most names that a message lists.
    const SHOWN: usize = 20;
    let there = names.iter().take(SHOWN).map(|name| format!("`{}`", shorten(name.as_bytes())));
    let mut there = there.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        there.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    Error::Input {
        path: path.to_path_buf(),
        line: Some(1),
        column: Some(name.to_string()),
        problem: format!("there is no such column; the header has {there}"),
        remedy: format!(
            "set {key} to one of them, field_separator if the line was cut at the wrong character, or \
             format if the file has no header"
        ),
    }
}

/// The header's names, without RecBole's types.
fn column_names<'a>(path: &Path, header: &'a [String], format: DataFormat) -> Result<Vec<&'a str>> {
    if format != DataFormat::Inter {
        return Ok(header.iter().map(String::as_str).collect());
    }
    let name_of = |field: &'a String| {
        match split_type(field) {
        (name, Some(_)) => Ok(name),
        (name, None) => Err(Error::Input {
            path: path.to_path_buf(),
            line: Some(1),
            column: Some(shorten(name.as_bytes())),
            problem: "the header of an .inter file is `name:type` in every column, this one is not"
                .to_string(),
            remedy: "write for example `user_id:token`, `item_id:token`, `timestamp:float`, separated by \
                     tabs, or set format to `csv` (any header) or field_separator"
                .to_string(),
        }),
    }
    };
    header.iter().map(name_of).collect()
}

/// `name:type` taken apart; no type if it is none of RecBole's.
fn split_type(field: &str) -> (&str, Option<&str>) {
    match field.rsplit_once(':') {
        Some((name, kind)) if TYPES.contains(&kind) => (name, Some(kind)),
        _ => (field, None),
    }
}

/// Fields of a line between spaces and tabs.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

fn fields(line: &[u8], separator: u8) -> Vec<String> {
    let text = String::from_utf8_lossy(line);
    text.split(char::from(separator)).map(|f| f.trim().trim_matches('"').to_string()).collect()
}

/// The separator of delimited text: a tab where there is one, since it never stands in a name by accident.
fn likely_separator(line: &[u8]) -> u8 {
    let count = |separator: &u8| memchr::memchr_iter(*separator, line).count();
    if count(&b'\t') > 0 {
        return b'\t';
    }
    let frequent = [b'|', b';', b','].into_iter().max_by_key(count);
    frequent.filter(|separator| count(separator) > 0).unwrap_or(b' ')
}

fn separator(config: &DataConfig, default: u8) -> Result<u8> {
    match config.field_separator {
        None => Ok(default),
        Some(c) if c.is_ascii() && !matches!(c, '\n' | '\r' | '"') => Ok(c as u8),
        Some(c) => Err(Error::config(
            "field_separator",
            format!("`{}` cannot separate fields", c.escape_debug()),
            "give one ASCII character, such as a tab, a comma or a semicolon",
        )),
    }
}

/// Lines of the head, the last one only if it is whole or the only one.
fn whole_lines(head: &[u8], whole: bool) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    if !whole && lines.len() > 1 {
        lines.pop();
    }
    lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect()
}

fn refuse_binary(path: &Path, head: &[u8]) -> Result<()> {
    let known: [(&[u8], &str, &str); 5] = [
        (b"PK\x03\x04", "a zip archive", "unpack it and give the interaction file inside"),
        (b"PAR1", "a Parquet file", "write the interactions out as CSV"),
        (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
        (b"(\xb5/\xfd", "compressed with zstd", "unpack it, or compress it with gzip instead"),
    ];
    for (magic, what, remedy) in known {
        if head.starts_with(magic) {
            return Err(Error::input(path, format!("this is {what}"), remedy));
        }
    }
    if memchr::memchr(0, head).is_some() {
        return Err(Error::input(
            path,
            "this is no text file: it has zero bytes",
            "give an interaction file in text form, plain or compressed with gzip",
        ));
    }
    Ok(())
}
