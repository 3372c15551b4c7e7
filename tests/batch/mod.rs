//! Windows, masks, packing, segments, prefetch.

mod causal; // next items as targets
mod layout; // what a batch looks like
mod loader; // the prefetch thread
mod masks; // rates, addresses, reproducibility
mod windows; // coverage, order, batch sizes

use b4r::Result;
use b4r::batch::{Batch, TrainingBatches};
use b4r::config::{BatchSize, ModelConfig, Positions, TrainConfig};
use b4r::data::{Sequences, Split};
use b4r::philox;
use proptest::prelude::*;
use std::sync::Arc;

/// Everything that training batches are made from.
#[derive(Clone, Debug)]
struct Case {
    sequences: Sequences,
    split: Split,
    item_count: usize,
    model: ModelConfig,
    train: TrainConfig,
}

impl Case {
    /// Histories whose training parts have the given lengths, each followed by two held-out items. Every
    /// interaction is an item of its own, numbered through.
    fn distinct(train_lengths: &[u32]) -> Self {
        let mut offsets = vec![0];
        for &length in train_lengths {
            offsets.push(offsets[offsets.len() - 1] + u64::from(length) + 2);
        }
        let item_count = offsets[train_lengths.len()] as usize;
        Case {
            sequences: Sequences { offsets, items: (1..=item_count as u32).collect() },
            split: Split { train_lengths: train_lengths.to_vec(), ..Split::default() },
            item_count,
            model: ModelConfig::default(),
            train: TrainConfig::default(),
        }
    }

    /// Draws every item anew from `1..=item_count`, so that items repeat.
    fn with_random_items(mut self, item_count: usize) -> Self {
        for (index, item) in (0..).zip(&mut self.sequences.items) {
            let bits = philox::block([7, 7], [index, 0, 0, 0])[0];
            *item = 1 + bits % item_count as u32;
        }
        self.item_count = item_count;
        self
    }

    fn try_batches(&self) -> Result<TrainingBatches> {
        let (sequences, split) = (Arc::new(self.sequences.clone()), Arc::new(self.split.clone()));
        TrainingBatches::new(sequences, split, self.item_count, &self.model, &self.train)
    }

    fn batches(&self) -> TrainingBatches {
        self.try_batches().expect("a usable case")
    }

    /// All batches of an epoch.
    fn epoch(&self, epoch: u32) -> Vec<Batch> {
        let batches = self.batches();
        let mut plan = batches.epoch(epoch);
        (0..plan.len())
            .map(|index| {
                let mut batch = Batch::default();
                plan.batch(index, &mut batch);
                batch
            })
            .collect()
    }

    fn total(&self) -> u64 {
        self.split.train_lengths.iter().map(|&length| u64::from(length)).sum()
    }
}

/// The sequences of a batch as they were before masking.
fn unmasked(batch: &Batch) -> Vec<Vec<u32>> {
    let mut ids = batch.ids.clone();
    for (&row, &target) in batch.rows.iter().zip(&batch.targets) {
        ids[row as usize] = target;
    }
    let bounds = batch.cu_seqlens.windows(2);
    bounds.map(|bound| ids[bound[0] as usize..bound[1] as usize].to_vec()).collect()
}

/// The masked positions of each sequence, counted within it.
fn masked(batch: &Batch) -> Vec<Vec<u32>> {
    (0..batch.sequence_count())
        .map(|sequence| {
            let rows = batch.cu_rows[sequence] as usize..batch.cu_rows[sequence + 1] as usize;
            batch.rows[rows].iter().map(|row| row - batch.cu_seqlens[sequence]).collect()
        })
        .collect()
}

/// Few or many histories, empty ones among them, and all options of batches.
fn any_case() -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec(0u32..70, 1..40)
        .prop_filter("something to train on", |lengths| lengths.iter().any(|&n| n > 0));
    let size = prop_oneof![
        (1usize..200).prop_map(BatchSize::Interactions),
        (1usize..12).prop_map(BatchSize::Sequences),
    ];
    let ratios = (0.01f64..=1.0, 0.0f64..=1.0);
    (lengths, size, ratios, 1usize..24, any::<u64>(), any::<[bool; 2]>()).prop_map(
        |(lengths, batch_size, (mask_ratio, last_item_ratio), max_len, seed, [shift, end])| {
            let mut case = Case::distinct(&lengths);
            case.model.max_len = max_len;
            case.model.positions = if end { Positions::FromEnd } else { Positions::Absolute };
            case.train = TrainConfig {
                seed,
                batch_size,
                shift_windows: shift,
                mask_ratio,
                last_item_ratio,
                ..TrainConfig::default()
            };
            case
        },
    )
}
