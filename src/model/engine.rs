//! What the training loop and evaluation ask of an engine.

use crate::batch::Batch;
use crate::model::params::ParameterTable;
use crate::{Error, Result};
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// `P` of its batch.
    pub rows: usize,
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

/// Most steps whose outcomes an engine may keep back.
pub const MOST_PENDING: usize = 16;

/// Whatever orders items for the rows of a batch: an engine, or a baseline, which has no weights.
pub trait Ranker {
    /// As [`Engine::rank`].
    ///
    /// # Errors
    /// Those of the engine.
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>>;

    /// As [`Engine::score`].
    ///
    /// # Errors
    /// Those of the engine.
    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>>;

    /// As [`Engine::top_k`].
    ///
    /// # Errors
    /// Those of the engine.
    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>>;
}

impl<E: Engine + ?Sized> Ranker for E {
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        Engine::rank(self, batch, seen)
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        Engine::score(self, batch, items)
    }

    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        Engine::top_k(self, batch, seen, k)
    }
}

/// A device that holds the model and works through whole batches.
pub trait Engine {
    /// Where each tensor lies in the arenas.
    fn table(&self) -> &ParameterTable;

    /// Hands in one optimizer step; the engine may still be at work on it, and on some before, when this
    /// returns. From the first step on whose loss or gradient is not finite, weights stay as they are.
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`], for this step or an earlier one; [`crate::Error::Device`].
    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<()>;

    /// What steps have reported since the last call, in order: with `wait` all that were handed in, else those
    /// at hand, which are never more than [`MOST_PENDING`] behind.
    ///
    /// # Errors
    /// Those of [`Self::train_step`].
    fn outcomes(&mut self, wait: bool) -> Result<Vec<StepOutcome>>;

    /// For each row of `batch` (one token may stand in several rows), the rank of its target among all
    /// items, from 1. Items in the row's list of `seen` (ascending, one list a row) are left out; a target
    /// in that list gets `u32::MAX`. Items that score the same as the target, or NaN, stand before it.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>>;

    /// The scores of each row's list of items, from 1, one list after the other.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>>;

    /// For each row the `k` items with the highest scores, best first, items in its list of `seen`
    /// (ascending) left out; of equal scores the lower item comes first. This one scores all items; an
    /// engine may do better.
    ///
    /// # Errors
    /// Those of [`Self::score`]; [`Error::Config`] where a score is not finite.
    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        top_k_by_score(self, batch, seen, k)
    }

    /// Weights and moments after all steps handed in: lent by an engine that has them in this memory, copied
    /// by any other.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn state(&self) -> Result<Cow<'_, State>>;

    /// Weights alone, in the same way.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn parameters(&self) -> Result<Cow<'_, [f32]>>;

    /// Puts weights and moments onto the device; each has `table().total` elements.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn load_state(&mut self, state: &State) -> Result<()>;

    /// Puts weights alone onto the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn load_parameters(&mut self, parameters: &[f32]) -> Result<()>;
}

/// [`Engine::top_k`] from the scores of all items, whatever `k` is.
///
/// # Errors
/// Those of [`Engine::top_k`].
pub fn top_k_by_score<E: Engine + ?Sized>(
    engine: &mut E,
    batch: &Batch,
    seen: &[&[u32]],
    k: usize,
) -> Result<Vec<Vec<u32>>> {
    // The output bias has an entry for PAD.
    let all: Vec<u32> = (1..engine.table().output_bias.len() as u32).collect();
    let scores = engine.score(batch, &vec![&all[..]; batch.row_count()])?;
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(not_finite());
    }
    let best = |(scores, seen): (&[f32], &&[u32])| {
        let mut items = all.clone();
        items.retain(|item| seen.binary_search(item).is_err());
        // 0.0 and -0.0 are equal.
        let score = |item: &u32| scores[*item as usize - 1] + 0.0;
        items.sort_by(|a, b| score(b).total_cmp(&score(a)));
        items.truncate(k);
        items
    };
    Ok(scores.chunks_exact(all.len()).zip(seen).map(best).collect())
}

/// Items cannot be ordered by scores that are not finite.
pub(crate) fn not_finite() -> Error {
    Error::config(
        "model",
        "a score is not finite: the weights are finite but far too large",
        "train the model anew with a lower learning_rate or with clip_grad_norm",
    )
}
