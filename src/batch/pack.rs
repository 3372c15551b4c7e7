//! Laying sequences end to end in a [`Batch`].

use super::{Batch, segments};
use crate::config::{ModelConfig, Positions};

/// Appends sequences to a batch.
#[derive(Debug)]
pub struct Packer {
    /// Index of MASK, `V + 1`.
    mask: u32,
    positions: Positions,
    scratch: segments::Scratch,
}

impl Packer {
    /// For a model of `item_count` items.
    pub fn new(item_count: usize, model: &ModelConfig) -> Self {
        Packer {
            mask: item_count as u32 + 1,
            positions: model.positions,
            scratch: segments::Scratch::default(),
        }
    }

    /// Empties `batch`, keeping its memory.
    pub fn begin(&self, batch: &mut Batch) {
        for list in [&mut batch.ids, &mut batch.positions, &mut batch.rows, &mut batch.targets] {
            list.clear();
        }
        for list in [&mut batch.cu_seqlens, &mut batch.cu_rows] {
            list.clear();
            list.push(0);
        }
        batch.token_segments.clear();
        batch.target_segments.clear();
    }

    /// Appends `items` as one sequence that hides the items at `masked` (ascending positions) and has them
    /// as targets.
    pub fn push(&self, batch: &mut Batch, items: &[u32], masked: &[u32]) {
        let first = batch.ids.len();
        batch.ids.extend_from_slice(items);
        for &position in masked {
            let token = first + position as usize;
            batch.targets.push(batch.ids[token]);
            batch.rows.push(token as u32);
            batch.ids[token] = self.mask;
        }
        self.end(batch, items.len());
    }

    /// Appends all but the last of `items`, at least two, as one sequence in which each item has the next as
    /// its target.
    pub fn push_next(&self, batch: &mut Batch, items: &[u32]) {
        let first = batch.ids.len() as u32;
        let Some((_, inputs)) = items.split_last() else { return };
        batch.ids.extend_from_slice(inputs);
        batch.targets.extend_from_slice(&items[1..]);
        batch.rows.extend(first..batch.ids.len() as u32);
        self.end(batch, inputs.len());
    }

    /// Appends `items` as one sequence of which only the last one's row is read, to predict `target`.
    pub fn push_last(&self, batch: &mut Batch, items: &[u32], target: u32) {
        batch.ids.extend_from_slice(items);
        batch.rows.push(batch.ids.len() as u32 - 1);
        batch.targets.push(target);
        self.end(batch, items.len());
    }

    /// What a sequence of `length` items, whose tokens and rows are there, still lacks.
    fn end(&self, batch: &mut Batch, length: usize) {
        let positions = 0..length as u32;
        match self.positions {
            Positions::Absolute => batch.positions.extend(positions),
            Positions::FromEnd => batch.positions.extend(positions.rev()),
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.cu_rows.push(batch.rows.len() as u32);
    }

    /// Groups the tokens by item and the rows by target; a batch that is only ranked does without.
    pub fn group(&mut self, batch: &mut Batch) {
        batch.token_segments.group(&batch.ids, self.mask, &mut self.scratch);
        batch.target_segments.group(&batch.targets, self.mask, &mut self.scratch);
    }
}
