//! Reading back `items.tsv` and `users.tsv`: a line is an index, an external id and perhaps more columns.

use crate::data::Vocabulary;
use crate::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

const REMEDY: &str = "give a run directory as b4r-train left it";
/// Longest line, in bytes: beyond the longest id that data may have, escaped. No other file is read to its end.
const MAX_LINE: usize = 40 << 20;

/// The ids of `path`, whose header begins with `index` and `column` and whose indices count from `first`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Input`] with the line that is not as it was written.
pub fn read(path: &Path, column: &str, first: usize) -> Result<Vocabulary> {
    read_rows(path, column, first, |_| Some(()))
}

/// [`read`] that hands each line's columns after the id to `take`, which returns `None` where they are not as
/// they were written.
///
/// # Errors
/// As [`read`].
pub fn read_rows(
    path: &Path,
    column: &str,
    first: usize,
    mut take: impl FnMut(&mut std::str::Split<'_, char>) -> Option<()>,
) -> Result<Vocabulary> {
    let about = path.metadata().map_err(Error::io("read", path))?;
    if !about.is_file() {
        // Opening a pipe would wait forever.
        return Err(problem(path, None, "not a regular file"));
    }
    let mut file = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let (mut ids, mut line) = (Vocabulary::default(), Vec::new());
    for number in 1u64.. {
        line.clear();
        let mut limited = std::io::Read::take(&mut file, MAX_LINE as u64);
        limited.read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        if line.is_empty() && number > 1 {
            break;
        }
        let wrong = |text: &str| problem(path, Some(number), text);
        let Some(text) = line.strip_suffix(b"\n") else {
            return Err(wrong("cut short: the line does not end"));
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong("not UTF-8"))?;
        let mut fields = text.split('\t');
        let (index, id) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if number == 1 {
            if (index, id) != ("index", column) {
                return Err(wrong("its first line does not name the columns"));
            }
        } else if index != (ids.len() + first).to_string() {
            return Err(wrong("the indices are not consecutive"));
        } else {
            ids.push(&unescape(id).ok_or_else(|| wrong("the id is not as it would be written"))?);
            take(&mut fields).ok_or_else(|| wrong("the line is damaged after the id"))?;
        }
    }
    Ok(ids)
}

/// The id that was written as `text`; `None` where none is written so.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if text.is_empty() {
        return None;
    }
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut id = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        id.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(Cow::Owned(id))
}

fn problem(path: &Path, line: Option<u64>, problem: &str) -> Error {
    Error::Input {
        path: path.to_path_buf(),
        line,
        column: None,
        problem: problem.to_string(),
        remedy: REMEDY.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn of(text: &str) -> Result<Vocabulary> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.tsv");
        fs::write(&path, text).unwrap();
        read(&path, "item", 1)
    }

    #[test]
    fn ids_come_back_whole() {
        let ids = of("index\titem\tinteractions\n1\ta\\\\\\n\t2\n2\t\\rb\\t\t0\n").unwrap();
        assert_eq!(ids.iter().collect::<Vec<_>>(), ["a\\\n", "\rb\t"]);
    }

    #[test]
    fn what_was_not_written_so_is_refused() {
        let header = "index\titem\tinteractions\n";
        for (text, line, word) in [
            ("".to_string(), 1, "does not end"),
            ("index\tuser\n".to_string(), 1, "columns"),
            (format!("{header}1\ta\t1\n3\tb\t1\n"), 3, "consecutive"),
            (format!("{header}1\t\t1\n"), 2, "the id"),
            (format!("{header}1\ta\\x\t1\n"), 2, "the id"),
            (format!("{header}1\ta\\\t1\n"), 2, "the id"),
            (format!("{header}1\ta\t1\n2\tb"), 3, "does not end"),
            (format!("{header}1\t{}\t1\n", "a".repeat(MAX_LINE)), 2, "does not end"),
        ] {
            let error = of(&text).unwrap_err();
            assert!(matches!(error, Error::Input { line: Some(at), .. } if at == line), "{error}");
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}
