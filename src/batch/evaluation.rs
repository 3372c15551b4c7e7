//! Batches that are only ranked: a history whose next item is to be predicted.

use super::{Batch, pack::Packer};
use crate::config::{ModelConfig, Objective};
use crate::data::{EvalRow, Sequences};

/// Most items of a history that `model` reads: one fewer than `L` where MASK takes a place.
pub fn context(model: &ModelConfig) -> usize {
    match model.objective {
        Objective::Cloze => model.max_len.saturating_sub(1),
        Objective::Causal => model.max_len,
    }
}

/// One sequence for each of `rows`: the last [`context`] items before the target. A cloze model has MASK
/// after them, whose row predicts the target; a causal one predicts it at the last of them. Before any item
/// there is only MASK, whatever the model. The segments stay empty, since only training reads them.
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
        let start = target.saturating_sub(context(model));
        let items = &sequences.get(row.user as usize)[start..=target];
        match (model.objective, items) {
            (Objective::Causal, [before @ .., target]) if !before.is_empty() => {
                packer.push_last(&mut batch, before, *target);
            }
            _ => packer.push(&mut batch, items, &[(target - start) as u32]),
        }
    }
    batch
}
