//! What the training loop and evaluation ask of an engine.

use crate::Result;
use crate::batch::Batch;
use crate::model::params::ParameterTable;
use std::borrow::Cow;

/// What an optimizer step needs beyond its batch.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Number of this step, from 1: AdamW's bias correction and the address of its dropout.
    pub number: u64,
    /// Seed of dropout.
    pub seed: u64,
    /// Learning rate.
    pub learning_rate: f32,
}

/// What an optimizer step reports.
#[derive(Clone, Copy, Debug)]
pub struct StepOutcome {
    /// Mean cross-entropy over the batch's `P` rows.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
}

/// Weights and optimizer moments, each one arena laid out by the [`ParameterTable`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Weights.
    pub parameters: Vec<f32>,
    /// AdamW's running mean of gradients.
    pub first_moment: Vec<f32>,
    /// AdamW's running mean of squared gradients.
    pub second_moment: Vec<f32>,
}

/// A device that holds the model and works through whole batches.
pub trait Engine {
    /// Where each tensor lies in the arenas.
    fn table(&self) -> &ParameterTable;

    /// One optimizer step. Weights stay untouched when loss or gradient is not finite.
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`].
    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<StepOutcome>;

    /// For each row of `batch` (one token may stand in several rows), the rank of its target among all
    /// items, from 1. Items in the row's list of `seen` (ascending, one list a row) are left out; a target
    /// in that list gets `u32::MAX`. Items that score the same as the target, or NaN, stand before it.
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>>;

    /// The scores of each row's list of items, from 1, one list after the other.
    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>>;

    /// For each row the `k` items with the highest scores, best first, items in its list of `seen`
    /// (ascending) left out; of equal scores the lower item comes first. This one scores all items; an
    /// engine may do better.
    ///
    /// # Errors
    /// Those of [`Self::score`].
    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        // The output bias has an entry for PAD.
        let all: Vec<u32> = (1..self.table().output_bias.len() as u32).collect();
        let scores = self.score(batch, &vec![&all[..]; batch.row_count()])?;
        let best = |(scores, seen): (&[f32], &&[u32])| {
            let mut items = all.clone();
            items.retain(|item| seen.binary_search(item).is_err());
            let score = |item: &u32| scores[*item as usize - 1] + 0.0;
            items.sort_by(|a, b| score(b).total_cmp(&score(a)));
            items.truncate(k);
            items
        };
        Ok(scores.chunks_exact(all.len()).zip(seen).map(best).collect())
    }

    /// Weights and moments: lent by an engine that has them in this memory, copied by any other.
    fn state(&self) -> Cow<'_, State>;

    /// Weights alone, in the same way.
    fn parameters(&self) -> Cow<'_, [f32]>;

    /// Puts weights and moments onto the device; each has `table().total` elements.
    fn load_state(&mut self, state: &State);

    /// Puts weights alone onto the device.
    fn load_parameters(&mut self, parameters: &[f32]);
}
