//! One request from one line of JSON or CSV.

use super::input::Asked;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;

type Parsed<T> = std::result::Result<T, String>;

/// Names of CSV columns.
const USER: [&str; 2] = ["user", "user_id"];
const HISTORY: &str = "history";
const ITEMS: &str = "items";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "a request")]
struct JsonLine {
    user: Option<Id>,
    history: Option<Vec<Id>>,
    items: Option<Vec<Id>>,
}

/// An id, written as a string or, since many catalogues are numbered, as an integer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Id(pub(crate) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfId;
        impl Visitor<'_> for OfId {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id (a string or an integer)")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }

            fn visit_string<E: de::Error>(self, id: String) -> Result<Id, E> {
                Ok(Id(id))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }
        }
        deserializer.deserialize_any(OfId)
    }
}

/// Whether JSON is a list: a struct can also be read from one of its fields, which nobody would want to rely on.
pub(crate) fn is_list(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"[")
}

/// Reads `{"user": "u1"}`, `{"history": ["i3", "i7"]}`, ...
pub(super) fn json_line(line: &[u8]) -> Parsed<Asked> {
    if is_list(line) {
        return Err(
            "this is a list; a request is an object, such as {\"user\": \"u1\"}".to_string()
        );
    }
    let line: JsonLine = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        // The line that serde_json counts is always the first.
        let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
        format!("column {}: {text}", error.column())
    })?;
    let names = |ids: Vec<Id>| ids.into_iter().map(|id| id.0).collect();
    Ok(Asked {
        user: line.user.map(|id| id.0),
        history: line.history.map(names),
        items: line.items.map(names),
    })
}

/// Where the columns of a CSV file stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    separator: u8,
    width: usize,
    user: Option<usize>,
    history: Option<usize>,
    items: Option<usize>,
}

impl Columns {
    /// Reads a header that names our columns and no others.
    pub(super) fn of_header(line: &[u8]) -> Parsed<Self> {
        let separator = [b'\t', b';'].into_iter().find(|byte| line.contains(byte)).unwrap_or(b',');
        let line = utf8(line)?;
        let mut columns = Columns { separator, width: 0, user: None, history: None, items: None };
        for (number, name) in fields(line, separator)?.iter().enumerate() {
            let name = name.trim().to_ascii_lowercase();
            let place = match name.as_str() {
                user if USER.contains(&user) => &mut columns.user,
                HISTORY => &mut columns.history,
                ITEMS => &mut columns.items,
                _ => {
                    let shown = super::shorten(&name);
                    return Err(format!("column `{shown}` is none of user, history and items"));
                }
            };
            if place.replace(number).is_some() {
                return Err(format!("column `{name}` stands there twice"));
            }
            columns.width = number + 1;
        }
        if columns.user.is_none() && columns.history.is_none() {
            return Err("there is neither a column `user` nor `history`".to_string());
        }
        Ok(columns)
    }
}

/// Reads a line whose items are separated by spaces.
pub(super) fn csv_line(line: &[u8], columns: &Columns) -> Parsed<Asked> {
    let fields = fields(utf8(line)?, columns.separator)?;
    if fields.len() != columns.width {
        let (has, wants) = (fields.len(), columns.width);
        let plural = if has == 1 { "" } else { "s" };
        return Err(format!("the line has {has} field{plural}, the header has {wants}"));
    }
    let field = |column: Option<usize>| column.map(|column| fields[column].as_ref());
    let names = |text: &str| text.split_ascii_whitespace().map(str::to_string).collect();
    let user = field(columns.user).filter(|user| !user.is_empty());
    // Where a user is given, an empty cell stands for what the run holds of him.
    let history = field(columns.history).filter(|text| !text.trim().is_empty() || user.is_none());
    Ok(Asked {
        user: user.map(str::to_string),
        history: history.map(names),
        items: field(columns.items).map(names),
    })
}

fn utf8(line: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(line)
        .map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to() + 1))
}

