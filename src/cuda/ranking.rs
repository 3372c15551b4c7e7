//! What evaluation asks of the engine: ranks and best items on the device, scores of listed items on the host.

use super::batch::{BatchSlot, Capacity, require_targets};
use super::device::Device;
use super::engine::{CudaEngine, Plan};
use super::item_loss::Problem;
use super::memory::{Memory, Storage};
use super::operands::Launcher;
use super::rank::{self, Seen};
use super::step::StepBlock;
use super::top_k::{self, top_k_scratch_len};
use super::workspace::Workspace;
use crate::Result;
use crate::batch::Batch;
use crate::cpu::top_k::Entry;
use crate::cpu::vector::{dot, vectorized};
use crate::model::engine::not_finite;

/// What only ranking needs.
pub(super) struct Ranking {
    workspace: Workspace,
    batch: BatchSlot,
}

impl Ranking {
    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.workspace.bytes() + self.batch.bytes()
    }
}

/// What rows are multiplied by, on the host, with the values that the kernels read.
pub(super) struct OutputTable {
    /// `[rows, D]`; row i is the vector of item i, from 1.
    vectors: Vec<f32>,
    /// Entry i is the bias of item i, from 1.
    bias: Vec<f32>,
}

/// Everything that kernels need after the forward pass.
struct Forwarded<'a, S> {
    launcher: Launcher<'a>,
    problem: Problem<S>,
    capacity: Capacity,
}

impl<S: Storage> CudaEngine<S> {
    /// Allocates what ranking of batches of up to `capacity` needs, unless there is as much already.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the buffer; [`crate::Error::Device`].
    pub fn reserve_ranking(&mut self, capacity: Capacity) -> Result<()> {
        let capacity = match &self.ranking {
            Some(ranking) if ranking.workspace.capacity.holds(&capacity) => return Ok(()),
            Some(ranking) => capacity.union(ranking.workspace.capacity),
            None => capacity,
        };
        self.device.synchronize()?;
        self.ranking = None;
        let workspace = Workspace::inference::<S>(&self.device, &self.model, capacity)?;
        let batch = BatchSlot::new(&self.device, capacity, self.tables(), 0)?;
        self.ranking = Some(Ranking { workspace, batch });
        Ok(())
    }

