//! Rows as they were read: ids as numbers, in file order.

use std::hash::{BuildHasher, RandomState};
use std::mem::size_of;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::Vocabulary;
use crate::config::Interval;
use crate::{Error, Result, memory};

const MEMORY_REMEDY: &str = "close other programs, or give a file with fewer interactions";

/// All interactions of a file, column by column.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the uncompressed text.
    pub sha256: String,
    /// Distinct user ids in order of first appearance.
    pub users: Vocabulary,
    /// Distinct item ids in order of first appearance.
    pub items: Vocabulary,
    /// `[rows]` index into `users`.
    pub user: Vec<u32>,
    /// `[rows]` index into `items`.
    pub item: Vec<u32>,
    /// `[rows]` time, where the file has one.
    pub time: Option<Vec<f64>>,
    /// `[rows]` whether the rating lies in the interval asked for, where one was.
    pub rating_passes: Option<Vec<bool>>,
    /// Rows left out because the user or item id was empty.
    pub without_id: u64,
    /// Remarks for the reader of the statistics.
    pub notes: Vec<String>,
}

impl Table {
    /// Rows the file holds, those without an id included.
    pub(super) fn rows_read(&self) -> u64 {
        self.user.len() as u64 + self.without_id
    }
}

/// One column's value and what to call the column in an error.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub text: &'a [u8],
    pub column: &'a str,
}

/// Collects rows into a [`Table`].
pub(super) struct TableBuilder {
    table: Table,
    users: Interner,
    items: Interner,
    rating_interval: Option<Interval>,
}

impl TableBuilder {
    /// `with_time`: whether every row will bring a time. `rating_interval`: judged only if given.
    pub(super) fn new(path: &Path, with_time: bool, rating_interval: Option<Interval>) -> Self {
        let table = Table {
            path: path.to_path_buf(),
            time: with_time.then(Vec::new),
            rating_passes: rating_interval.map(|_| Vec::new()),
            ..Table::default()
        };
        TableBuilder {
            table,
            users: Interner::default(),
            items: Interner::default(),
            rating_interval,
        }
    }

    /// Adds the interaction of line `line`.
    pub(super) fn push(
        &mut self,
        line: u64,
        user: Field,
        item: Field,
        rating: Option<Field>,
        time: Option<Field>,
    ) -> Result<()> {
        // Numbers are judged first: a damaged line is an error even where it would be left out.
        let rating = rating.map(|field| self.number(line, field, "rating")).transpose()?;
        let time = time.map(|field| self.number(line, field, "time")).transpose()?;
        if user.text.is_empty() || item.text.is_empty() {
            self.table.without_id += 1;
            return Ok(());
        }
        let user = self
            .users
            .intern(user.text)?
            .ok_or_else(|| invalid_utf8(&self.table.path, line, user.column))?;
        let item = self
            .items
            .intern(item.text)?
            .ok_or_else(|| invalid_utf8(&self.table.path, line, item.column))?;
        push(&mut self.table.user, user)?;
        push(&mut self.table.item, item)?;
        if let (Some(times), Some(time)) = (&mut self.table.time, time) {
            push(times, time)?;
        }
        if let (Some(passes), Some(interval), Some(rating)) =
            (&mut self.table.rating_passes, self.rating_interval, rating)
        {
            push(passes, interval.contains(rating))?;
        }
        Ok(())
    }

    /// The table; an error if there is no row.
    pub(super) fn finish(mut self, sha256: String, header: bool) -> Result<Table> {
        self.table.sha256 = sha256;
        self.table.users = self.users.strings;
        self.table.items = self.items.strings;
        if self.table.user.is_empty() {
            let problem = match (self.table.without_id, header) {
                (0, false) => "the file is empty".to_string(),
                (0, true) => "the file holds a header and no interaction".to_string(),
                (n, _) => format!("all {n} rows lack a user or item id"),
            };
            let remedy = "give a file with one interaction (or one user's items) on each line";
            return Err(Error::input(&self.table.path, problem, remedy));
        }
        Ok(self.table)
    }

    fn number(&self, line: u64, field: Field, what: &str) -> Result<f64> {
        parse_number(field.text).ok_or_else(|| {
            let shown = shorten(field.text);
            let key = if what == "time" { "TIME_FIELD" } else { "RATING_FIELD" };
            let dates = if what == "time" { " (dates as seconds since 1970)" } else { "" };
            Error::Input {
                path: self.table.path.clone(),
                line: Some(line),
                column: Some(field.column.to_string()),
                problem: format!("{what} `{shown}` is not a finite number"),
                remedy: format!(
                    "write a number{dates}, or set {key} to null to leave the column unread"
                ),
            }
        })
    }
}

fn invalid_utf8(path: &Path, line: u64, column: &str) -> Error {
    Error::Input {
        path: path.to_path_buf(),
        line: Some(line),
        column: Some(column.to_string()),
        problem: "the id is not valid UTF-8".to_string(),
        remedy: "convert the file, for example with `iconv -f latin1 -t utf-8`".to_string(),
    }
}

/// A field as shown in a message: short and printable.
pub(super) fn shorten(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(&field[..field.len().min(200)]);
    let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().count() > 40 || field.len() > 200 {
        shown.push('…');
    }
    shown
}

/// A finite decimal number, spaces around it allowed. Minus zero becomes zero, so that the two stay in
/// file order when they are times.
pub(super) fn parse_number(field: &[u8]) -> Option<f64> {
    let field = field.trim_ascii();
    // Up to 15 digits are exact in an f64; this is how nearly all ratings and times are written.
    if !field.is_empty() && field.len() <= 15 && field.iter().all(u8::is_ascii_digit) {
        return Some(
            field.iter().fold(0u64, |sum, digit| 10 * sum + u64::from(digit - b'0')) as f64
        );
    }
    let number: f64 = std::str::from_utf8(field).ok()?.parse().ok()?;
    number.is_finite().then_some(number + 0.0)
}