fn fields(line: &str, separator: u8) -> Parsed<Vec<Cow<'_, str>>> {
    if !line.contains('"') {
        return Ok(line.split(char::from(separator)).map(Cow::Borrowed).collect());
    }
    if line.matches('"').count() % 2 == 1 {
        return Err("a double quote is not closed on the line".to_string());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(separator)
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(_) => Ok(record.iter().map(|field| Cow::Owned(field.to_string())).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(ids: &[&str]) -> Option<Vec<String>> {
        Some(ids.iter().map(|id| id.to_string()).collect())
    }

    #[test]
    fn json_ids_may_be_integers() {
        let asked = json_line(br#"{"user": 7, "history": ["a b", -3]}"#).unwrap();
        let expected =
            Asked { user: Some("7".into()), history: names(&["a b", "-3"]), items: None };
        assert_eq!(asked, expected);
        assert_eq!(json_line(b"{}").unwrap(), Asked::default());
    }

    #[test]
    fn damaged_json_names_the_column() {
        for (line, words) in [
            (&br#"{"user": "u1""#[..], "column 13"),
            (br#"{"usr": "u1"}"#, "unknown field `usr`"),
            (br#"{"user": 1.5}"#, "expected an id"),
            (br#"{"history": "i1"}"#, "expected a sequence"),
            (br#"{"user": "a", "user": "b"}"#, "duplicate field"),
            (b" [1]", "a request is an object"),
            (b"\xff", "column 1"),
        ] {
            let problem = json_line(line).unwrap_err();
            assert!(problem.contains(words), "{problem}");
            assert!(!problem.contains("line 1"), "{problem}");
        }
        let deep = b"[".repeat(1 << 16);
        assert!(json_line(&[br#"{"user":"#, &deep[..]].concat()).is_err());
    }

    #[test]
    fn csv_columns_and_quotes() {
        let columns = Columns::of_header(b"History;user").unwrap();
        let read = |line: &[u8]| csv_line(line, &columns);
        let expected =
            Asked { user: Some("u;\"1".into()), history: names(&["i1", "i2"]), items: None };
        assert_eq!(read(b"i1  i2;\"u;\"\"1\"").unwrap(), expected);
        assert_eq!(read(b";u1").unwrap(), Asked { user: Some("u1".into()), ..Asked::default() });
        assert_eq!(read(b";").unwrap(), Asked { history: names(&[]), ..Asked::default() });
        assert!(read(b"i1").unwrap_err().contains("1 field,"));
        assert!(read(b"i1;\"u").unwrap_err().contains("quote"));
        assert!(read(b"\xff;u").unwrap_err().contains("byte 1"));
        for header in [&b"items"[..], b"user,user_id", b"user,item_id", b"", b"user,\"x"] {
            assert!(Columns::of_header(header).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = json_line(&line);
            let _ = Columns::of_header(&line);
            for header in ["user", "user,history", "history\tuser\titems"] {
                let columns = Columns::of_header(header.as_bytes()).unwrap();
                if let Ok(asked) = csv_line(&line, &columns) {
                    prop_assert!(asked.user.is_some() || asked.history.is_some() || header == "user");
                }
            }
        }

        #[test]
        fn what_serde_writes_is_read(
            user in proptest::option::of(".*"),
            history in proptest::option::of(proptest::collection::vec(".*", 0..5)),
        ) {
            let line = serde_json::json!({ "user": user, "history": history }).to_string();
            prop_assert_eq!(json_line(line.as_bytes()).unwrap(), Asked { user, history, items: None });
        }

        #[test]
        fn what_csv_writes_is_read(user in "[^\r\n]+", history in proptest::collection::vec("[a-z0-9\"]+", 1..5)) {
            let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(vec![]);
            writer.write_record([user.as_str(), &history.join(" ")]).unwrap();
            let line = writer.into_inner().unwrap();
            let columns = Columns::of_header(b"user,history").unwrap();
            let read = csv_line(line.strip_suffix(b"\n").unwrap(), &columns).unwrap();
            prop_assert_eq!(read, Asked { user: Some(user), history: Some(history), items: None });
        }
    }
}
