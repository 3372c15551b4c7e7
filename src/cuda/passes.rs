//! The model's operation list on a GPU: hands each operation its pieces of the arenas, the batch and the
//! workspace. Every call puts one kernel, or a few, on the stream.

mod pieces;

use super::batch::{BatchSlot, Capacity};
use super::memory::Storage;
use super::operands::{Launcher, Rows};
use super::weights::Weights;
use super::workspace::{Buffer, Scratch};
use super::{attention, embedding, ffn, head, layernorm, projection, qkv};
use crate::config::ModelConfig;
use crate::cpu::dropout;
use crate::model::activations::{
    ActivationGradients, EmbeddingActivations, HeadActivations, LayerActivations,
};
use crate::model::operations::Operations;
use crate::model::params::ParameterTable;
use crate::{Error, Result};

/// One batch on its way through the network.
pub struct Passes<'a, S> {
    /// Where kernels are launched.
    pub launcher: Launcher<'a>,
    /// The network's sizes and options.
    pub model: &'a ModelConfig,
    /// Places in the arenas.
    pub table: &'a ParameterTable,
    /// The arenas.
    pub weights: &'a Weights<S>,
    /// The batch.
    pub batch: &'a BatchSlot,
    /// Most of everything.
    pub capacity: Capacity,
    /// Temporary buffers.
    pub scratch: Scratch,
    /// Whether dropout is on.
    pub dropout: bool,
    /// The first launch that failed; operations after it do nothing.
    pub error: Option<Error>,
}

impl<S: Storage> Passes<'_, S> {
    /// The whole passes' success.
    ///
    /// # Errors
    /// That of the first launch that failed.
    pub fn finish(self) -> Result<()> {
        self.error.map_or(Ok(()), Err)
    }

    fn run(&mut self, operation: impl FnOnce(&Self) -> Result<()>) {
        if self.error.is_none() {
            self.error = operation(self).err();
        }
    }
}

