//! The forward pass of a batch over all lanes, for training and for scoring.

use super::idle::Idle;
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::cpu::lane::{Piece, Purpose, View};
use crate::cpu::passes::{Lane, Scratch};
use crate::model::activations::{ActivationGradients, Activations, LayerActivations};
use crate::model::forward::forward;
use crate::model::params::ParameterTable;
use rayon::prelude::*;

/// Most lanes a batch is cut into to learn from it: enough for as many threads.
pub const LANES: usize = 16;
/// Fewest. Every lane packs all weights and has a gradient of its own, so a small batch is cut less often.
const FEWEST_LANES: usize = 8;
/// Most lanes of a batch that is only answered, for which nothing is kept by lane.
const MOST_LANES: usize = 64;
/// Tokens that a lane should have before a batch is cut into more than the fewest.
const LANE_TOKENS: usize = 512;

/// Lanes of a batch to learn from; depends on the batch alone, so that results do not depend on threads. A power of two,
/// so that two, four or eight threads get equal shares.
fn learning_lanes(tokens: usize) -> usize {
    if tokens >= LANES * LANE_TOKENS { LANES } else { FEWEST_LANES }
}

/// Lanes of a batch to answer: many, so that threads end together.
fn answering_lanes(tokens: usize) -> usize {
    (tokens / LANE_TOKENS).clamp(FEWEST_LANES, MOST_LANES)
}

/// About the most tokens of a lane of such a batch.
pub fn lane_tokens(tokens: u128) -> u128 {
    tokens.div_ceil(MOST_LANES as u128).max(LANE_TOKENS as u128)
}

/// What the network computes with.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    /// Sizes and options.
    pub model: &'a ModelConfig,
    /// Places in the arena.
    pub table: &'a ParameterTable,
    /// The arena of weights.
    pub parameters: &'a [f32],
}

/// What a lane keeps from the forward to the backward pass, in buffers that the next batch uses again.
pub struct LaneMemory {
    /// Its share of the batch.
    pub piece: Piece,
    /// What the forward pass keeps.
    pub activations: Activations<Vec<f32>>,
    /// Gradient of the arena from `dense_start` on; empty until there is a backward pass.
    pub dense: Vec<f32>,
}

/// What a thread needs while it takes a lane through a pass: buffers, never values.
pub struct Working {
    /// What the forward pass has beside its output where nothing is kept of it.
    activations: Activations<Vec<f32>>,
    /// Gradients on their way down; empty until there is a backward pass.
    pub gradients: ActivationGradients<Vec<f32>>,
    /// Temporary buffers.
    pub scratch: Scratch,
}

fn activations(layers: usize) -> Activations<Vec<f32>> {
    let layers = (0..layers).map(|_| LayerActivations::default()).collect();
    Activations { layers, ..Activations::default() }
}

impl LaneMemory {
    fn new(layers: usize) -> Self {
        let activations = activations(layers);
        LaneMemory { piece: Piece::default(), activations, dense: Vec::new() }
    }
}

impl Working {
    /// Empty buffers for a network of `layers` layers.
    pub fn new(layers: usize) -> Self {
        let (gradients, scratch) = Default::default();
        Working { activations: activations(layers), gradients, scratch }
    }
}

/// All lanes.
pub struct Lanes {
    all: Vec<LaneMemory>,
    /// One a thread, not one a lane.
    working: Idle<Working>,
    /// `[P, D]` head outputs of all lanes.
    pub head_rows: Vec<f32>,
}

impl Lanes {
    /// Empty buffers for a network of `layers` layers.
    pub fn new(layers: usize) -> Self {
        let all = (0..MOST_LANES).map(|_| LaneMemory::new(layers)).collect();
        Lanes { all, working: Idle::default(), head_rows: Vec::new() }
    }

    /// Lanes that the last batch gave something to do, in the order of its sequences.
    pub fn busy(&self) -> impl Iterator<Item = &LaneMemory> {
        self.all.iter().filter(|lane| !lane.piece.sequences.is_empty())
    }

    /// The same, to be written to, and what their passes need beside.
    pub fn busy_mut(&mut self) -> (impl Iterator<Item = &mut LaneMemory>, &Idle<Working>) {
        let busy = self.all.iter_mut().filter(|lane| !lane.piece.sequences.is_empty());
        (busy, &self.working)
    }

    /// Cuts the batch into lanes of about as many tokens each, and leaves the head's outputs in `head_rows`.
    pub fn forward(
        &mut self,
        pool: &rayon::ThreadPool,
        network: Network<'_>,
        batch: &Batch,
        purpose: Purpose,
    ) {
        let lanes = match purpose {
            Purpose::Learn(_) => learning_lanes,
            Purpose::Answer => answering_lanes,
        };
        self.assign(batch, lanes(batch.token_count()));
        let Network { model, table, parameters } = network;
        let mut head_rows = std::mem::take(&mut self.head_rows);
        head_rows.resize(batch.row_count() * model.hidden_size, 0.0);
        let mut rest = &mut head_rows[..];
        let mut work = Vec::with_capacity(MOST_LANES);
        let (busy, working) = self.busy_mut();
        for lane in busy {
            let (output, tail) = rest.split_at_mut(lane.piece.rows.len() * model.hidden_size);
            rest = tail;
            work.push((lane, output));
        }
        pool.install(|| {
            work.into_par_iter().with_max_len(1).for_each(|(lane, output)| {
                let LaneMemory { piece, activations, .. } = lane;
                let view = View { model, table, parameters, batch, piece, purpose };
                let new = || Working::new(model.n_layers);
                working.lend(new, |Working { scratch, activations: unkept, .. }| {
                    let kept = if view.answers() { unkept } else { activations };
                    let mut lane = Lane { view, gradient: &mut [], d_tokens: &mut [], scratch };
                    forward(&mut lane, kept);
                    output.copy_from_slice(&kept.head.output);
                });
            });
        });
        self.head_rows = head_rows;
    }

    fn assign(&mut self, batch: &Batch, lanes: usize) {
        let total = batch.token_count().max(1);
        let middle = |sequence: usize| {
            (batch.cu_seqlens[sequence] as usize + batch.cu_seqlens[sequence + 1] as usize) / 2
        };
        let mut start = 0;
        for (index, lane) in self.all.iter_mut().enumerate() {
            let mut end = start;
            while end < batch.sequence_count() && middle(end) * lanes / total <= index {
                end += 1;
            }
            lane.piece.assign(batch, start..end);
            start = end;
        }
    }
}
