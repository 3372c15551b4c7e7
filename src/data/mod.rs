//! From an interaction file to sequences: acquire, parse, filter, number, sort, split.

mod acquire; // known data sets by name: folders, cache, download
mod core; // k-core and consecutive duplicates, to a common fixed point
mod formats; // the parsers
mod histories; // data sets from memory
mod lines; // a file as a bounded, hashed stream of text
mod prepare; // filters, order, numbering
mod sniff; // which format a file has, and which of its columns are wanted
mod split; // training, validation, test
mod statistics; // what was read, dropped and kept
mod table; // rows as they were read

use std::path::{Path, PathBuf};

use crate::config::DataConfig;
use crate::{Error, Result};

pub(crate) use lines::hex;
pub use split::{SplitCounts, keep_all, split, training_counts};
pub use statistics::{Dropped, Lengths, Statistics, thousands};

/// Reads and prepares the data set that `config` names: a known name, a name under `data_path`, or a path.
///
/// `progress` draws bars on the terminal while large files are fetched and read.
pub fn load(config: &DataConfig, progress: bool) -> Result<(Dataset, Statistics)> {
    if config.rating_interval.is_some() && config.rating_field.is_none() {
        return Err(Error::config(
            "val_interval",
            "there is no rating to judge: RATING_FIELD is null",
            "set RATING_FIELD to the column that holds ratings, or leave val_interval out",
        ));
    }
    let (name, table) = match acquire::known(&config.dataset) {
        Some(source) => {
            let places = acquire::Places::from_environment();
            (config.dataset.clone(), acquire::obtain(source, &places, config, progress)?)
        }
        None => {
            let path = find(config)?;
            (short_name(&path), formats::read(&path, config, progress)?)
        }
    };
    prepare::prepare(name, table, config)
}

/// The histories of an interaction text in any format, as they stand: no filter, ordered by time where there
/// is one. Users and items are numbered by first appearance. `path` is the text's name in errors.
pub(crate) fn histories(
    text: impl std::io::Read + 'static,
    path: &Path,
    config: &DataConfig,
) -> Result<Histories> {
    let table = formats::read_text(path, lines::Text::new(text, path)?, config)?;
    prepare::histories(table)
}

/// Users, items, and each user's items, from 1.
pub(crate) struct Histories {
    pub users: Vocabulary,
    pub items: Vocabulary,
    pub sequences: Sequences,
}

/// The user's own file: a path, or RecBole's `<data_path>/<dataset>/<dataset>.inter`.
fn find(config: &DataConfig) -> Result<PathBuf> {
    let given = Path::new(&config.dataset);
    let mut candidates = vec![given.to_path_buf()];
    if let Some(name) = given.file_name() {
        // A folder in RecBole's layout, given by itself or under `data_path`.
        for folder in [Some(given.to_path_buf()), config.data_path.as_ref().map(|d| d.join(given))]
        {
            candidates.extend(folder.iter().flat_map(|folder| atomic_files(folder, name.as_ref())));
        }
    }
    // Anything that can be read will do, a pipe as well.
    if let Some(path) = candidates.iter().find(|path| path.exists() && !path.is_dir()) {
        return Ok(path.clone());
    }
    let looked: Vec<String> =
        candidates.iter().map(|path| format!("`{}`", path.display())).collect();
    let close = acquire::names()
        .filter(|name| strsim::jaro_winkler(name, &config.dataset) > 0.8)
        .map(|name| format!("did you mean `{name}`? "))
        .next()
        .unwrap_or_default();
    let known = acquire::names().collect::<Vec<_>>().join(", ");
    Err(Error::config(
        "dataset",
        format!(
            "`{}` is neither a known data set nor a file; looked for {}",
            config.dataset,
            looked.join(", ")
        ),
        format!("{close}give the path of an interaction file, or one of {known}"),
    ))
}

/// RecBole's file in the folder of the data set `name`, plain or compressed.
fn atomic_files(folder: &Path, name: &Path) -> [PathBuf; 2] {
    ["inter", "inter.gz"].map(|extension| folder.join(format!("{}.{extension}", name.display())))
}

/// File name without the extensions of data files.
fn short_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let mut name = name.as_ref();
    for extension in [".gz", ".inter", ".csv", ".tsv", ".txt", ".dat", ".data"] {
        name = name.strip_suffix(extension).filter(|rest| !rest.is_empty()).unwrap_or(name);
    }
    name.to_string()
}

