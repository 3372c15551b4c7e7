//! The batches of each training epoch.

use super::windows::{Tiling, Window, cut_by_interactions, cut_by_size, cut_evenly, shuffle};
use super::{Batch, mask::Masker, pack::Packer};
use crate::config::{BatchSize, ModelConfig, Objective, TrainConfig};
use crate::data::{Sequences, Split};
use crate::{Error, Result, philox};
use std::sync::Arc;

/// Makes any training batch of a run, from its epoch and index alone.
///
/// An epoch visits every training interaction once. Where each item has the next as its target
/// ([`Objective::Causal`]), windows tile these pairs: one of `n` takes `n + 1` items, so that neighbours share
/// one, and a user's first item is a target nowhere. Its number of steps is the same in every epoch:
/// - [`BatchSize::Interactions`]`(n)`: the training interactions that have another before them (the rows that
///   RecBole counts) divided by `n`, rounded up; each batch has an equal share of all interactions, give or
///   take half a window at either end.
/// - [`BatchSize::Sequences`]`(n)`: the windows divided by `n`, rounded up; the last batch is smaller. With
///   `shift_windows` their number varies, so the expected number is divided, and batch sizes vary with it.
///
/// There are never more steps than an epoch always has windows: a batch holds at least one.
#[derive(Clone, Debug)]
pub struct TrainingBatches {
    sequences: Arc<Sequences>,
    split: Arc<Split>,
    item_count: usize,
    model: ModelConfig,
    batch_size: BatchSize,
    tiling: Tiling,
    masker: Masker,
    interactions: u64,
    /// Windows an epoch has at most.
    most_windows: usize,
    steps: usize,
}

/// Sums over users that fix the number of steps.
#[derive(Default)]
struct Totals {
    interactions: u64,
    /// Interactions with another before them in what trains: RecBole's rows.
    rows: u64,
    /// Windows without shift: the least there can be.
    windows: u64,
    /// Histories longer than `L`: a shift may give each one more window.
    long: u64,
    /// Expected number of windows in an epoch, times `L`.
    expected: u64,
}

impl Totals {
    fn new(train_lengths: &[u32], tiling: &Tiling, objective: Objective) -> Self {
        let max_len = u64::from(tiling.max_len);
        let mut totals = Totals::default();
        for &train_length in train_lengths {
            let length = u64::from(tiled(train_length, objective));
            totals.interactions += length;
            totals.rows += u64::from(train_length.saturating_sub(1));
            totals.windows += length.div_ceil(max_len);
            if tiling.shift && length > max_len {
                totals.long += 1;
                // The mean over shifts s in 0..L of 1 + ceil((length - (L - s)) / L), times L.
                totals.expected += length + max_len - 1;
            } else {
                totals.expected += length.div_ceil(max_len) * max_len;
            }
        }
        totals
    }
}

/// How much of a training history of `length` items windows tile.
fn tiled(length: u32, objective: Objective) -> u32 {
    match objective {
        Objective::Cloze => length,
        Objective::Causal => length.saturating_sub(1),
    }
}

impl TrainingBatches {
    /// Batches of the training part of `sequences`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is nothing to train on, or a size is 0 or beyond 32-bit indices.
    pub fn new(
        sequences: Arc<Sequences>,
        split: Arc<Split>,
        item_count: usize,
        model: &ModelConfig,
        train: &TrainConfig,
    ) -> Result<Self> {
        let (key, size) = match train.batch_size {
            BatchSize::Interactions(n) => ("train_batch_size", n),
            BatchSize::Sequences(n) => ("train_batch_sequences", n),
        };
        if size == 0 {
            return Err(Error::config(key, "is 0", "use at least 1"));
        }
        let Some(max_len) = u32::try_from(model.max_len).ok().filter(|&length| length > 0) else {
            return Err(Error::config(
                "max_len",
                format!("{} is no window length", model.max_len),
                "use at least 1 and at most 4294967295",
            ));
        };
        let tiling = Tiling { max_len, shift: train.shift_windows, key: philox::key(train.seed) };
        let totals = Totals::new(&split.train_lengths, &tiling, model.objective);
        if totals.interactions == 0 {
            return Err(Error::config(
                "dataset",
                "no interaction is left to train on",
                "relax the filters, or use histories of at least 3 items",
            ));
        }
        let steps = match train.batch_size {
            BatchSize::Interactions(n) => totals.rows.div_ceil(n as u64).max(1),
            BatchSize::Sequences(n) => {
                totals.expected.div_ceil((n as u64).saturating_mul(u64::from(max_len)))
            }
        };
        let batches = TrainingBatches {
            sequences,
            split,
            item_count,
            model: model.clone(),
            batch_size: train.batch_size,
            tiling,
            masker: Masker::new(train),
            interactions: totals.interactions,
            most_windows: (totals.windows + totals.long) as usize,
            steps: steps.min(totals.windows) as usize,
        };
        if batches.most_windows > u32::MAX as usize || batches.max_tokens() > u64::from(u32::MAX) {
            return Err(Error::config(
                key,
                "an epoch has more than 2^32 windows, or a batch more than 2^32 tokens",
                "use a smaller batch or a larger max_len",
            ));
        }
        Ok(batches)
    }