    /// The forward pass without dropout.
    fn forwarded(&mut self, batch: &Batch) -> Result<Forwarded<'_, S>> {
        self.reserve_ranking(Capacity::of(batch))?;
        let Some(ranking) = &mut self.ranking else { unreachable!("reserved above") };
        ranking.batch.fill(batch, None, StepBlock::default())?;
        ranking.batch.upload(self.device.stream())?;
        let Ranking { workspace, batch } = &*ranking;
        let plan = Plan {
            model: &self.model,
            table: &self.table,
            items: self.items,
            weights: &self.weights,
            device: &self.device,
            dropout: false,
        };
        let mut kept = workspace.activations.clone();
        plan.forward(batch, workspace, &mut kept)?;
        Ok(Forwarded {
            launcher: Launcher { device: &self.device, step: batch.step() },
            problem: plan.problem(batch, workspace.capacity, kept.head.output),
            capacity: workspace.capacity,
        })
    }

    /// The rank of each row's target, as [`Engine::rank`](crate::model::engine::Engine::rank).
    pub(super) fn ranks(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        require_targets(batch)?;
        let Forwarded { launcher, problem, capacity } = self.forwarded(batch)?;
        let mut memory = Memory::default();
        let seen = seen_lists(launcher.device, &mut memory, seen, capacity.rows)?;
        let ranks = memory.take::<u32>(launcher.device, "ranks", capacity.rows)?;
        rank::rank(launcher, problem, seen, ranks)?;
        let mut ranks = launcher.device.download(ranks)?;
        ranks.truncate(batch.row_count());
        Ok(ranks)
    }

    /// The best items of each row with their scores, as [`Engine::top_k`](crate::model::engine::Engine::top_k); `k`
    /// is at least 1 and at most [`top_k::MOST_BEST`]. Where `bias [V]` is given, it stands in for the output bias:
    /// items for which it is negative infinity are left out.
    pub(super) fn best_items(
        &mut self,
        batch: &Batch,
        seen: &[&[u32]],
        bias: Option<&[f32]>,
        k: usize,
    ) -> Result<Vec<Vec<Entry>>> {
        let Forwarded { launcher, mut problem, capacity } = self.forwarded(batch)?;
        let (device, rows) = (launcher.device, capacity.rows);
        let mut memory = Memory::default();
        if let Some(bias) = bias {
            // Entry 0 is PAD's, which nobody reads.
            problem.bias =
                memory.take_copy(device, "bias of items", &[&[0.0][..], bias].concat())?;
        }
        let seen = seen_lists(device, &mut memory, seen, rows)?;
        let scratch_len = top_k_scratch_len(rows, problem.items.most);
        let scratch = memory.take(device, "lists of best items", scratch_len)?;
        let items = memory.take(device, "best items", rows * k)?;
        let scores = memory.take(device, "scores of best items", rows * k)?;
        top_k::top_k(launcher, problem, seen, k, scratch, items, scores)?;
        let (items, scores) = (device.download(items)?, device.download(scores)?);
        let lists = items.chunks_exact(k).zip(scores.chunks_exact(k)).take(batch.row_count());
        lists
            .map(|(items, scores)| {
                if scores[0].is_nan() {
                    return Err(not_finite());
                }
                let entries = items.iter().zip(scores).map(|(&item, &score)| Entry { item, score });
                // Index 0 fills up a list that has no more items.
                Ok(entries.take_while(|entry| entry.item != 0).collect())
            })
            .collect()
    }

    /// The head's output `[P, D]` at the rows of `batch`.
    pub(super) fn head_rows(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let Forwarded { launcher, problem, .. } = self.forwarded(batch)?;
        let head = problem.head.part(0, batch.row_count() * problem.width);
        Ok(widened(launcher.device.download(head)?))
    }

    /// The scores of each row's list of items, as [`Engine::score`](crate::model::engine::Engine::score).
    pub(super) fn listed_scores(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        let rows = self.head_rows(batch)?;
        let d = self.model.hidden_size;
        if self.output.is_none() {
            self.output = Some(self.output_table()?);
        }
        let Some(OutputTable { vectors, bias }) = &self.output else { unreachable!("made above") };
        let mut scores = Vec::with_capacity(items.iter().map(|list| list.len()).sum());
        vectorized(
            #[inline(always)]
            || {
                for (row, list) in rows.chunks_exact(d).zip(items) {
                    for item in list.iter().map(|&item| item as usize) {
                        scores.push(bias[item] + dot(row, &vectors[item * d..][..d]));
                    }
                }
            },
        );
        Ok(scores)
    }

    fn output_table(&self) -> Result<OutputTable> {
        let vectors = self.device.download(self.weights.stored(&self.table.output_table()))?;
        let bias = self.device.download(self.weights.parameter(&self.table.output_bias))?;
        Ok(OutputTable { vectors: widened(vectors), bias })
    }
}

fn widened<S: Storage>(stored: Vec<S>) -> Vec<f32> {
    stored.into_iter().map(S::to_f32).collect()
}

/// Lists of up to `rows` rows.
fn seen_lists(device: &Device, memory: &mut Memory, seen: &[&[u32]], rows: usize) -> Result<Seen> {
    let mut offsets = vec![0];
    let mut items = Vec::new();
    for list in seen {
        items.extend_from_slice(list);
        offsets.push(items.len() as u32);
    }
    offsets.resize(rows + 1, items.len() as u32);
    Ok(Seen {
        offsets: memory.take_copy(device, "lists of seen items", &offsets)?,
        items: memory.take_copy(device, "seen items", &items)?,
    })
}