/// A prepared data set: each user's items in time order.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Short name, for reports.
    pub name: String,
    /// SHA-256 of the file as read (of the uncompressed text for `.gz`), in hex.
    pub sha256: String,
    /// External user ids; user `u` is `users.get(u)`.
    pub users: Vocabulary,
    /// External item ids; item `i`, from 1, is `items.get(i - 1)`. Order of first appearance after filters.
    pub items: Vocabulary,
    /// Histories of all users.
    pub sequences: Sequences,
    /// Time of each interaction, parallel to `sequences.items`; `None` where the file has none.
    pub times: Option<Vec<f64>>,
}

impl Dataset {
    /// `V`: number of items; indices run from 1 to `V`.
    pub fn item_count(&self) -> usize {
        self.items.len()
    }
}

/// Item indices of all users, one history after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// `[users + 1]`: where each history begins in `items`.
    pub offsets: Vec<u64>,
    /// Item indices, 1 to `V`.
    pub items: Vec<u32>,
}

impl Sequences {
    /// Number of users.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole history of `user`, oldest first.
    pub fn get(&self, user: usize) -> &[u32] {
        &self.items[self.offsets[user] as usize..self.offsets[user + 1] as usize]
    }
}

/// Distinct strings, numbered from 0 in order of first appearance, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    text: String,
    ends: Vec<u64>,
}

impl Vocabulary {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `index`.
    pub fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.text[start..self.ends[index] as usize]
    }

    /// Appends a string; the caller knows that it is new.
    pub fn push(&mut self, id: &str) {
        self.text.push_str(id);
        self.ends.push(self.text.len() as u64);
    }

    /// [`Vocabulary::push`] that refuses, instead of aborting, when memory runs out.
    fn try_push(&mut self, id: &str) -> Result<()> {
        table::reserve_text(&mut self.text, id.len())?;
        table::reserve(&mut self.ends, 1)?;
        self.push(id);
        Ok(())
    }

    /// A table from string to number, built now and dropped with the value returned.
    pub fn index(&self) -> Result<VocabularyIndex<'_>> {
        let mut index = table::Index::default();
        for (number, id) in self.iter().enumerate() {
            if let Err(free) = index.find(self, id.as_bytes()) {
                index.insert(free, number as u32)?;
            }
        }
        Ok(VocabularyIndex { strings: self, index })
    }

    /// The same strings with a table from string to number; `Err` with the number of a string
    /// that has occurred before, where there is one.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn into_indexed(self) -> Result<std::result::Result<IndexedVocabulary, usize>> {
        let mut index = table::Index::default();
        for (number, id) in self.iter().enumerate() {
            match index.find(&self, id.as_bytes()) {
                Err(free) => index.insert(free, number as u32)?,
                Ok(_) => return Ok(Err(number)),
            }
        }
        Ok(Ok(IndexedVocabulary { strings: self, index }))
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// A [`Vocabulary`] of distinct strings that finds the number of each.
#[derive(Clone, Debug, Default)]
pub struct IndexedVocabulary {
    strings: Vocabulary,
    index: table::Index,
}

impl IndexedVocabulary {
    /// The strings.
    pub fn strings(&self) -> &Vocabulary {
        &self.strings
    }

    /// The number of `id`, if it is known.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.index.find(&self.strings, id.as_bytes()).ok().map(|number| number as usize)
    }
}

/// Finds the number of a string in a [`Vocabulary`]; holds no copy of the strings.
#[derive(Clone, Debug)]
pub struct VocabularyIndex<'a> {
    strings: &'a Vocabulary,
    index: table::Index,
}

impl VocabularyIndex<'_> {
    /// The number of `id`, if it is known.
    pub fn get(&self, id: &str) -> Option<usize> {
        self.index.find(self.strings, id.as_bytes()).ok().map(|number| number as usize)
    }
}

/// One thing to predict: the item at `position` of `user`'s history, from everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalRow {
    /// User index.
    pub user: u32,
    /// Index of the target within the user's history; at least 1.
    pub position: u32,
}

/// Which interactions train and which are predicted. Every rule leaves a prefix of each history to training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// For each user, how many leading interactions train.
    pub train_lengths: Vec<u32>,
    /// Validation rows, by user.
    pub valid: Vec<EvalRow>,
    /// Test rows, by user.
    pub test: Vec<EvalRow>,
}
