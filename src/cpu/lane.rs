//! One lane: a contiguous run of a batch's sequences on its way through the network, and what an operation
//! reads of it.

use super::absorbed_attention;
use super::dropout::{AttentionDropout, HiddenDropout, Rate};
use super::embedding::{Tables, Tokens};
use super::ffn::FeedForward;
use super::layernorm::Norm;
use super::linear::Linear;
use super::projection::Tail;
use super::sequences::Sequences;
use super::vector::{add_scaled, vectorized};
use crate::batch::Batch;
use crate::config::{ModelConfig, NormPlacement, Objective};
use crate::model::params::{LayerNormParams, LinearParams, ParameterTable};
use std::ops::Range;

/// Which tokens of a lane an operation works on.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// Every token.
    All,
    /// The tokens with these indices within the lane.
    Selected(&'a [u32]),
}

impl Rows<'_> {
    /// How many of a lane's `tokens`.
    pub fn count(&self, tokens: usize) -> usize {
        match self {
            Rows::All => tokens,
            Rows::Selected(rows) => rows.len(),
        }
    }

    /// The rows of `input [T, D]`, copied to `gathered` where they are not all.
    pub fn gather<'a>(&self, input: &'a [f32], d: usize, gathered: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Rows::All => input,
            Rows::Selected(rows) => {
                gathered.clear();
                for &row in *rows {
                    gathered.extend_from_slice(&input[row as usize * d..][..d]);
                }
                gathered
            }
        }
    }

    /// Adds `source`, one row for each of these, to their rows of `target [T, D]`.
    pub fn scatter_add(&self, source: &[f32], d: usize, target: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                for (index, source) in source.chunks_exact(d).enumerate() {
                    add_scaled(&mut target[self.token(index) * d..][..d], 1.0, source);
                }
            },
        );
    }

    /// Token of row `index`.
    #[inline(always)]
    pub fn token(&self, index: usize) -> usize {
        match self {
            Rows::All => index,
            Rows::Selected(rows) => rows[index] as usize,
        }
    }
}

/// A lane's share of a batch, indices counted from the lane's own first token and row.
#[derive(Default)]
pub struct Piece {
    /// Its sequences within the batch.
    pub sequences: Range<usize>,
    /// Its tokens within the batch.
    pub tokens: Range<usize>,
    /// Its rows within the batch.
    pub rows: Range<usize>,
    cu_seqlens: Vec<u32>,
    cu_rows: Vec<u32>,
    selected: Vec<u32>,
}

impl Piece {
    /// Takes over `sequences` of `batch`.
    pub fn assign(&mut self, batch: &Batch, sequences: Range<usize>) {
        let span =
            |bounds: &[u32]| bounds[sequences.start] as usize..bounds[sequences.end] as usize;
        self.tokens = span(&batch.cu_seqlens);
        self.rows = span(&batch.cu_rows);
        let local = |bounds: &[u32], first: usize, out: &mut Vec<u32>| {
            out.clear();
            out.extend(bounds.iter().map(|&bound| bound - first as u32));
        };
        let bounds = sequences.start..sequences.end + 1;
        local(&batch.cu_seqlens[bounds.clone()], self.tokens.start, &mut self.cu_seqlens);
        local(&batch.cu_rows[bounds], self.rows.start, &mut self.cu_rows);
        local(&batch.rows[self.rows.clone()], self.tokens.start, &mut self.selected);
        self.sequences = sequences;
    }
}

/// Address of a step's dropout.
#[derive(Clone, Copy, Debug)]
pub struct Randomness {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// A backward pass, with dropout where it has an address.
    Learn(Option<Randomness>),
    /// The head's outputs; no backward pass follows.
    Answer,
}

/// What operations read: the same for the forward and the backward pass of a step.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The network's sizes and options.
    pub model: &'a ModelConfig,
    /// Places in the arena.
    pub table: &'a ParameterTable,
    /// The arena of weights.
    pub parameters: &'a [f32],
    /// The whole batch.
    pub batch: &'a Batch,
    /// This lane's share of it.
    pub piece: &'a Piece,
    /// What the pass is for.
    pub purpose: Purpose,
}

impl<'a> View<'a> {
    /// `T` of the lane.
    pub fn token_count(&self) -> usize {
        self.piece.tokens.len()
    }

