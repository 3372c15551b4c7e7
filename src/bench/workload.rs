//! What is measured: sizes of a model and its batches, and histories that are drawn by a law or read from a file.

use crate::batch::{Batch, TrainingBatches};
use crate::config::{BatchSize, DataConfig, ModelConfig, TrainConfig};
use crate::data::{self, EvalRow, Sequences, Split};
use crate::train::files;
use crate::{Error, Result, philox};
use clap::{Arg, ArgMatches, value_parser};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Items at the end of a history that do not train: one to validate, one to test.
const HELD_OUT: usize = 2;

/// Sizes of a measured configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// A, B, C or D, whatever sizes were changed.
    pub name: String,
    /// `V`, of drawn histories; a file has its own.
    pub items: usize,
    /// Histories that are drawn.
    pub users: usize,
    /// How long they are.
    pub lengths: Lengths,
    /// `L`
    pub max_len: usize,
    /// `D`; the feed-forward width is four times that.
    pub hidden_size: usize,
    /// `N`
    pub n_layers: usize,
    /// `H`
    pub n_heads: usize,
    /// `B`
    pub sequences: usize,
    /// Interaction file to read in place of drawing.
    pub data: Option<PathBuf>,
}

/// How history lengths are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Lengths {
    /// Median, mean, least.
    LogNormal(f64, f64, f64),
    /// Mean, least.
    Geometric(f64, f64),
}

/// Names of the presets.
pub const NAMES: [&str; 4] = ["A", "B", "C", "D"];

/// Histories and what of them trains.
#[derive(Clone, Debug)]
pub struct Histories {
    /// The latest `L + 2` items of each user.
    pub sequences: Arc<Sequences>,
    /// All but the last two items train; the last two are validated and tested.
    pub split: Arc<Split>,
    /// `V`
    pub items: usize,
}

impl Lengths {
    /// From `lognormal:MEDIAN:MEAN:LEAST` or `geometric:MEAN:LEAST`.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let numbers: Option<Vec<f64>> = parts.map(|part| part.parse().ok()).collect();
        let lengths = match (kind, numbers.as_deref()) {
            ("lognormal", Some(&[median, mean, least])) if mean >= median && median > 0.0 => {
                Some((Lengths::LogNormal(median, mean, least), least))
            }
            ("geometric", Some(&[mean, least])) if mean > least => {
                Some((Lengths::Geometric(mean, least), least))
            }
            _ => None,
        };
        match lengths {
            Some((lengths, least)) if least >= (HELD_OUT + 1) as f64 => Ok(lengths),
            _ => Err(Error::config(
                "law",
                format!("`{text}` is no law of history lengths"),
                "write lognormal:MEDIAN:MEAN:LEAST (mean not below median) or geometric:MEAN:LEAST (mean above \
                 least), with at least 3 items a history",
            )),
        }
    }

    /// So many lengths, `most` at most, the same every time.
    pub fn draw_many(&self, count: usize, most: usize) -> Vec<usize> {
        let mut uniform = uniform_numbers();
        (0..count).map(|_| (self.draw(&mut uniform) as usize).min(most)).collect()
    }

    /// One length, from numbers of `uniform` in (0, 1).
    fn draw(&self, mut uniform: impl FnMut() -> f64) -> f64 {
        match *self {
            Lengths::LogNormal(median, mean, least) => {
                let normal =
                    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
                (median.ln() + (2.0 * (mean / median).ln()).sqrt() * normal).exp().max(least)
            }
            Lengths::Geometric(mean, least) => {
                least + (uniform().ln() / (1.0 - 1.0 / (mean - least + 1.0)).ln()).floor()
            }
        }
    }
}

impl Workload {
    /// A: ml-100k; B: ml-1m; C: Beauty (short histories); D: ML-20M, width 256.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such preset.
    pub fn preset(name: &str) -> Result<Self> {
        let (items, users, lengths, max_len, hidden_size, n_heads, sequences) = match name {
            "A" => (1682, 943, Lengths::LogNormal(65.0, 106.0, 20.0), 50, 64, 2, 128),
            "B" => (3416, 6040, Lengths::LogNormal(96.0, 165.0, 20.0), 200, 64, 2, 128),
            "C" => (12_101, 22_363, Lengths::Geometric(8.9, 3.0), 50, 64, 2, 256),
            "D" => (26_744, 20_000, Lengths::LogNormal(68.0, 144.0, 20.0), 200, 256, 8, 64),
            _ => {
                let problem = format!("no preset `{name}`");
                return Err(Error::config(
                    "configs",
                    problem,
                    "use A, B, C or D, with commas between",
                ));
            }
        };
        let name = name.to_string();
        let data = None;
        Ok(Workload {
            name,
            items,
            users,
            lengths,
            max_len,
            hidden_size,
            n_layers: 2,
            n_heads,
            sequences,
            data,
        })
    }