/// Numbers strings in order of first appearance.
#[derive(Default)]
struct Interner {
    strings: Vocabulary,
    index: Index,
    last: usize,
}

impl Interner {
    /// The number of `id`, new or known; `None` if it is not UTF-8.
    fn intern(&mut self, id: &[u8]) -> Result<Option<u32>> {
        // Files sorted by user repeat the same id over and over.
        if self.last < self.strings.len() && self.strings.get(self.last).as_bytes() == id {
            return Ok(Some(self.last as u32));
        }
        let number = match self.index.find(&self.strings, id) {
            Ok(number) => number,
            Err(free) => {
                // Known ids were checked when they came in first.
                let Ok(id) = std::str::from_utf8(id) else { return Ok(None) };
                // The two top numbers are kept free: `V + 1` is the mask.
                if self.strings.len() >= u32::MAX as usize - 2 {
                    return Err(too_much(u128::from(u64::MAX)));
                }
                let number = self.strings.len() as u32;
                self.strings.try_push(id)?;
                self.index.insert(free, number)?;
                number
            }
        };
        self.last = number as usize;
        Ok(Some(number))
    }
}

/// Where to find a string in a [`Vocabulary`]: number by hash, the strings themselves kept elsewhere.
///
/// The hash is keyed (SipHash), so that no file can be made in which all ids collide.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    numbers: FxHashMap<u64, u32>,
    hasher: RandomState,
}

impl Index {
    /// The number of `id`, or the free slot where it belongs.
    pub(super) fn find(&self, strings: &Vocabulary, id: &[u8]) -> std::result::Result<u32, u64> {
        let mut hash = self.hasher.hash_one(id);
        loop {
            match self.numbers.get(&hash) {
                None => return Err(hash),
                Some(&number) if strings.get(number as usize).as_bytes() == id => {
                    return Ok(number);
                }
                // Two strings with the same 64 bits: the second takes the next free value.
                Some(_) => hash = hash.wrapping_add(1),
            }
        }
    }

    /// Puts `number` into the slot that [`Index::find`] found free.
    pub(super) fn insert(&mut self, slot: u64, number: u32) -> Result<()> {
        if self.numbers.len() == self.numbers.capacity() {
            // The new table has twice the size, and the old one lives until all is moved.
            let needed = 2 * (self.numbers.capacity().max(1024)) * (size_of::<(u64, u32)>() + 1);
            memory::require("the table of ids", needed as u128, MEMORY_REMEDY)?;
            self.numbers.try_reserve(1).map_err(|_| too_much(needed as u128))?;
        }
        self.numbers.insert(slot, number);
        Ok(())
    }
}

/// [`Vec::push`] that refuses, instead of aborting, when the machine has no memory left.
pub(super) fn push<T>(vector: &mut Vec<T>, value: T) -> Result<()> {
    if vector.len() == vector.capacity() {
        reserve(vector, 1)?;
    }
    vector.push(value);
    Ok(())
}

/// Room for `additional` more elements, growing by half at least.
pub(super) fn reserve<T>(vector: &mut Vec<T>, additional: usize) -> Result<()> {
    if vector.capacity() - vector.len() >= additional {
        return Ok(());
    }
    let additional = grant(vector.len(), additional, size_of::<T>())?;
    vector.try_reserve_exact(additional).map_err(|_| too_much(0))
}

/// The same for a string, in bytes.
pub(super) fn reserve_text(text: &mut String, additional: usize) -> Result<()> {
    if text.capacity() - text.len() >= additional {
        return Ok(());
    }
    let additional = grant(text.len(), additional, 1)?;
    text.try_reserve_exact(additional).map_err(|_| too_much(0))
}

/// How many elements to grow by, if the machine has the memory.
fn grant(length: usize, additional: usize, size: usize) -> Result<usize> {
    let additional = additional.max(length / 2).max(4096);
    memory::require(
        "the interactions",
        (length + additional) as u128 * size as u128,
        MEMORY_REMEDY,
    )?;
    Ok(additional)
}

fn too_much(needed: u128) -> Error {
    Error::Memory {
        what: "the interactions".to_string(),
        needed,
        available: memory::available(),
        remedy: MEMORY_REMEDY.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_finite_decimals() {
        let cases: [(&[u8], Option<f64>); 12] = [
            (b"0", Some(0.0)),
            (b" 4.5 ", Some(4.5)),
            (b"-3", Some(-3.0)),
            (b"1e3", Some(1000.0)),
            (b"999999999999999", Some(999999999999999.0)),
            (b"1234567890123456789", Some(1234567890123456789.0)),
            (b"", None),
            (b"NaN", None),
            (b"inf", None),
            (b"1e999", None),
            (b"2020-01-01", None),
            (b"\xff", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_number(text), want, "{}", String::from_utf8_lossy(text));
        }
        assert!(parse_number(b"-0").is_some_and(f64::is_sign_positive));
    }

    #[test]
    fn strings_whose_hashes_collide_keep_apart() {
        let mut strings = Vocabulary::default();
        let mut index = Index::default();
        for (number, id) in ["a", "b"].into_iter().enumerate() {
            let slot = index.find(&strings, id.as_bytes()).unwrap_err();
            // Both go to one slot chain, as if their hashes were equal.
            let slot = if number == 0 { index.hasher.hash_one(b"b".as_slice()) } else { slot };
            strings.push(id);
            index.insert(slot, number as u32).unwrap();
        }
        assert_eq!(index.find(&strings, b"b"), Ok(1));
    }
}
