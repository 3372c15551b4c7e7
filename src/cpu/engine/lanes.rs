//! The forward pass of a batch over all lanes, for training and for scoring.

use super::idle::Idle;
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::cpu::lane::{Piece, Randomness, View};
use crate::cpu::passes::{Lane, Scratch};
use crate::model::activations::{ActivationGradients, Activations, LayerActivations};
use crate::model::forward::forward;
use crate::model::params::ParameterTable;
use rayon::prelude::*;

/// Most lanes a batch is cut into: enough for as many threads.
pub const LANES: usize = 16;
/// Fewest. Every lane packs all weights and has a gradient of its own, so a small batch is cut less often.
const FEWEST_LANES: usize = 8;
/// Tokens that a lane should have before a batch is cut into more than the fewest.
const LANE_TOKENS: usize = 512;

/// Lanes of a batch; depends on the batch alone, so that results do not depend on threads. A power of two, so
/// that two, four or eight threads get equal shares.
fn lane_count(tokens: usize) -> usize {
    if tokens >= LANES * LANE_TOKENS { LANES } else { FEWEST_LANES }
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

/// What a forward pass is for.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A backward pass, with dropout where it has an address.
    Learn(Option<Randomness>),
    /// The head's outputs.
    Answer,
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
#[derive(Default)]
pub struct Working {
    /// Gradients on their way down; empty until there is a backward pass.
    pub gradients: ActivationGradients<Vec<f32>>,
    /// Temporary buffers.
    pub scratch: Scratch,
}

impl LaneMemory {
    fn new(layers: usize) -> Self {
        LaneMemory {
            piece: Piece::default(),
            activations: Activations {
                layers: (0..layers).map(|_| LayerActivations::default()).collect(),
                ..Activations::default()
            },
            dense: Vec::new(),
        }
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
        let all = (0..LANES).map(|_| LaneMemory::new(layers)).collect();
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
        self.assign(batch);
        let (randomness, answers) = match purpose {
            Purpose::Learn(randomness) => (randomness, false),
            Purpose::Answer => (None, true),
        };
        let Network { model, table, parameters } = network;
        let Lanes { all, working, .. } = self;
        pool.install(|| {
            all.par_iter_mut().with_max_len(1).for_each(|lane| {
                let LaneMemory { piece, activations, .. } = lane;
                if piece.sequences.is_empty() {
                    return;
                }
                let view = View { model, table, parameters, batch, piece, randomness, answers };
                working.lend(Working::default, |Working { scratch, .. }| {
                    let mut lane = Lane { view, gradient: &mut [], d_tokens: &mut [], scratch };
                    forward(&mut lane, activations);
                });
            });
        });
        let mut head_rows = std::mem::take(&mut self.head_rows);
        head_rows.clear();
        for lane in self.busy() {
            head_rows.extend_from_slice(&lane.activations.head.output);
        }
        self.head_rows = head_rows;
    }

    fn assign(&mut self, batch: &Batch) {
        let total = batch.token_count().max(1);
        let lanes = lane_count(total);
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
