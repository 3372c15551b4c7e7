//! The model on a GPU for answering only: weights, and no gradients or moments.

use super::batch::Capacity;
use super::device::Device;
use super::engine::CudaEngine;
use super::memory::Storage;
use super::weights::Weights;
use crate::Result;
use crate::batch::Batch;
use crate::config::{ModelConfig, TrainConfig};
use crate::cpu::top_k::Entry;
use crate::model::params::ParameterTable;

pub use super::top_k::MOST_BEST;

/// Weights on a GPU. What it may be asked is a part of what an engine may be: it has nothing to train with.
pub struct CudaScorer<S>(CudaEngine<S>);

impl<S: Storage> CudaScorer<S> {
    /// A model of `items` items with `parameters` laid out by its [`ParameterTable`], and room for batches of up to
    /// `capacity`; larger ones make room for themselves.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the buffer; [`crate::Error::Device`].
    pub fn new(
        device: Device,
        model: &ModelConfig,
        items: usize,
        parameters: &[f32],
        capacity: Capacity,
    ) -> Result<Self> {
        let table = ParameterTable::new(model, items);
        let weights = Weights::for_ranking(&device, &table)?;
        weights.load(&device, parameters)?;
        let train = TrainConfig::default();
        let mut engine = CudaEngine::with_weights(device, model, &train, items, table, weights);
        engine.reserve_ranking(capacity)?;
        Ok(CudaScorer(engine))
    }

    /// The head's output `[P, D]` at the rows of `batch`.
    ///
    /// # Errors
    /// [`crate::Error::Memory`]; [`crate::Error::Device`].
    pub fn rows(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.0.head_rows(batch)
    }

    /// The best `k` items (1 to [`MOST_BEST`]) for each row of `batch`, best first; left out are those in the row's list
    /// of `seen` (ascending) and those whose `bias [V]`, which stands in for the model's, is negative infinity.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a score is not finite; [`crate::Error::Memory`]; [`crate::Error::Device`].
    pub fn top_k(
        &mut self,
        batch: &Batch,
        seen: &[&[u32]],
        bias: Option<&[f32]>,
        k: usize,
    ) -> Result<Vec<Vec<Entry>>> {
        self.0.best_items(batch, seen, bias, k)
    }
}