impl<S: Storage> Operations for Passes<'_, S> {
    type Buffer = Buffer;

    fn embedding(&mut self, kept: &mut EmbeddingActivations<Buffer>) {
        self.run(|my| {
            let tokens = embedding::Tokens {
                count: my.tokens(),
                width: my.width(),
                ids: my.batch.ids(),
                position_ids: my.batch.positions(),
                items: my.weights.stored(&my.table.item_embedding),
                positions: my.weights.stored(&my.table.position_embedding),
            };
            embedding::forward(
                my.launcher,
                tokens,
                my.norm(&my.table.embedding_norm),
                my.hidden_dropout(dropout::EMBEDDING_SITE),
                my.saved(&kept.norm, my.tokens()),
                my.wide(kept.output, my.tokens()),
            )
        });
    }

    fn qkv(&mut self, layer: usize, input: &Buffer, kept: &mut LayerActivations<Buffer>) {
        self.run(|my| {
            let (params, tokens) = (my.layer(layer), my.tokens());
            if my.pre_norm() {
                layernorm::forward(
                    my.launcher,
                    tokens,
                    my.width(),
                    my.norm(&params.attention_norm),
                    my.wide(*input, tokens),
                    my.saved(&kept.attention_norm, tokens),
                    my.wide(kept.attention_input, tokens),
                )?;
            }
            qkv::forward(
                my.launcher,
                my.qkv_shape(layer),
                my.weights.linear(&params.query),
                my.weights.linear(&params.key_value),
                my.rows(layer),
                my.attention_input(*input, kept),
                my.wide(kept.q, my.queries(layer)),
                my.of(kept.kv, tokens, 2 * my.width()),
            )
        });
    }

    fn attention(&mut self, layer: usize, kept: &mut LayerActivations<Buffer>) {
        self.run(|my| {
            let queries = my.queries(layer);
            attention::forward(
                my.launcher,
                &my.sequences(layer),
                my.attention_dropout(layer),
                my.wide(kept.q, queries),
                my.of(kept.kv, my.tokens(), 2 * my.width()),
                kept.softmax.cast().part(0, queries.most * my.model.n_heads),
                my.wide(kept.context, queries),
            )
        });
    }

    fn projection(&mut self, layer: usize, input: &Buffer, kept: &mut LayerActivations<Buffer>) {
        self.run(|my| {
            let (params, queries) = (my.layer(layer), my.queries(layer));
            projection::forward(
                my.launcher,
                queries,
                my.width(),
                my.weights.linear(&params.projection),
                my.tail(layer, dropout::attention_site(layer), &params.attention_norm),
                my.wide(kept.context, queries),
                my.wide(*input, my.tokens()),
                my.saved(&kept.attention_norm, queries),
                my.wide(kept.middle, queries),
            )
        });
    }

    fn ffn(&mut self, layer: usize, kept: &mut LayerActivations<Buffer>) {
        self.run(|my| {
            let (params, queries) = (my.layer(layer), my.queries(layer));
            let middle = my.wide(kept.middle, queries);
            if my.pre_norm() {
                layernorm::forward(
                    my.launcher,
                    queries,
                    my.width(),
                    my.norm(&params.ffn_norm),
                    middle,
                    my.saved(&kept.ffn_norm, queries),
                    my.wide(kept.ffn_input, queries),
                )?;
            }
            let hidden =
                (!kept.hidden.is_empty()).then(|| my.of(kept.hidden, queries, my.model.inner_size));
            ffn::forward(
                my.launcher,
                queries,
                my.feed_forward(layer),
                my.tail(layer, dropout::ffn_site(layer), &params.ffn_norm),
                my.ffn_input(layer, kept),
                middle,
                hidden,
                my.saved(&kept.ffn_norm, queries),
                my.wide(kept.output, queries),
            )
        });
    }

    fn head(&mut self, input: &Buffer, kept: &mut HeadActivations<Buffer>) {
        self.run(|my| {
            let rows = my.capacity.row_count();
            head::forward(
                my.launcher,
                rows,
                my.width(),
                my.weights.linear(&my.table.head),
                my.norm(&my.table.head_norm),
                my.wide(*input, rows),
                my.wide(kept.hidden, rows),
                my.saved(&kept.norm, rows),
                my.wide(kept.output, rows),
            )
        });
    }

    /// Leaves the gradient of the weight to `ffn_gradients` of the last layer.
    fn head_backward(
        &mut self,
        _: &Buffer,
        kept: &HeadActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.run(|my| {
            let rows = my.capacity.row_count();
            head::backward(
                my.launcher,
                rows,
                my.width(),
                my.weights.linear(&my.table.head),
                my.norm(&my.table.head_norm),
                my.wide(kept.hidden, rows),
                my.saved(&kept.norm, rows),
                my.wide(gradients.head, rows),
                my.weights.norm_partials(&my.table.head_norm),
                my.wide(my.scratch.head, rows),
                my.wide(gradients.output, rows),
            )
        });
    }

    fn ffn_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        std::mem::swap(&mut gradients.output, &mut gradients.middle);
        self.run(|my| {
            let (queries, norm) = (my.queries(layer), &my.layer(layer).ffn_norm);
            let (saved, gradient) = (my.saved(&kept.ffn_norm, queries), gradients.middle);
            let normed = my.pre_norm().then(|| my.wide(my.scratch.normed, queries));
            let norm_partials = my.weights.norm_partials(norm);
            ffn::backward(
                my.launcher,
                queries,
                my.feed_forward(layer),
                my.tail(layer, dropout::ffn_site(layer), norm),
                my.of(kept.hidden, queries, my.model.inner_size),
                saved,
                my.wide(gradient, queries),
                (!my.pre_norm()).then_some(norm_partials),
                my.wide(my.scratch.linear, queries),
                my.of(my.scratch.hidden, queries, my.model.inner_size),
                normed,
            )?;
            my.ffn_gradients(layer, kept)?;
            let Some(normed) = normed else { return Ok(()) };
            let gradient = my.wide(gradient, queries);
            layernorm::backward(
                my.launcher,
                queries,
                my.width(),
                my.norm(norm),
                saved,
                normed,
                Some((gradient, Rows::All)),
                norm_partials,
                gradient,
            )
        });
    }

    fn projection_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.run(|my| {
            let (params, queries) = (my.layer(layer), my.queries(layer));
            let norm = &params.attention_norm;
            projection::backward(
                my.launcher,
                queries,
                my.width(),
                my.weights.linear(&params.projection),
                my.tail(layer, dropout::attention_site(layer), norm),
                my.saved(&kept.attention_norm, queries),
                my.wide(gradients.middle, queries),
                (!my.pre_norm()).then(|| my.weights.norm_partials(norm)),
                my.wide(my.scratch.linear, queries),
                my.wide(gradients.context, queries),
            )
        });
    }

    fn attention_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.run(|my| {
            let (queries, tokens, d) = (my.queries(layer), my.tokens(), my.width());
            attention::backward(
                my.launcher,
                &my.sequences(layer),
                my.attention_dropout(layer),
                my.wide(kept.q, queries),
                my.of(kept.kv, tokens, 2 * d),
                kept.softmax.cast().part(0, queries.most * my.model.n_heads),
                my.wide(kept.context, queries),
                my.wide(gradients.context, queries),
                my.wide(gradients.q, queries),
                my.of(gradients.kv, tokens, 2 * d),
            )
        });
    }

    fn qkv_backward(
        &mut self,
        layer: usize,
        input: &Buffer,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.run(|my| {
            let (params, tokens, queries) = (my.layer(layer), my.tokens(), my.queries(layer));
            let rows = my.rows(layer);
            let residual = my.wide(gradients.middle, queries);
            let d_input = my.wide(gradients.output, tokens);
            qkv::backward(
                my.launcher,
                my.qkv_shape(layer),
                my.weights.linear(&params.query),
                my.weights.linear(&params.key_value),
                rows,
                my.wide(gradients.q, queries),
                my.of(gradients.kv, tokens, 2 * my.width()),
                (!my.pre_norm()).then_some(residual),
                d_input,
            )?;
            my.attention_gradients(layer, my.attention_input(*input, kept), kept, gradients)?;
            if !my.pre_norm() {
                return Ok(());
            }
            layernorm::backward(
                my.launcher,
                tokens,
                my.width(),
                my.norm(&params.attention_norm),
                my.saved(&kept.attention_norm, tokens),
                d_input,
                Some((residual, rows)),
                my.weights.norm_partials(&params.attention_norm),
                d_input,
            )
        });
    }

    /// Leaves the tables to [`embedding::tables_backward`], which comes after the output table's gradient.
    fn embedding_backward(
        &mut self,
        kept: &EmbeddingActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.run(|my| {
            let (tokens, norm) = (my.tokens(), &my.table.embedding_norm);
            embedding::backward(
                my.launcher,
                tokens,
                my.width(),
                my.norm(norm),
                my.hidden_dropout(dropout::EMBEDDING_SITE),
                my.saved(&kept.norm, tokens),
                my.wide(gradients.output, tokens),
                my.weights.norm_partials(norm),
            )
        });
    }
}
