//! Beginning with the weights of an earlier run, or of a model that RecBole trained: `init_from`.
//!
//! Items are matched by external id, so the data may be newer and number them differently:
//! - a known item keeps its row of the item table, its output bias and, where the head is not tied, its output row;
//! - a new item's rows are drawn from the normal distribution that the earlier run's items have, channel by channel
//!   (mean and deviation over all its items, the random numbers being those of an ordinary start), and its
//!   bias is the mean of theirs: it looks like any other item until it has been trained;
//! - an item that the data no longer has is dropped, or stays at the end of the catalogue (`keep_expired`).
//!
//! All other weights are copied, so the network has to be the same. Moments, steps and epochs begin at 0.

use super::id_file;
use super::model_file::{self, Note};
use super::recbole_file;
use super::rundir::{self, CHECKPOINT, CONFIG, ITEMS, MODEL};
use super::tensor_file::TensorFile;
use crate::config::{self, Config, ModelConfig};
use crate::data::Vocabulary;
use crate::model::init::initial_parameters;
use crate::model::params::{ParameterTable, Tensor};
use crate::{Error, Result, memory};
use std::fmt;
use std::path::{Path, PathBuf};

const KEY: &str = "init_from";

/// The run or file that another run begins from; its weights are still on disk.
#[derive(Debug)]
pub struct Source {
    place: PathBuf,
    items: Vocabulary,
    model: TensorFile,
    /// Of a run's model; a file from RecBole has none.
    note: Option<Note>,
    /// SHA-256 of the file that has them, in hex.
    pub sha256: String,
}

/// What became of the items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items whose vectors were taken over.
    pub kept: usize,
    /// Items that had none.
    pub new: usize,
    /// Items that the data no longer has.
    pub expired: usize,
    /// Whether those stay in the catalogue.
    pub keep_expired: bool,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} items keep their vectors, {} are new, {} ",
            self.kept, self.new, self.expired
        )?;
        f.write_str(match self.keep_expired {
            true => "that the data no longer has stay in the catalogue (keep_expired)",
            false => "that the data no longer has are dropped (--keep_expired would keep them)",
        })
    }
}

impl Source {
    /// The run or file in `init_from`, if there is one and weights are still wanted from it: a run that resumes has
    /// them in its checkpoint. Reads everything but the weights.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no complete run, has another network, or is not the one that the run began
    /// with; [`Error::Input`] and [`Error::Checkpoint`] when its files are damaged.
    pub fn open(config: &Config) -> Result<Option<Self>> {
        let Some(place) = &config.train.init_from else { return Ok(None) };
        if continues(config) {
            return Ok(None);
        }
        let (items, mut model, note) = if place.is_file() {
            let (items, model) = open_file(place, config)?;
            (items, model, None)
        } else {
            let (items, model, note) = open_run(place, config)?;
            (items, model, Some(note))
        };
        let sha256 = model.sha256()?;
        match &config.train.init_from_sha256 {
            Some(expected) if *expected != sha256 => Err(Error::config(
                KEY,
                format!(
                    "{} holds another model than this run began with: SHA-256 {expected} became {sha256}",
                    place.display()
                ),
                "put the same model in its place, or start over with --overwrite or in another run_dir",
            )),
            _ => Ok(Some(Source { place: place.clone(), items, model, note, sha256 })),
        }
    }

