//! Whole batches on the CPU: the one place with threads.
//!
//! A training step: lanes forward; item softmax over all lanes' rows, tile by tile; lanes backward, each into
//! a gradient of its own; reduction over lanes, item rows and arena blocks; AdamW. Every task writes what no
//! other task writes and every sum has one order, so results do not depend on the number of threads.

use super::adamw::{self, AdamW};
use super::embedding;
use super::item_softmax::Problem;
use super::lane::{Purpose, Randomness, View};
use super::passes::Lane;
use super::rank;
use super::top_k::{Entry, NotFinite};
use super::vector::{add_scaled, vectorized};
use crate::batch::Batch;
use crate::config::{Learner, ModelConfig, TrainConfig};
use crate::model::backward::backward;
use crate::model::engine::{Engine, State, Step, StepOutcome, not_finite};
use crate::model::init::initial_parameters;
use crate::model::params::ParameterTable;
use crate::{Error, Result, memory};
use lanes::{LaneMemory, Lanes, Network, Working};
use rayon::prelude::*;
use sampled::SampledLoss;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

mod idle;
mod lanes;
mod sampled;
mod scorer;
mod softmax;

pub(super) use lanes::{LANES, lane_tokens};
pub(crate) use scorer::span;
pub use scorer::{Candidates, Scorer};
pub use softmax::ItemSoftmax;

/// Elements of the arena that one task reduces or updates.
const ARENA_BLOCK: usize = 1 << 15;
/// Rows of the item table that one task adds token gradients to.
const ITEM_ROWS: usize = 64;

/// The model on the CPU.
pub struct CpuEngine {
    model: ModelConfig,
    table: ParameterTable,
    items: usize,
    optimizer: Optimizer,
    state: State,
    gradient: Vec<f32>,
    lanes: Lanes,
    softmax: ItemSoftmax,
    /// Where the loss does not look at all items.
    sampled: Option<SampledLoss>,
    /// `[T, D]` gradients of the embedding sums.
    d_tokens: Vec<f32>,
    /// Of steps that nobody has asked about.
    outcomes: Vec<StepOutcome>,
    pool: Arc<rayon::ThreadPool>,
}

struct Optimizer {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f32,
    learner: Learner,
    clip_norm: Option<f64>,
}

impl CpuEngine {
    /// A model with freshly drawn weights. `threads` 0 takes every core.
    ///
    /// # Errors
    /// [`Error::Memory`] when weights, moments and gradients do not fit; [`Error::Config`] when the threads
    /// cannot be started.
    pub fn new(
        model: &ModelConfig,
        train: &TrainConfig,
        items: usize,
        threads: usize,
    ) -> Result<Self> {
        let needed = super::memory::model_bytes(model, items);
        memory::require("the model", needed, "lower hidden_size, n_layers or inner_size")?;
        let pool = Arc::new(thread_pool(threads)?);
        let table = ParameterTable::new(model, items);
        let parameters = initial_parameters(&table, model.initializer_range, train.seed);
        let zeros = || vec![0.0; table.total];
        let state = State { parameters, first_moment: zeros(), second_moment: zeros() };
        Ok(CpuEngine {
            model: model.clone(),
            items,
            optimizer: Optimizer {
                betas: (train.beta1, train.beta2),
                epsilon: train.epsilon,
                weight_decay: train.weight_decay as f32,
                learner: train.learner,
                clip_norm: train.clip_norm,
            },
            state,
            gradient: zeros(),
            lanes: Lanes::new(model.n_layers),
            softmax: ItemSoftmax::default(),
            sampled: SampledLoss::new(train),
            d_tokens: Vec::new(),
            outcomes: Vec::new(),
            table,
            pool,
        })
    }

