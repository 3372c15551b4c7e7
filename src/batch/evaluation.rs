//! Batches that are only ranked: a history and, in place of the item to predict, MASK.

use super::{Batch, pack::Packer};
use crate::config::ModelConfig;
use crate::data::{EvalRow, Sequences};

/// One sequence for each of `rows`: the last `L - 1` items before the target, then MASK, whose row predicts
/// the target. The segments stay empty, since only training reads them.
pub fn rows(
    sequences: &Sequences,
    rows: &[EvalRow],
    item_count: usize,
    model: &ModelConfig,
) -> Batch {
    let packer = Packer::new(item_count, model);
    let mut batch = Batch::default();
    packer.begin(&mut batch);
    for row in rows {
        let target = row.position as usize;
        let start = target.saturating_sub(model.max_len.saturating_sub(1));
        let items = &sequences.get(row.user as usize)[start..=target];
        packer.push(&mut batch, items, &[(target - start) as u32]);
    }
    batch
}