    /// Weights laid out by `table` for a catalogue of `items`, of which the last `expired` stay without being
    /// in the data.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a tensor is missing, has another shape or a value that is not finite, or a run's
    /// weights are not those that it wrote;
    /// [`Error::Config`] when no item is known; [`Error::Memory`], [`Error::Io`].
    pub fn weights(
        mut self,
        config: &Config,
        items: &Vocabulary,
        expired: usize,
        table: &ParameterTable,
    ) -> Result<(Vec<f32>, Counts)> {
        let rows = self.origins(items)?;
        let new = rows.iter().filter(|&&row| row == 0).count();
        let kept = rows.len() - new - expired;
        let keep_expired = config.train.keep_expired;
        let counts = Counts { kept, new, expired: self.items.len() - kept, keep_expired };
        if kept == 0 {
            return Err(Error::config(
                KEY,
                format!(
                    "{}: none of its {} items is in the data",
                    self.place.display(),
                    self.items.len()
                ),
                "check dataset and ITEM_ID_FIELD, or leave init_from out to start from nothing",
            ));
        }
        let needed =
            4 * (ParameterTable::count(&config.model, self.items.len()) + table.total as u128);
        memory::require(
            "copying the weights of init_from",
            needed,
            "give the machine more memory",
        )?;
        let before = ParameterTable::new(&config.model, self.items.len());
        let old = model_file::read_opened(&mut self.model, &before)?;
        if let Some(note) = &self.note {
            note.check_weights(&self.model, &old)?;
        }
        // Standard normal numbers where weights are drawn; everything but the rows of new items is replaced.
        let mut weights = initial_parameters(table, 1.0, config.train.seed);
        for (tensor, before) in table.tensors.iter().zip(&before.tensors) {
            let (old, new) = (&old[before.range()], &mut weights[tensor.range()]);
            match row_width(table, tensor) {
                Some(width) => fill_rows(new, old, width, &rows),
                None => new.copy_from_slice(old),
            }
        }
        Ok((weights, counts))
    }

    /// For each item its number in the earlier run, both from 1; 0 where it is new.
    fn origins(&self, items: &Vocabulary) -> Result<Vec<usize>> {
        let index = self.items.index()?;
        Ok(items.iter().map(|id| index.get(id).map_or(0, |number| number + 1)).collect())
    }
}

/// Item ids, open weights and their note of the run in `folder`.
fn open_run(folder: &Path, config: &Config) -> Result<(Vocabulary, TensorFile, Note)> {
    check_files(folder, &rundir::locate(config))?;
    let earlier = config::read(&folder.join(CONFIG))?;
    check_network(folder, &earlier.model, &config.model)?;
    let items = id_file::read(&folder.join(ITEMS), "item", 1)?;
    let model = TensorFile::open(&folder.join(MODEL), model_file::REMEDY)?;
    let note = Note::of(&model)?;
    note.check_items(&model, &items)?;
    Ok((items, model, note))
}

/// Item ids and open weights of a file from RecBole.
fn open_file(path: &Path, config: &Config) -> Result<(Vocabulary, TensorFile)> {
    let model = recbole_file::open(path)?;
    let items = recbole_file::items(&model)?;
    check_network(path, &recbole_file::model(path, &config.model)?, &config.model)?;
    Ok((items, model))
}

/// Whether the run goes on from a checkpoint of its own.
pub fn continues(config: &Config) -> bool {
    config.run.resume && rundir::locate(config).join(CHECKPOINT).exists()
}

/// The hash in `config` or, for a run that goes on, the one it noted when it began.
///
/// # Errors
/// Those of [`config::read`].
pub fn noted_hash(config: &Config) -> Result<Option<String>> {
    let train = &config.train;
    let noted = rundir::locate(config).join(CONFIG);
    if train.init_from.is_none() || train.init_from_sha256.is_some() || !noted.is_file() {
        return Ok(train.init_from_sha256.clone());
    }
    Ok(config::read(&noted)?.train.init_from_sha256)
}

/// The items that stay though `items`, those of the data, are without them: `keep_expired`. A run that goes on
/// finds them in its own catalogue.
///
/// # Errors
/// [`Error::Io`], [`Error::Input`].
pub fn expired(
    config: &Config,
    source: Option<&Source>,
    items: &Vocabulary,
) -> Result<Vec<String>> {
    if !config.train.keep_expired {
        return Ok(Vec::new());
    }
    let own;
    let earlier = match source {
        Some(source) => &source.items,
        None => {
            own = id_file::read(&rundir::locate(config).join(ITEMS), "item", 1)?;
            &own
        }
    };
    let index = items.index()?;
    Ok(earlier.iter().filter(|id| index.get(id).is_none()).map(str::to_string).collect())
}