    /// Gradient of the last step, laid out like the weights.
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Loss and, in [`Self::gradient`], the gradients of all weights; weights are left as they are.
    /// Dropout is on where `randomness` gives it an address, which is that of the sample too if the loss draws one.
    pub fn loss_and_gradient(&mut self, batch: &Batch, randomness: Option<Randomness>) -> f64 {
        self.forward(batch, Purpose::Learn(randomness));
        let loss = self.item_loss(batch, randomness);
        self.backward(batch, randomness);
        self.reduce_dense();
        self.scatter_tokens(batch);
        loss
    }

    fn forward(&mut self, batch: &Batch, purpose: Purpose) {
        let CpuEngine { model, table, state, lanes, pool, .. } = self;
        let network = Network { model, table, parameters: &state.parameters };
        lanes.forward(pool, network, batch, purpose);
    }

    fn backward(&mut self, batch: &Batch, randomness: Option<Randomness>) {
        let d = self.model.hidden_size;
        self.d_tokens.resize(batch.token_count() * d, 0.0);
        let CpuEngine { model, table, state, lanes, pool, softmax, .. } = self;
        let (model, table, parameters) = (&*model, &*table, &state.parameters[..]);
        let dense = table.total - table.dense_start;
        let mut rest = &mut self.d_tokens[..];
        let mut work = Vec::with_capacity(LANES);
        let (busy, working) = lanes.busy_mut();
        for lane in busy {
            let (d_tokens, tail) = rest.split_at_mut(lane.piece.tokens.len() * d);
            rest = tail;
            work.push((lane, d_tokens));
        }
        let d_rows = &softmax.d_rows;
        pool.install(|| {
            work.into_par_iter().with_max_len(1).for_each(|(lane, d_tokens)| {
                let LaneMemory { piece, activations, dense: gradient } = lane;
                gradient.clear();
                gradient.resize(dense, 0.0);
                let purpose = Purpose::Learn(randomness);
                let view = View { model, table, parameters, batch, piece, purpose };
                working.lend(
                    || Working::new(model.n_layers),
                    |Working { gradients, scratch, .. }| {
                        let d_rows = &d_rows[piece.rows.start * d..piece.rows.end * d];
                        gradients.head.clear();
                        gradients.head.extend_from_slice(d_rows);
                        let mut lane = Lane { view, gradient, d_tokens, scratch };
                        backward(&mut lane, activations, gradients);
                    },
                );
            });
        });
    }

    /// Mean loss; leaves the gradients of the rows, the output table and the output bias.
    fn item_loss(&mut self, batch: &Batch, randomness: Option<Randomness>) -> f64 {
        let CpuEngine { table, state, softmax, sampled, pool, gradient, .. } = self;
        let d = self.model.hidden_size;
        let places = [item_rows(&table.output_table(), d, self.items), bias_rows(table)];
        let [d_table, d_bias] = match gradient.get_disjoint_mut(places) {
            Ok(pieces) => pieces,
            Err(error) => unreachable!("output table and bias overlap: {error}"),
        };
        let problem =
            problem(table, &state.parameters, &self.lanes.head_rows, &batch.targets, self.items, d);
        pool.install(|| match sampled {
            None => softmax.run(&problem, &batch.target_segments, d_table, d_bias),
            Some(sampled) => {
                let address = randomness.unwrap_or(Randomness { seed: 0, step: 0 });
                sampled.run(&problem, batch, address, softmax, d_table, d_bias)
            }
        })
    }

    /// Sums the lanes' gradients, in lane order.
    fn reduce_dense(&mut self) {
        let lanes: Vec<&[f32]> = self.lanes.busy().map(|lane| &lane.dense[..]).collect();
        let dense = &mut self.gradient[self.table.dense_start..];
        self.pool.install(|| {
            dense.par_chunks_mut(ARENA_BLOCK).enumerate().for_each(|(block, out)| {
                out.fill(0.0);
                for lane in &lanes {
                    let lane = &lane[block * ARENA_BLOCK..][..out.len()];
                    vectorized(
                        #[inline(always)]
                        || add_scaled(out, 1.0, lane),
                    );
                }
            });
        });
    }

