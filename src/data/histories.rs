//! Data sets from memory, prepared as a file in the `sequences` format would be.

use super::Dataset;
use super::lines::hex;
use super::prepare::prepare;
use super::table::{Field, TableBuilder};
use crate::config::DataConfig;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::Path;

/// What stands for a file name in messages.
const PLACE: &str = "histories in memory";

impl Dataset {
    /// A data set called `name` from users and their items, oldest first. A user who comes twice has the
    /// second items after the first; one without items is left out. Nothing is filtered.
    ///
    /// # Errors
    /// [`Error::Input`] when an id is empty or there are fewer than 2 items; `line` counts histories from 1.
    ///
    /// ```
    /// use b4r::data::Dataset;
    /// let dataset = Dataset::from_histories("shop", [("anna", vec!["tea", "cup"]), ("ben", vec!["cup"])])?;
    /// assert_eq!(dataset.item_count(), 2);
    /// assert_eq!(dataset.sequences.get(1), [2]);
    /// # Ok::<(), b4r::Error>(())
    /// ```
    pub fn from_histories<U, H>(
        name: impl Into<String>,
        histories: impl IntoIterator<Item = (U, H)>,
    ) -> Result<Self>
    where
        U: AsRef<str>,
        H: IntoIterator<Item: AsRef<str>>,
    {
        let mut builder = TableBuilder::new(Path::new(PLACE), false, None);
        let mut hasher = Sha256::new();
        let mut hash = |id: &str| {
            hasher.update((id.len() as u64).to_le_bytes());
            hasher.update(id.as_bytes());
        };
        for (line, (user, items)) in (1u64..).zip(histories) {
            let user = user.as_ref();
            hash(user);
            for item in items {
                let item = item.as_ref();
                refuse_empty(line, [("user", user), ("item", item)])?;
                hash(item);
                let [user, item] = [(user, "user"), (item, "item")]
                    .map(|(id, column)| Field { text: id.as_bytes(), column });
                builder.push(line, user, item, None, None)?;
            }
            // No id is empty, so this ends the history without doubt.
            hash("");
        }
        let table = builder.finish(hex(&hasher.finalize()), true)?;
        // Whether histories are long enough to hold something out is judged when a run wants to.
        let config = DataConfig { all_data: true, ..DataConfig::default() };
        prepare(name.into(), table, &config).map(|(dataset, _)| dataset)
    }
}

fn refuse_empty(line: u64, ids: [(&str, &str); 2]) -> Result<()> {
    match ids.iter().find(|(_, id)| id.is_empty()) {
        None => Ok(()),
        Some((column, _)) => Err(Error::Input {
            path: PLACE.into(),
            line: Some(line),
            column: Some(column.to_string()),
            problem: "the id is empty".to_string(),
            remedy: "give every user and item an id".to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Histories = [(&'static str, &'static [&'static str])];

    fn of(histories: &Histories) -> Result<Dataset> {
        let histories = histories.iter().map(|(user, items)| (user, items.iter()));
        Dataset::from_histories("x", histories)
    }

    #[test]
    fn histories_keep_their_order() {
        let dataset =
            of(&[("u", &["b", "a"]), ("none", &[]), ("v", &["a"]), ("u", &["b"])]).unwrap();
        assert_eq!(dataset.users.iter().collect::<Vec<_>>(), ["u", "v"]);
        assert_eq!(dataset.items.iter().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(dataset.sequences.get(0), [1, 2, 1]);
        assert_eq!(dataset.sequences.get(1), [2]);
    }

    #[test]
    fn the_hash_tells_contents_apart() {
        let contents: [&Histories; 4] = [
            &[("u", &["a", "b"])],
            &[("u", &["b", "a"])],
            &[("u", &["a"]), ("u", &["b"])],
            &[("u", &["a", "b", "b"])],
        ];
        let mut hashes: Vec<String> = contents.map(|content| of(content).unwrap().sha256).to_vec();
        assert_eq!(of(contents[0]).unwrap().sha256, hashes[0]);
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 4);
    }

    #[test]
    fn what_is_no_data_set_is_refused() {
        let cases: [(&Histories, &str); 5] = [
            (&[], "no interaction"),
            (&[("u", &[])], "no interaction"),
            (&[("u", &["a", "b"]), ("v", &["a", ""])], ":2: column item: the id is empty"),
            (&[("", &["a", "b"])], ":1: column user: the id is empty"),
            (&[("u", &["a", "a"])], "only 1 item"),
        ];
        for (histories, words) in cases {
            let error = of(histories).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
    }
}