fn check_files(folder: &Path, run_dir: &Path) -> Result<()> {
    let remedy = "give the directory of a run that has completed an epoch, or a file as docs/weights.md has it";
    if !folder.is_dir() {
        let problem = format!("{} is neither a directory nor a file", folder.display());
        return Err(Error::config(KEY, problem, remedy));
    }
    if let Some(name) = [CONFIG, ITEMS, MODEL].iter().find(|name| !folder.join(name).exists()) {
        return Err(Error::config(KEY, format!("{} holds no {name}", folder.display()), remedy));
    }
    let same = [folder, run_dir].map(|path| path.canonicalize().ok());
    if same[0] == same[1] {
        return Err(Error::config(
            KEY,
            format!("{} is the run_dir itself, which this run replaces", folder.display()),
            "choose another run_dir",
        ));
    }
    Ok(())
}

/// Weights mean the same only in the same network; most differences show in no shape.
fn check_network(folder: &Path, earlier: &ModelConfig, model: &ModelConfig) -> Result<()> {
    // Dropout and the spread of first weights are no part of it.
    let network = |model: &ModelConfig| Config {
        model: ModelConfig {
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            initializer_range: 1.0,
            ..model.clone()
        },
        ..Config::default()
    };
    let differences = config::differences(&network(earlier), &network(model));
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::config(
        KEY,
        format!(
            "the network of {} has other tensors, or uses them otherwise: {}",
            folder.display(),
            differences.join("; ")
        ),
        "leave these keys out, as they are taken from there; another network has to start from nothing",
    ))
}

/// Elements a row, for the tensors that have a row for each item.
fn row_width(table: &ParameterTable, tensor: &Tensor) -> Option<usize> {
    let range = tensor.range();
    let per_item = range == table.item_embedding
        || range == table.output_bias
        || Some(&range) == table.output_weight.as_ref();
    per_item.then(|| tensor.shape.get(1).copied().unwrap_or(1))
}

/// Fills the rows of PAD, of each item, and of MASK where there is one: from `old` or, where `rows` is 0, as a
/// new item's from the standard normal numbers that are there.
fn fill_rows(new: &mut [f32], old: &[f32], width: usize, rows: &[usize]) {
    let old_row = |row: usize| &old[row * width..(row + 1) * width];
    let old_items = old.len() / width - 1 - (new.len() / width - 1 - rows.len());
    let spread = Spread::of(&old[width..(1 + old_items) * width], width);
    for (row, values) in new.chunks_exact_mut(width).enumerate() {
        match row.checked_sub(1).map(|item| rows.get(item)) {
            None => values.copy_from_slice(old_row(0)),
            Some(Some(0)) => spread.scale(values),
            Some(Some(&origin)) => values.copy_from_slice(old_row(origin)),
            Some(None) => values.copy_from_slice(old_row(old_items + 1)),
        }
    }
}

/// Mean and standard deviation of each channel.
struct Spread {
    means: Vec<f64>,
    deviations: Vec<f64>,
}

impl Spread {
    fn of(rows: &[f32], width: usize) -> Self {
        let count = (rows.len() / width).max(1) as f64;
        let mut means = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            means.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        means.iter_mut().for_each(|sum| *sum /= count);
        let mut deviations = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            for ((sum, &value), mean) in deviations.iter_mut().zip(row).zip(&means) {
                *sum += (f64::from(value) - mean).powi(2);
            }
        }
        deviations.iter_mut().for_each(|sum| *sum = (*sum / count).sqrt());
        Spread { means, deviations }
    }

    /// Standard normal numbers become a row like the others.
    fn scale(&self, values: &mut [f32]) {
        for ((value, mean), deviation) in values.iter_mut().zip(&self.means).zip(&self.deviations) {
            *value = (mean + deviation * f64::from(*value)) as f32;
        }
    }
}