    /// Adds the tokens' gradients to the item table's.
    fn scatter_tokens(&mut self, batch: &Batch) {
        let d = self.model.hidden_size;
        let mask = self.items + 1;
        let (tied, segments, d_tokens) = (self.model.tied, &batch.token_segments, &self.d_tokens);
        let d_items = &mut self.gradient[self.table.item_embedding.clone()];
        self.pool.install(|| {
            d_items.par_chunks_mut(ITEM_ROWS * d).enumerate().for_each(|(block, out)| {
                let first = block * ITEM_ROWS;
                let end = first + out.len() / d;
                // The softmax has assigned the rows of real items where the tables are one.
                if !tied {
                    out.fill(0.0);
                } else if (first..end).contains(&mask) {
                    out[(mask - first) * d..][..d].fill(0.0);
                }
                let bound = |row: usize| segments.keys.partition_point(|&key| (key as usize) < row);
                let keys = bound(first)..bound(end);
                embedding::scatter(segments, keys, d_tokens, out, first, d);
            });
        });
    }

    /// Sum of squares of the whole gradient.
    fn squared_gradient_norm(&self) -> f64 {
        let partial: Vec<f64> = self
            .pool
            .install(|| self.gradient.par_chunks(ARENA_BLOCK).map(adamw::squared_norm).collect());
        partial.iter().sum()
    }

    fn update(&mut self, step: &Step, gradient_norm: f64) {
        let scale = match self.optimizer.clip_norm {
            Some(bound) if gradient_norm > bound => (bound / gradient_norm) as f32,
            _ => 1.0,
        };
        let Optimizer { betas, epsilon, weight_decay, learner, .. } = self.optimizer;
        let mut adamw = AdamW::new(step.number, step.learning_rate, betas, epsilon, scale);
        adamw.coupled = learner == Learner::Adam;
        let table = &self.table;
        let State { parameters, first_moment, second_moment } = &mut self.state;
        let gradient = &self.gradient;
        self.pool.install(|| {
            parameters
                .par_chunks_mut(ARENA_BLOCK)
                .zip(gradient.par_chunks(ARENA_BLOCK))
                .zip(first_moment.par_chunks_mut(ARENA_BLOCK))
                .zip(second_moment.par_chunks_mut(ARENA_BLOCK))
                .enumerate()
                .for_each(|(block, (((p, g), m), v))| {
                    let mut done = 0;
                    while done < p.len() {
                        let tensor = table.tensor_at(block * ARENA_BLOCK + done);
                        let end = (tensor.range().end - block * ARENA_BLOCK).min(p.len());
                        let decays = tensor.decay || adamw.coupled;
                        let decay = if decays { weight_decay } else { 0.0 };
                        let span = done..end;
                        let (p, g) = (&mut p[span.clone()], &g[span.clone()]);
                        adamw.update(decay, p, g, &mut m[span.clone()], &mut v[span]);
                        done = end;
                    }
                });
        });
    }