    /// The rows whose queries `layer` works on: the last layer works only where it is read.
    pub fn rows(&self, layer: usize) -> Rows<'a> {
        if self.is_last(layer) { Rows::Selected(&self.piece.selected) } else { Rows::All }
    }

    /// `Tq` of `layer`.
    pub fn query_count(&self, layer: usize) -> usize {
        self.rows(layer).count(self.token_count())
    }

    /// Whether only the head's output is wanted.
    pub fn answers(&self) -> bool {
        matches!(self.purpose, Purpose::Answer)
    }

    /// Whether attention of `layer` does without keys and values.
    pub fn absorbs(&self, layer: usize) -> bool {
        let Piece { cu_seqlens, cu_rows, .. } = self.piece;
        let (heads, width) = (self.model.n_heads, self.model.hidden_size);
        self.is_last(layer) && absorbed_attention::pays(cu_seqlens, cu_rows, heads, width)
    }

    fn randomness(&self) -> Option<Randomness> {
        match self.purpose {
            Purpose::Learn(randomness) => randomness,
            Purpose::Answer => None,
        }
    }

    fn is_last(&self, layer: usize) -> bool {
        layer + 1 == self.model.n_layers
    }

    /// Whether norms stand before the sublayers.
    pub fn pre_norm(&self) -> bool {
        self.model.norm == NormPlacement::Pre
    }

    /// The lane's tokens.
    pub fn tokens(&self) -> Tokens<'a> {
        let span = self.piece.tokens.clone();
        Tokens {
            ids: &self.batch.ids[span.clone()],
            positions: &self.batch.positions[span.clone()],
            first: span.start,
        }
    }

    /// The embedding tables.
    pub fn tables(&self) -> Tables<'a> {
        Tables {
            items: &self.parameters[self.table.item_embedding.clone()],
            positions: &self.parameters[self.table.position_embedding.clone()],
        }
    }

    /// A linear map of the arena.
    pub fn linear(&self, params: &LinearParams) -> Linear<'a> {
        Linear {
            weight: &self.parameters[params.weight.clone()],
            bias: &self.parameters[params.bias.clone()],
        }
    }

    /// A layer norm of the arena.
    pub fn norm(&self, params: &LayerNormParams) -> Norm<'a> {
        Norm {
            weight: &self.parameters[params.weight.clone()],
            bias: &self.parameters[params.bias.clone()],
            epsilon: self.model.layer_norm_eps,
        }
    }

    /// The feed-forward network of `layer`.
    pub fn feed_forward(&self, layer: usize) -> FeedForward<'a> {
        let params = &self.table.layers[layer];
        FeedForward {
            inner: self.linear(&params.ffn_in),
            outer: self.linear(&params.ffn_out),
            activation: self.model.hidden_act,
        }
    }

    /// Dropout at a hidden site, see [`HiddenDropout::new`].
    pub fn hidden_dropout(&self, site: usize) -> Option<HiddenDropout> {
        let randomness = self.randomness()?;
        let rate = Rate::new(self.model.hidden_dropout)?;
        Some(HiddenDropout::new(randomness.seed, randomness.step, site, rate))
    }

    /// Dropout of attention probabilities.
    pub fn attention_dropout(&self, layer: usize) -> Option<AttentionDropout> {
        let randomness = self.randomness()?;
        let rate = Rate::new(self.model.attention_dropout)?;
        Some(AttentionDropout::new(randomness.seed, randomness.step, layer as u32, rate))
    }

    /// The lane's sequences as attention sees them.
    pub fn sequences(&self, layer: usize) -> Sequences<'a> {
        let piece = self.piece;
        Sequences {
            cu_seqlens: &piece.cu_seqlens,
            cu_queries: if self.is_last(layer) { &piece.cu_rows } else { &piece.cu_seqlens },
            rows: self.rows(layer),
            first: piece.sequences.start,
            heads: self.model.n_heads,
            width: self.model.hidden_size,
            causal: self.model.objective == Objective::Causal,
            absorbed: self.absorbs(layer),
        }
    }

    /// The tail of a sublayer of `layer`: dropout at `site`, and `norm` where norms stand after.
    pub fn tail(&self, layer: usize, site: usize, norm: &LayerNormParams) -> Tail<'a> {
        Tail {
            rows: self.rows(layer),
            first_token: self.piece.tokens.start,
            dropout: self.hidden_dropout(site),
            norm: (!self.pre_norm()).then(|| self.norm(norm)),
        }
    }
}