    /// Batches an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps as u64
    }

    /// `V`.
    pub fn item_count(&self) -> usize {
        self.item_count
    }

    /// Training interactions an epoch visits.
    pub fn interactions(&self) -> u64 {
        self.interactions
    }

    /// Most tokens a batch can have; so much memory a step may need.
    pub fn max_tokens(&self) -> u64 {
        let max_len = u64::from(self.tiling.max_len);
        let bound = match self.batch_size {
            BatchSize::Interactions(_) => self.interactions.div_ceil(self.steps as u64) + max_len,
            BatchSize::Sequences(n) if !self.tiling.shift => max_len.saturating_mul(n as u64),
            BatchSize::Sequences(_) => {
                max_len.saturating_mul(self.most_windows.div_ceil(self.steps) as u64)
            }
        };
        bound.min(self.interactions)
    }

    /// The plan of one epoch, counted from 0; costs time and memory in proportion to the windows.
    pub fn epoch(&self, epoch: u32) -> EpochPlan<'_> {
        let mut windows = Vec::with_capacity(self.most_windows);
        for (user, &length) in (0u32..).zip(&self.split.train_lengths) {
            let length = tiled(length, self.model.objective);
            windows.extend(self.tiling.windows(user, length, epoch));
        }
        shuffle(&mut windows, self.tiling.key, epoch);
        let cuts = match self.batch_size {
            BatchSize::Interactions(_) => {
                cut_by_interactions(&windows, self.steps, self.interactions)
            }
            BatchSize::Sequences(n) if !self.tiling.shift => {
                cut_by_size(windows.len(), self.steps, n)
            }
            BatchSize::Sequences(_) => cut_evenly(windows.len(), self.steps),
        };
        EpochPlan {
            source: self,
            epoch,
            windows,
            cuts,
            packer: Packer::new(self.item_count, &self.model),
            masked: Vec::new(),
        }
    }
}

/// One epoch: its windows in order and where its batches begin.
#[derive(Debug)]
pub struct EpochPlan<'a> {
    source: &'a TrainingBatches,
    epoch: u32,
    windows: Vec<Window>,
    /// `[steps + 1]` window with which each batch begins.
    cuts: Vec<usize>,
    packer: Packer,
    masked: Vec<u32>,
}

impl EpochPlan<'_> {
    /// Number of batches: [`TrainingBatches::steps_per_epoch`].
    pub fn len(&self) -> u64 {
        self.cuts.len() as u64 - 1
    }

    /// Whether there is no batch; never the case.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The windows of batch `index`, in the order in which the batch holds them.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    pub fn windows(&self, index: u64) -> &[Window] {
        let index = index as usize;
        &self.windows[self.cuts[index]..self.cuts[index + 1]]
    }

    /// Replaces `batch` by batch `index` of the epoch, reusing its memory.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    pub fn batch(&mut self, index: u64, batch: &mut Batch) {
        let EpochPlan { source, epoch, windows, cuts, packer, masked } = self;
        let index = index as usize;
        packer.begin(batch);
        for window in &windows[cuts[index]..cuts[index + 1]] {
            let (start, length) = (window.start as usize, window.length as usize);
            let history = source.sequences.get(window.user as usize);
            match source.model.objective {
                Objective::Cloze => {
                    source.masker.draw(window, *epoch, masked);
                    packer.push(batch, &history[start..start + length], masked);
                }
                Objective::Causal => packer.push_next(batch, &history[start..=start + length]),
            }
        }
        packer.group(batch);
    }
}