    /// Flags for sizes other than a preset's.
    pub fn arguments() -> Vec<Arg> {
        let size = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_parser(value_parser!(u64).range(1..)).help(help)
        };
        vec![
            size("items", "V of drawn histories, in place of the preset's"),
            size("users", "Histories to draw"),
            Arg::new("law").long("law").help("Lengths: lognormal:MEDIAN:MEAN:LEAST or geometric:MEAN:LEAST"),
            size("max-len", "Longest sequence, L"),
            size("hidden-size", "Width D; the feed-forward width is 4 D"),
            size("layers", "Encoder layers, N"),
            size("heads", "Attention heads, H; divides D"),
            size("batch", "Sequences a batch"),
            Arg::new("data")
                .long("data")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Histories of this interaction file (as b4r-train reads it) in place of drawn ones"),
        ]
    }

    /// The presets that `--configs` names, with the sizes that other flags change.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn from_arguments(arguments: &ArgMatches) -> Result<Vec<Self>> {
        let names = arguments.get_one::<String>("configs").map_or("", String::as_str);
        names.split(',').map(|name| Workload::preset(name.trim())?.changed(arguments)).collect()
    }

    fn changed(mut self, arguments: &ArgMatches) -> Result<Self> {
        let set = |name: &str, size: &mut usize| {
            if let Some(&given) = arguments.get_one::<u64>(name) {
                *size = given as usize;
            }
        };
        set("items", &mut self.items);
        set("users", &mut self.users);
        set("max-len", &mut self.max_len);
        set("hidden-size", &mut self.hidden_size);
        set("layers", &mut self.n_layers);
        set("heads", &mut self.n_heads);
        set("batch", &mut self.sequences);
        if let Some(law) = arguments.get_one::<String>("law") {
            self.lengths = Lengths::parse(law)?;
        }
        self.data = arguments.get_one::<PathBuf>("data").cloned();
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            return Err(Error::config(
                "heads",
                format!("{} heads do not divide a width of {}", self.n_heads, self.hidden_size),
                "choose --heads and --hidden-size so that one divides the other",
            ));
        }
        Ok(self)
    }

    /// Its network, with hidden dropout of 0.1.
    pub fn model(&self, attention_dropout: f64) -> ModelConfig {
        ModelConfig {
            hidden_size: self.hidden_size,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            inner_size: 4 * self.hidden_size,
            max_len: self.max_len,
            hidden_dropout: 0.1,
            attention_dropout,
            ..ModelConfig::default()
        }
    }

    /// How it is trained: a fifth of the positions masked.
    pub fn train(&self) -> TrainConfig {
        TrainConfig {
            batch_size: BatchSize::Sequences(self.sequences),
            shift_windows: false,
            mask_ratio: 0.2,
            last_item_ratio: 0.0,
            weight_decay: 0.01,
            ..TrainConfig::default()
        }
    }

    /// Its histories: those of its file, or drawn.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn histories(&self) -> Result<Histories> {
        match &self.data {
            Some(path) => self.read(path),
            None => Ok(self.cut(&draw(self), self.items)),
        }
    }

    /// The batches of its training epochs.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn batches(&self, histories: &Histories) -> Result<TrainingBatches> {
        let Histories { sequences, split, items } = histories.clone();
        TrainingBatches::new(sequences, split, items, &self.model(0.0), &self.train())
    }

    /// The first training batch, and `V`.
    ///
    /// # Errors
    /// Those of [`Self::histories`] and [`Self::batches`].
    pub fn first_batch(&self) -> Result<(Batch, usize)> {
        let histories = self.histories()?;
        let mut batch = Batch::default();
        self.batches(&histories)?.epoch(0).batch(0, &mut batch);
        Ok((batch, histories.items))
    }

    fn read(&self, path: &Path) -> Result<Histories> {
        let dataset = path.display().to_string();
        let (dataset, _) = data::load(&DataConfig { dataset, ..DataConfig::default() }, false)?;
        let items = dataset.item_count();
        Ok(self.cut(&dataset.sequences, items))
    }

    /// The latest items of each history that has something to train on.
    fn cut(&self, whole: &Sequences, items: usize) -> Histories {
        let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
        let mut split = Split::default();
        for user in 0..whole.len() {
            let history = whole.get(user);
            if history.len() <= HELD_OUT {
                continue;
            }
            let length = history.len().min(self.max_len + HELD_OUT);
            sequences.items.extend_from_slice(&history[history.len() - length..]);
            sequences.offsets.push(sequences.items.len() as u64);
            let (user, length) = (split.train_lengths.len() as u32, length as u32);
            split.train_lengths.push(length - HELD_OUT as u32);
            split.valid.push(EvalRow { user, position: length - 2 });
            split.test.push(EvalRow { user, position: length - 1 });
        }
        Histories { sequences: Arc::new(sequences), split: Arc::new(split), items }
    }
}