    /// Runs `work` on one of the threads, from where it calls upon all of them. Called upon from without, they would
    /// fall asleep between any two parts of a step, and be woken by the caller, who would have to be woken first.
    fn within<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        let pool = Arc::clone(&self.pool);
        pool.install(|| work(self))
    }

    fn step(&mut self, batch: &Batch, step: &Step) -> Result<()> {
        let randomness = Randomness { seed: step.seed, step: step.number };
        let loss = self.loss_and_gradient(batch, Some(randomness));
        let gradient_norm = self.squared_gradient_norm().sqrt();
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(self.non_finite(step, loss));
        }
        self.update(step, gradient_norm);
        self.outcomes.push(StepOutcome { rows: batch.row_count(), loss, gradient_norm });
        Ok(())
    }

    fn ranks(&mut self, batch: &Batch, seen: &[&[u32]]) -> Vec<u32> {
        let (d, at_once) = (self.model.hidden_size, rank::rows_at_once(self.items));
        let problem = Problem { targets: &batch.targets, ..self.scored(batch) };
        let mut ranks = vec![0; batch.row_count()];
        ranks.par_chunks_mut(at_once).enumerate().for_each_init(
            Vec::new,
            |products, (block, out)| {
                let span = block * at_once..block * at_once + out.len();
                let rows = &problem.rows[span.start * d..span.end * d];
                let targets = &batch.targets[span.clone()];
                let problem = Problem { rows, targets, ..problem };
                rank::ranks(&problem, &seen[span], products, out);
            },
        );
        ranks
    }

    /// The rows of a batch, through the network, and the items to score them with.
    fn scored(&mut self, batch: &Batch) -> Problem<'_> {
        self.forward(batch, Purpose::Answer);
        let (rows, parameters) = (&self.lanes.head_rows, &self.state.parameters);
        problem(&self.table, parameters, rows, &[], self.items, self.model.hidden_size)
    }

    /// Error for a step whose loss or gradient is not finite, naming the first tensor at fault.
    fn non_finite(&self, step: &Step, loss: f64) -> Error {
        let at_fault = |tensor: &&crate::model::params::Tensor| {
            !adamw::squared_norm(&self.gradient[tensor.range()]).is_finite()
        };
        let tensor = match self.table.tensors.iter().find(at_fault) {
            _ if !loss.is_finite() => "loss".to_string(),
            Some(tensor) => format!("gradient of {}", tensor.name),
            None => "gradient norm".to_string(),
        };
        Error::NonFinite { step: step.number, tensor, learning_rate: step.learning_rate }
    }
}

impl Engine for CpuEngine {
    fn table(&self) -> &ParameterTable {
        &self.table
    }

    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<()> {
        self.within(|engine| engine.step(batch, step))
    }

    fn outcomes(&mut self, _wait: bool) -> Result<Vec<StepOutcome>> {
        Ok(std::mem::take(&mut self.outcomes))
    }

    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        Ok(self.within(|engine| engine.ranks(batch, seen)))
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        Ok(self.within(|engine| scorer::scores_of_lists(&engine.scored(batch), items)))
    }

    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        let k = k.min(self.items);
        let best = self.within(|engine| scorer::top_k_of(&engine.scored(batch), seen, k));
        let items = |row: Vec<Entry>| row.into_iter().map(|entry| entry.item).collect();
        Ok(best.map_err(|NotFinite| not_finite())?.into_iter().map(items).collect())
    }

    fn state(&self) -> Result<Cow<'_, State>> {
        Ok(Cow::Borrowed(&self.state))
    }

    fn parameters(&self) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self.state.parameters))
    }

    fn load_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        self.state.parameters.copy_from_slice(parameters);
        Ok(())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.state.parameters.copy_from_slice(&state.parameters);
        self.state.first_moment.copy_from_slice(&state.first_moment);
        self.state.second_moment.copy_from_slice(&state.second_moment);
        Ok(())
    }
}

/// Threads of an engine; 0 takes every core.
fn thread_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("b4r-cpu-{index}"))
        .build()
        .map_err(|error| Error::config("threads", error.to_string(), "use fewer threads"))
}

/// Rows 1 to `V` of a `[V + 2, D]` table.
fn item_rows(table: &Range<usize>, d: usize, items: usize) -> Range<usize> {
    table.start + d..table.start + (items + 1) * d
}

/// Entries 1 to `V` of the output bias.
fn bias_rows(table: &ParameterTable) -> Range<usize> {
    table.output_bias.start + 1..table.output_bias.end
}

fn problem<'a>(
    table: &ParameterTable,
    parameters: &'a [f32],
    rows: &'a [f32],
    targets: &'a [u32],
    items: usize,
    d: usize,
) -> Problem<'a> {
    let output = item_rows(&table.output_table(), d, items);
    Problem { rows, targets, table: &parameters[output], bias: &parameters[bias_rows(table)] }
}

#[cfg(test)]
mod tests;
