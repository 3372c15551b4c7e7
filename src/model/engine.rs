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

/// Whatever ranks the targets of a batch: an engine, or a baseline, which has no weights.
pub trait Ranker {
    /// As [`Engine::rank`].
    ///
    /// # Errors
    /// Those of the engine.
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>>;
}

impl<E: Engine + ?Sized> Ranker for E {
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        Engine::rank(self, batch, seen)
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