impl Histories {
    /// Writes them as a RecBole atomic file, which everything that is compared can read.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        files::replace(path, |out| {
            writeln!(out, "user_id:token\titem_id:token\trating:float\ttimestamp:float")?;
            for user in 0..self.sequences.len() {
                for (time, item) in self.sequences.get(user).iter().enumerate() {
                    writeln!(out, "{user}\t{item}\t1\t{time}")?;
                }
            }
            Ok(())
        })
    }
}

/// Numbers in (0, 1), the same every time.
fn uniform_numbers() -> impl FnMut() -> f64 {
    let mut counter = 0u64;
    move || {
        counter += 1;
        let at = [counter as u32, (counter >> 32) as u32, 0, 0];
        philox::unit(philox::block(philox::key(7), at)[0])
    }
}

/// Whole histories whose lengths follow the law and whose items fall off like real popularity.
fn draw(workload: &Workload) -> Sequences {
    let mut uniform = uniform_numbers();
    let weights = (0..workload.items).map(|i| (i as f64 + 10.0).powf(-0.8));
    let cumulative: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
    for _ in 0..workload.users {
        // Nothing before the latest L + 2 items is used.
        let most = workload.max_len + HELD_OUT;
        let length = (workload.lengths.draw(&mut uniform) as usize).min(most);
        for _ in 0..length {
            let at = uniform() * cumulative[workload.items - 1];
            let item = cumulative.partition_point(|&c| c < at).min(workload.items - 1);
            sequences.items.push(item as u32 + 1);
        }
        sequences.offsets.push(sequences.items.len() as u64);
    }
    sequences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_their_law() {
        let lengths = |workload: &Workload| -> Vec<f64> {
            let histories = workload.histories().unwrap();
            histories.split.train_lengths.iter().map(|&length| f64::from(length)).collect()
        };
        let mean = |lengths: &[f64]| lengths.iter().sum::<f64>() / lengths.len() as f64;
        let beauty = lengths(&Workload::preset("C").unwrap());
        // 8.9 less the two that are held out, and the few beyond L.
        assert!((mean(&beauty) - 6.9).abs() < 0.15, "{}", mean(&beauty));
        assert!(beauty.iter().all(|&length| (1.0..=50.0).contains(&length)));
        let ml_1m = Workload { max_len: 100_000, users: 20_000, ..Workload::preset("B").unwrap() };
        let ml_1m = lengths(&ml_1m);
        assert!((mean(&ml_1m) / 163.0 - 1.0).abs() < 0.05, "{}", mean(&ml_1m));
    }

    #[test]
    fn a_file_gives_the_histories_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut workload = Workload { users: 50, ..Workload::preset("A").unwrap() };
        let drawn = workload.histories().unwrap();
        workload.data = Some(folder.path().join("drawn.inter"));
        drawn.write(workload.data.as_ref().unwrap()).unwrap();
        let read = workload.histories().unwrap();
        assert_eq!(drawn.split, read.split);
        assert_eq!(drawn.sequences.offsets, read.sequences.offsets);
        // Numbered by first appearance.
        let mut names = vec![0u32; drawn.items + 1];
        for (&old, &new) in drawn.sequences.items.iter().zip(&read.sequences.items) {
            assert!(names[old as usize] == 0 || names[old as usize] == new);
            names[old as usize] = new;
        }
        assert_eq!(names.iter().filter(|&&name| name > 0).count(), read.items);
    }

    #[test]
    fn laws_that_are_none_are_refused() {
        assert_eq!(Lengths::parse("geometric:8.9:3").unwrap(), Lengths::Geometric(8.9, 3.0));
        for law in [
            "",
            "geometric:8.9",
            "geometric:3:8",
            "geometric:9:2",
            "lognormal:9:8:3",
            "uniform:1:2",
            "lognormal:a:b:c",
        ] {
            let error = Lengths::parse(law).unwrap_err().to_string();
            assert!(error.contains("lognormal:MEDIAN:MEAN:LEAST"), "{law}: {error}");
        }
    }
}
