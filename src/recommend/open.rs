//! Reading a run directory, and refusing one that is not whole or does not fit together.

use crate::config::{self, Config};
use crate::data::{IndexedVocabulary, Sequences, Vocabulary};
use crate::model::params::ParameterTable;
use crate::train::rundir::{CONFIG, HISTORIES, ITEMS, MODEL, USERS, items_sha256, unescape};
use crate::train::{model_file, tensor_file::TensorFile};
use crate::{Error, Result, memory};
use safetensors::tensor::Dtype;
use std::fs;
use std::path::Path;

const REMEDY: &str = "copy the run directory again, or let b4r-train make it anew";

/// Everything that recommending needs of a run.
pub struct Run {
    /// How it was trained.
    pub config: Config,
    /// Weights.
    pub parameters: Vec<f32>,
    /// External item ids; item `i`, from 1, has number `i - 1`.
    pub items: IndexedVocabulary,
    /// `[V]` how often each item occurs.
    pub counts: Vec<u64>,
    /// External user ids.
    pub users: IndexedVocabulary,
    /// Histories of all users.
    pub histories: Sequences,
}

/// Reads the run directory `path`.
///
/// # Errors
/// Any of [`Error::Input`], [`Error::Config`], [`Error::Checkpoint`], [`Error::Memory`] and [`Error::Io`], naming the file.
pub fn open(path: &Path) -> Result<Run> {
    if !path.is_dir() {
        let problem = if path.exists() { "is no directory" } else { "there is no such directory" };
        let remedy = "give the run directory of a b4r-train run, such as runs/ml-100k-seed2020";
        return Err(Error::input(path, problem, remedy));
    }
    for name in [CONFIG, MODEL, ITEMS, USERS, HISTORIES] {
        require_file(&path.join(name), name)?;
    }
    let config = config::read(&path.join(CONFIG))?;
    let (items, counts) = read_items(&path.join(ITEMS))?;
    let needed = 4 * ParameterTable::count(&config.model, items.len());
    memory::require("the model", needed, "close other programs")?;
    let table = ParameterTable::new(&config.model, items.len());
    let hash = items_sha256(&items);
    let model = path.join(MODEL);
    let parameters = model_file::read_own_model(&model, &config.model, &table, &hash)?;
    let items = indexed(&path.join(ITEMS), items)?;
    let users = path.join(USERS);
    let names = read_users(&users)?;
    let histories = read_histories(&path.join(HISTORIES), names.len(), items.strings().len())?;
    let users = indexed(&users, names)?;
    Ok(Run { config, parameters, items, counts, users, histories })
}

fn require_file(path: &Path, name: &str) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    let (problem, remedy) = if name == MODEL {
        (
            "the run has no model yet, or lost it",
            "let b4r-train finish an evaluation: it writes the model of the best epoch",
        )
    } else {
        ("the file is missing: the run directory is not whole", REMEDY)
    };
    Err(Error::input(path, problem, remedy))
}

fn damaged(path: &Path, line: Option<u64>, problem: impl Into<String>) -> Error {
    let (path, problem) = (path.to_path_buf(), problem.into());
    Error::Input { path, line, column: None, problem, remedy: REMEDY.to_string() }
}

/// Lines of a file whose header is `header`, with their numbers.
fn lines<'a>(
    path: &Path,
    text: &'a str,
    header: &str,
) -> Result<impl Iterator<Item = (u64, &'a str)>> {
    let mut lines = text.lines();
    if lines.next() != Some(header) {
        let expected = header.escape_debug();
        return Err(damaged(path, Some(1), format!("the header is not `{expected}`")));
    }
    if !text.ends_with('\n') {
        return Err(damaged(path, None, "the file is cut short"));
    }
    Ok((2..).zip(lines))
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|_| damaged(path, None, "it is not UTF-8 text"))
}

fn read_items(path: &Path) -> Result<(Vocabulary, Vec<u64>)> {
    let text = read_text(path)?;
    let (mut items, mut counts) = (Vocabulary::default(), Vec::new());
    for (number, line) in lines(path, &text, "index\titem\tinteractions")? {
        let mut fields = line.split('\t');
        let (index, item, count) = (fields.next(), fields.next(), fields.next());
        let index: Option<usize> = index.and_then(|index| index.parse().ok());
        let item = item.and_then(unescape);
        let count = count.and_then(|count| count.parse().ok());
        match (index, item, count, fields.next()) {
            (Some(index), Some(item), Some(count), None) if index == items.len() + 1 => {
                items.push(&item);
                counts.push(count);
            }
            _ => return Err(damaged(path, Some(number), "the line is damaged, or out of order")),
        }
    }
    // The top numbers stand for MASK and for none.
    if items.is_empty() || items.len() >= u32::MAX as usize - 1 {
        return Err(damaged(path, None, format!("it lists {} items", items.len())));
    }
    Ok((items, counts))
}

fn read_users(path: &Path) -> Result<Vocabulary> {
    let text = read_text(path)?;
    let mut users = Vocabulary::default();
    for (number, line) in lines(path, &text, "index\tuser")? {
        let fields = line.split_once('\t').filter(|(_, user)| !user.contains('\t'));
        let parsed = fields.and_then(|(index, user)| {
            let index: usize = index.parse().ok()?;
            Some((index, unescape(user)?))
        });
        match parsed {
            Some((index, user)) if index == users.len() => users.push(&user),
            _ => return Err(damaged(path, Some(number), "the line is damaged, or out of order")),
        }
    }
    Ok(users)
}

fn indexed(path: &Path, names: Vocabulary) -> Result<IndexedVocabulary> {
    names.into_indexed()?.map_err(|number| {
        damaged(path, Some(number as u64 + 2), "the id stands on an earlier line, too")
    })
}

fn read_histories(path: &Path, users: usize, items: usize) -> Result<Sequences> {
    let mut file = TensorFile::open(path, REMEDY)?;
    if file.has_checksum() {
        file.verify_checksum()?;
    }
    let offsets: Vec<u64> = file.read_list("offsets", Dtype::U64)?;
    let sequences = Sequences { offsets, items: file.read_list("items", Dtype::U32)? };
    if sequences.len() != users || sequences.offsets.is_empty() {
        let problem = format!("it has {} users, users.tsv {users}", sequences.len());
        return Err(file.problem(problem));
    }
    let whole = sequences.offsets.is_sorted()
        && sequences.offsets.first() == Some(&0)
        && sequences.offsets.last() == Some(&(sequences.items.len() as u64));
    if !whole {
        return Err(file.problem("damaged: its offsets do not divide its items"));
    }
    match sequences.items.iter().find(|&&item| item == 0 || item as usize > items) {
        Some(item) => Err(file.problem(format!("item {item} is not among the {items} items"))),
        None => Ok(sequences),
    }
}
