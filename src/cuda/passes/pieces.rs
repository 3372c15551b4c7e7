//! What a pass hands to operations: pieces of the arenas, the batch and the workspace, cut to a layer's sizes.

use super::Passes;
use crate::Result;
use crate::config::{NormPlacement, Objective};
use crate::cuda::linear::{self, Gradient};
use crate::cuda::memory::{Slice, Storage};
use crate::cuda::operands::{AttentionDropout, Count, HiddenDropout, Norm, NormSaved, Rows, Tail};
use crate::cuda::step::Rate;
use crate::cuda::workspace::Buffer;
use crate::cuda::{attention, ffn, qkv};
use crate::model::activations::{ActivationGradients, LayerActivations, NormActivations};
use crate::model::params::{LayerNormParams, LayerParams};

impl<S: Storage> Passes<'_, S> {
    pub(super) fn width(&self) -> usize {
        self.model.hidden_size
    }

    pub(super) fn pre_norm(&self) -> bool {
        self.model.norm == NormPlacement::Pre
    }

    pub(super) fn layer(&self, layer: usize) -> &LayerParams {
        &self.table.layers[layer]
    }

    /// The tokens that `layer` has rows for: the last layer works only where it is read.
    pub(super) fn rows(&self, layer: usize) -> Rows {
        if layer + 1 == self.model.n_layers { self.batch.rows() } else { Rows::All }
    }

    /// `Tq` of `layer`.
    pub(super) fn queries(&self, layer: usize) -> Count {
        match self.rows(layer) {
            Rows::All => self.capacity.token_count(),
            Rows::Selected { .. } => self.capacity.row_count(),
        }
    }

    pub(super) fn tokens(&self) -> Count {
        self.capacity.token_count()
    }

    /// The first `rows` rows of a `[.., width]` buffer.
    pub(super) fn of(&self, buffer: Buffer, rows: Count, width: usize) -> Slice<S> {
        buffer.cast::<S>().part(0, rows.most * width)
    }

    /// The same for rows of `D`.
    pub(super) fn wide(&self, buffer: Buffer, rows: Count) -> Slice<S> {
        self.of(buffer, rows, self.width())
    }

    pub(super) fn saved(&self, norm: &NormActivations<Buffer>, rows: Count) -> NormSaved<S> {
        NormSaved {
            normalized: self.wide(norm.normalized, rows),
            rstd: norm.rstd.cast().part(0, rows.most),
        }
    }

    pub(super) fn norm(&self, params: &LayerNormParams) -> Norm {
        self.weights.norm(params, self.model.layer_norm_eps)
    }

    pub(super) fn rate(&self, probability: f64) -> Rate {
        if self.dropout { Rate::new(probability) } else { Rate::NONE }
    }

    pub(super) fn hidden_dropout(&self, site: usize) -> HiddenDropout {
        HiddenDropout { site: site as u32, rate: self.rate(self.model.hidden_dropout) }
    }

    pub(super) fn attention_dropout(&self, layer: usize) -> AttentionDropout {
        AttentionDropout { layer: layer as u32, rate: self.rate(self.model.attention_dropout) }
    }

    pub(super) fn tail(&self, layer: usize, site: usize, norm: &LayerNormParams) -> Tail {
        Tail {
            rows: self.rows(layer),
            dropout: self.hidden_dropout(site),
            norm: (!self.pre_norm()).then(|| self.norm(norm)),
        }
    }

    pub(super) fn qkv_shape(&self, layer: usize) -> qkv::Shape {
        qkv::Shape { tokens: self.tokens(), queries: self.queries(layer), width: self.width() }
    }

    pub(super) fn feed_forward(&self, layer: usize) -> ffn::FeedForward<S> {
        let params = self.layer(layer);
        ffn::FeedForward {
            width: self.width(),
            inner_width: self.model.inner_size,
            inner: self.weights.linear(&params.ffn_in),
            outer: self.weights.linear(&params.ffn_out),
            activation: self.model.hidden_act,
        }
    }

    pub(super) fn sequences(&self, layer: usize) -> attention::Sequences {
        let rows = self.rows(layer);
        attention::Sequences {
            sequences: self.capacity.sequence_count(),
            cu_seqlens: self.batch.cu_seqlens(),
            cu_queries: match rows {
                Rows::All => self.batch.cu_seqlens(),
                Rows::Selected { .. } => self.batch.cu_rows(),
            },
            rows,
            tokens: self.tokens(),
            queries: self.queries(layer),
            heads: self.model.n_heads,
            width: self.width(),
            causal: self.model.objective == Objective::Causal,
        }
    }

    /// What the query, key and value maps read.
    pub(super) fn attention_input(
        &self,
        input: Buffer,
        kept: &LayerActivations<Buffer>,
    ) -> Slice<S> {
        self.wide(if self.pre_norm() { kept.attention_input } else { input }, self.tokens())
    }

    /// What the feed-forward network reads.
    pub(super) fn ffn_input(&self, layer: usize, kept: &LayerActivations<Buffer>) -> Slice<S> {
        let input = if self.pre_norm() { kept.ffn_input } else { kept.middle };
        self.wide(input, self.queries(layer))
    }

    /// The gradients of the maps around attention, in one launch.
    pub(super) fn attention_gradients(
        &self,
        layer: usize,
        input: Slice<S>,
        kept: &LayerActivations<Buffer>,
        gradients: &ActivationGradients<Buffer>,
    ) -> Result<()> {
        let (params, weights, d) = (self.layer(layer), self.weights, self.width());
        let (tokens, queries) = (self.tokens(), self.queries(layer));
        let picked = match self.rows(layer) {
            Rows::All => Slice::default(),
            Rows::Selected { tokens, .. } => tokens,
        };
        let map = |rows, outputs, upstream, input, tokens, params| Gradient {
            rows,
            outputs,
            inputs: d,
            upstream,
            input,
            tokens,
            activation: None,
            partials: weights.linear_partials(params),
        };
        let [d_q, d_linear] = [gradients.q, self.scratch.linear].map(|b| self.wide(b, queries));
        let d_kv = self.of(gradients.kv, tokens, 2 * d);
        let context = self.wide(kept.context, queries);
        linear::gradients(
            self.launcher,
            &[
                map(queries, d, d_q, input, picked, &params.query),
                map(tokens, 2 * d, d_kv, input, Slice::default(), &params.key_value),
                map(queries, d, d_linear, context, Slice::default(), &params.projection),
            ],
        )
    }

    /// The gradients of both maps of the feed-forward network and, with those of the last layer, of the head's
    /// map, in one launch.
    pub(super) fn ffn_gradients(
        &self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
    ) -> Result<()> {
        let (params, rows) = (self.layer(layer), self.queries(layer));
        let (d, f) = (self.width(), self.model.inner_size);
        let inner = Gradient {
            rows,
            outputs: f,
            inputs: d,
            upstream: self.of(self.scratch.hidden, rows, f),
            input: self.ffn_input(layer, kept),
            tokens: Slice::default(),
            activation: None,
            partials: self.weights.linear_partials(&params.ffn_in),
        };
        let outer = Gradient {
            rows,
            outputs: d,
            inputs: f,
            upstream: self.wide(self.scratch.linear, rows),
            input: self.of(kept.hidden, rows, f),
            tokens: Slice::default(),
            activation: Some(self.model.hidden_act),
            partials: self.weights.linear_partials(&params.ffn_out),
        };
        if layer + 1 < self.model.n_layers {
            return linear::gradients(self.launcher, &[inner, outer]);
        }
        let head = Gradient {
            rows: self.capacity.row_count(),
            outputs: d,
            inputs: d,
            upstream: self.wide(self.scratch.head, self.capacity.row_count()),
            input: self.wide(kept.output, self.capacity.row_count()),
            tokens: Slice::default(),
            activation: None,
            partials: self.weights.linear_partials(&self.table.head),
        };
        linear::gradients(self.launcher, &[inner, outer, head])
    }
}
