//! The order of a step's kernels.

use super::Training;
use super::loss::ItemLoss;
use crate::Result;
use crate::config::ModelConfig;
use crate::cuda::adamw::{self, AdamW};
use crate::cuda::batch::{BatchSlot, Capacity};
use crate::cuda::device::Device;
use crate::cuda::embedding;
use crate::cuda::item_loss::Problem;
use crate::cuda::memory::{Slice, Storage};
use crate::cuda::operands::{Count, Launcher};
use crate::cuda::passes::Passes;
use crate::cuda::step::Size;
use crate::cuda::weights::Weights;
use crate::cuda::workspace::Workspace;
use crate::model::activations::Activations;
use crate::model::backward::backward;
use crate::model::forward::forward;
use crate::model::params::ParameterTable;

/// What the kernels of a step are launched from.
pub(in crate::cuda) struct Plan<'a, S> {
    pub model: &'a ModelConfig,
    pub table: &'a ParameterTable,
    pub items: usize,
    pub weights: &'a Weights<S>,
    pub device: &'a Device,
    pub dropout: bool,
}

impl<'a, S: Storage> Plan<'a, S> {
    fn passes(&self, batch: &'a BatchSlot, workspace: &Workspace) -> Passes<'a, S> {
        Passes {
            launcher: Launcher { device: self.device, step: batch.step() },
            model: self.model,
            table: self.table,
            weights: self.weights,
            batch,
            capacity: workspace.capacity,
            scratch: workspace.scratch,
            dropout: self.dropout,
            error: None,
        }
    }

    pub fn problem(&self, batch: &BatchSlot, capacity: Capacity, head: Slice<u8>) -> Problem<S> {
        Problem {
            rows: capacity.row_count(),
            width: self.model.hidden_size,
            items: Count { size: Size::Items, most: self.items },
            head: head.cast(),
            targets: batch.targets(),
            table: self.weights.stored(&self.table.output_table()),
            bias: self.weights.parameter(&self.table.output_bias),
        }
    }

    /// The forward pass of a batch that has been uploaded.
    pub fn forward(
        &self,
        batch: &'a BatchSlot,
        workspace: &Workspace,
        kept: &mut Activations<Slice<u8>>,
    ) -> Result<()> {
        let mut passes = self.passes(batch, workspace);
        forward(&mut passes, kept);
        passes.finish()
    }

    /// Everything up to the gradients of all weights.
    pub(super) fn gradients(&self, training: &'a mut Training, slot: usize) -> Result<()> {
        let Training { workspace, slots, squares, sampled, .. } = training;
        let batch = &slots[slot].batch;
        let mut kept = workspace.activations.clone();
        let mut gradients = workspace.gradients.clone();
        self.forward(batch, workspace, &mut kept)?;
        let launcher = Launcher { device: self.device, step: batch.step() };
        let loss = ItemLoss {
            launcher,
            whole: self.problem(batch, workspace.capacity, kept.head.output),
            scratch: workspace.scratch,
            sampled: sampled.as_ref(),
            list: batch.list(),
        };
        loss.of_rows(gradients.head.cast())?;
        let mut passes = self.passes(batch, workspace);
        backward(&mut passes, &kept, &mut gradients);
        passes.finish()?;
        loss.of_tables(self.weights, self.table)?;
        self.token_gradients(launcher, batch, workspace.capacity, gradients.output.cast())?;
        adamw::gradient_norm(launcher, self.weights.arenas, *squares)
    }

    /// Adds `d_sums [T, D]`, the tokens' share, to the gradient of the item embedding, and assigns that of positions.
    fn token_gradients(
        &self,
        launcher: Launcher<'_>,
        batch: &BatchSlot,
        capacity: Capacity,
        d_sums: Slice<S>,
    ) -> Result<()> {
        let d_items = self.weights.item_gradient(self.table);
        let places = embedding::Places {
            sequences: capacity.sequence_count(),
            cu_seqlens: batch.cu_seqlens(),
            positions: self.model.positions,
        };
        let d_positions = self.weights.gradient(&self.table.position_embedding);
        let (width, segments) = (self.model.hidden_size, batch.token_segments());
        embedding::tables_backward(launcher, width, segments, places, d_sums, d_items, d_positions)
    }

    /// A whole step.
    pub(super) fn step(
        &self,
        training: &'a mut Training,
        slot: usize,
        constants: AdamW,
    ) -> Result<()> {
        self.gradients(training, slot)?;
        let batch = &training.slots[slot].batch;
        adamw::update(
            Launcher { device: self.device, step: batch.step() },
            constants,
            self.weights.arenas,
            training.squares,
            training.workspace.capacity.row_count(),
            training.workspace.scratch.losses,
            training.halted,
            training.outcomes,
        )
    }
}
