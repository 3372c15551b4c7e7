//! The order of a step's kernels.

use super::Training;
use crate::Result;
use crate::config::ModelConfig;
use crate::cuda::adamw::{self, AdamW};
use crate::cuda::batch::{BatchSlot, Capacity};
use crate::cuda::device::Device;
use crate::cuda::embedding;
use crate::cuda::item_softmax::{self, Problem};
use crate::cuda::memory::{Slice, Storage};
use crate::cuda::operands::Launcher;
use crate::cuda::passes::Passes;
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
            items: self.items,
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
        let Training { workspace, slots, squares, .. } = training;
        let batch = &slots[slot].batch;
        let mut kept = workspace.activations.clone();
        let mut gradients = workspace.gradients.clone();
        self.forward(batch, workspace, &mut kept)?;
        let launcher = Launcher { device: self.device, step: batch.step() };
        let scratch = workspace.scratch;
        let problem = self.problem(batch, workspace.capacity, kept.head.output);
        let statistics = scratch.log_sum_exp;
        item_softmax::forward(launcher, problem, scratch.softmax, statistics, scratch.losses)?;
        let d_head = gradients.head.cast();
        item_softmax::rows_backward(launcher, problem, statistics, scratch.softmax, d_head)?;
        let mut passes = self.passes(batch, workspace);
        backward(&mut passes, &kept, &mut gradients);
        passes.finish()?;
        let d_sums = gradients.output.cast();
        self.table_gradients(launcher, batch, workspace.capacity, problem, statistics, d_sums)?;
        adamw::gradient_norm(launcher, self.weights.arenas, *squares)
    }

    /// The gradients of all tables, of which `d_sums [T, D]` is the tokens' share.
    fn table_gradients(
        &self,
        launcher: Launcher<'_>,
        batch: &BatchSlot,
        capacity: Capacity,
        problem: Problem<S>,
        log_sum_exp: Slice<f32>,
        d_sums: Slice<S>,
    ) -> Result<()> {
        let d_items = self.weights.item_gradient(self.table);
        let (d_table, d_bias) = self.weights.output_partials(self.table);
        item_softmax::table_backward(launcher, problem, log_sum_exp, d_table, d_bias)?;
        if !self.model.tied {
            self.device.clear(d_items)?;
        }
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
