//! The model's operation list on one lane: calls the slice functions of this folder with the lane's pieces of
//! the arena and of the batch.

use super::lane::View;
use super::layernorm::{self, Norm, NormGradient};
use super::linear::LinearGradient;
use super::projection::{self, NormSaved, Residual};
use super::vector::{add_scaled, vectorized};
use super::{absorbed_attention, attention, dropout, embedding, ffn, head, qkv};
use crate::model::activations::{
    ActivationGradients, EmbeddingActivations, HeadActivations, LayerActivations, NormActivations,
};
use crate::model::operations::Operations;
use std::ops::Range;

/// Buffers that operations need only while they run.
#[derive(Default)]
pub struct Scratch {
    gathered: Vec<f32>,
    linear: Vec<f32>,
    normed: Vec<f32>,
    attention: attention::Scratch,
    ffn: ffn::Scratch,
}

/// A lane with what its passes write.
pub struct Lane<'a> {
    /// What is read.
    pub view: View<'a>,
    /// The lane's own gradient of the arena from `table.dense_start` on; empty where there is no backward pass.
    pub gradient: &'a mut [f32],
    /// `[T, D]` gradients of the lane's embedding sums; empty where there is no backward pass.
    pub d_tokens: &'a mut [f32],
    /// Temporary buffers.
    pub scratch: &'a mut Scratch,
}

impl Lane<'_> {
    /// The lane's gradients of disjoint tensors of the arena.
    fn gradients<const N: usize>(&mut self, tensors: [&Range<usize>; N]) -> [&mut [f32]; N] {
        let base = self.view.table.dense_start;
        let local = tensors.map(|range| range.start - base..range.end - base);
        match self.gradient.get_disjoint_mut(local) {
            Ok(pieces) => pieces,
            Err(error) => unreachable!("tensors of one table overlap: {error}"),
        }
    }
}

/// Gives the buffer its length; what it held before may stay in it.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

fn saved(norm: &mut NormActivations<Vec<f32>>, rows: usize, d: usize) -> NormSaved<'_> {
    NormSaved {
        normalized: sized(&mut norm.normalized, rows * d),
        rstd: sized(&mut norm.rstd, rows),
    }
}

/// Layer norm of whole rows, where it stands before a sublayer.
fn norm_rows(
    norm: &Norm,
    input: &[f32],
    kept: &mut NormActivations<Vec<f32>>,
    output: &mut Vec<f32>,
) {
    let saved = saved(kept, input.len() / norm.weight.len(), norm.weight.len());
    let output = sized(output, input.len());
    layernorm::forward_rows(norm, input, saved.normalized, saved.rstd, output);
}

impl Operations for Lane<'_> {
    type Buffer = Vec<f32>;

    fn embedding(&mut self, kept: &mut EmbeddingActivations<Vec<f32>>) {
        let view = self.view;
        let (t, d) = (view.token_count(), view.model.hidden_size);
        let saved = saved(&mut kept.norm, t, d);
        embedding::forward(
            &view.tables(),
            &view.tokens(),
            &view.norm(&view.table.embedding_norm),
            view.hidden_dropout(dropout::EMBEDDING_SITE).as_ref(),
            saved.normalized,
            saved.rstd,
            sized(&mut kept.output, t * d),
        );
    }

    fn qkv(&mut self, layer: usize, input: &Vec<f32>, kept: &mut LayerActivations<Vec<f32>>) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let (t, d) = (view.token_count(), view.model.hidden_size);
        let input = if view.pre_norm() {
            let norm = view.norm(&params.attention_norm);
            norm_rows(&norm, input, &mut kept.attention_norm, &mut kept.attention_input);
            &kept.attention_input
        } else {
            input
        };
        let (query, key_value) = (&view.linear(&params.query), &view.linear(&params.key_value));
        if view.absorbs(layer) {
            let (sequences, queries) = (view.sequences(layer), view.query_count(layer));
            absorbed_attention::forward(
                &sequences,
                view.attention_dropout(layer).as_ref(),
                query,
                key_value,
                input,
                absorbed_attention::Scratch {
                    attention: &mut self.scratch.attention,
                    gathered: &mut self.scratch.gathered,
                },
                absorbed_attention::Kept {
                    q: sized(&mut kept.q, queries * d),
                    parts: sized(&mut kept.kv, absorbed_attention::parts_len(&sequences)),
                    probabilities: sized(&mut kept.softmax, sequences.probability_count()),
                },
                sized(&mut kept.context, queries * d),
            );
            return;
        }
        qkv::forward(
            query,
            key_value,
            view.rows(layer),
            input,
            &mut self.scratch.gathered,
            sized(&mut kept.q, view.query_count(layer) * d),
            sized(&mut kept.kv, 2 * t * d),
        );
    }

    fn attention(&mut self, layer: usize, kept: &mut LayerActivations<Vec<f32>>) {
        let view = self.view;
        if view.absorbs(layer) {
            // `qkv` has written the context.
            return;
        }
        let sequences = view.sequences(layer);
        attention::forward(
            &sequences,
            view.attention_dropout(layer).as_ref(),
            &kept.q,
            &kept.kv,
            &mut self.scratch.attention,
            sized(&mut kept.softmax, sequences.probability_count()),
            sized(&mut kept.context, view.query_count(layer) * view.model.hidden_size),
        );
    }

    fn projection(
        &mut self,
        layer: usize,
        input: &Vec<f32>,
        kept: &mut LayerActivations<Vec<f32>>,
    ) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let (rows, d) = (view.query_count(layer), view.model.hidden_size);
        // A norm before the sublayer was kept by `qkv`.
        let mut none = NormActivations::default();
        let (norm, kept_rows) =
            if view.pre_norm() { (&mut none, 0) } else { (&mut kept.attention_norm, rows) };
        projection::forward(
            &view.linear(&params.projection),
            &view.tail(layer, dropout::attention_site(layer), &params.attention_norm),
            &kept.context,
            Residual::Tokens(input),
            saved(norm, kept_rows, d),
            sized(&mut kept.middle, rows * d),
        );
    }

    fn ffn(&mut self, layer: usize, kept: &mut LayerActivations<Vec<f32>>) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let (rows, d) = (view.query_count(layer), view.model.hidden_size);
        let mut none = NormActivations::default();
        let (input, norm, kept_rows) = if view.pre_norm() {
            let norm = view.norm(&params.ffn_norm);
            norm_rows(&norm, &kept.middle, &mut kept.ffn_norm, &mut kept.ffn_input);
            (&kept.ffn_input, &mut none, 0)
        } else {
            (&kept.middle, &mut kept.ffn_norm, rows)
        };
        ffn::forward(
            &view.feed_forward(layer),
            &view.tail(layer, dropout::ffn_site(layer), &params.ffn_norm),
            input,
            Residual::Rows(&kept.middle),
            &mut self.scratch.ffn,
            (!view.answers()).then(|| sized(&mut kept.hidden, rows * view.model.inner_size)),
            saved(norm, kept_rows, d),
            sized(&mut kept.output, rows * d),
        );
    }

    fn head(&mut self, input: &Vec<f32>, kept: &mut HeadActivations<Vec<f32>>) {
        let view = self.view;
        let (rows, d) = (view.piece.rows.len(), view.model.hidden_size);
        let saved = saved(&mut kept.norm, rows, d);
        head::forward(
            &view.linear(&view.table.head),
            &view.norm(&view.table.head_norm),
            input,
            sized(&mut kept.hidden, rows * d),
            saved.normalized,
            saved.rstd,
            sized(&mut kept.output, rows * d),
        );
    }

    fn head_backward(
        &mut self,
        input: &Vec<f32>,
        kept: &HeadActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        let (linear, norm) = (&view.table.head, &view.table.head_norm);
        let [dw, db, dgamma, dbeta] =
            self.gradients([&linear.weight, &linear.bias, &norm.weight, &norm.bias]);
        head::backward(
            &view.linear(linear),
            &view.norm(norm),
            input,
            &kept.hidden,
            &kept.norm.normalized,
            &kept.norm.rstd,
            &mut LinearGradient { weight: dw, bias: db },
            &mut NormGradient { weight: dgamma, bias: dbeta },
            &mut gradients.head,
            sized(&mut gradients.output, input.len()),
        );
    }

    fn ffn_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let elements = view.query_count(layer) * view.model.hidden_size;
        let mut linear = std::mem::take(&mut self.scratch.linear);
        let mut normed = std::mem::take(&mut self.scratch.normed);
        let mut scratch = std::mem::take(&mut self.scratch.ffn);
        let ActivationGradients { output, middle, .. } = gradients;
        std::mem::swap(output, middle);
        let (inner, outer, norm) = (&params.ffn_in, &params.ffn_out, &params.ffn_norm);
        let [dw1, db1, dw2, db2, dgamma, dbeta] = self.gradients([
            &inner.weight,
            &inner.bias,
            &outer.weight,
            &outer.bias,
            &norm.weight,
            &norm.bias,
        ]);
        let mut d_norm = NormGradient { weight: dgamma, bias: dbeta };
        let d_input = view.pre_norm().then(|| {
            normed.clear();
            sized(&mut normed, elements)
        });
        ffn::backward(
            &view.feed_forward(layer),
            &view.tail(layer, dropout::ffn_site(layer), norm),
            if view.pre_norm() { &kept.ffn_input } else { &kept.middle },
            &mut scratch,
            &kept.hidden,
            &kept.ffn_norm.normalized,
            &kept.ffn_norm.rstd,
            &mut ffn::FeedForwardGradient {
                inner: LinearGradient { weight: dw1, bias: db1 },
                outer: LinearGradient { weight: dw2, bias: db2 },
            },
            &mut d_norm,
            middle,
            sized(&mut linear, elements),
            d_input,
        );
        if view.pre_norm() {
            let NormActivations { normalized, rstd } = &kept.ffn_norm;
            layernorm::backward_rows(&view.norm(norm), &mut d_norm, normalized, rstd, &mut normed);
            vectorized(
                #[inline(always)]
                || add_scaled(middle, 1.0, &normed),
            );
        }
        self.scratch.ffn = scratch;
        self.scratch.linear = linear;
        self.scratch.normed = normed;
    }

    fn projection_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let elements = view.query_count(layer) * view.model.hidden_size;
        let mut linear = std::mem::take(&mut self.scratch.linear);
        let (map, norm) = (&params.projection, &params.attention_norm);
        let [dw, db, dgamma, dbeta] =
            self.gradients([&map.weight, &map.bias, &norm.weight, &norm.bias]);
        projection::backward(
            &view.linear(map),
            &view.tail(layer, dropout::attention_site(layer), norm),
            &kept.context,
            &kept.attention_norm.normalized,
            &kept.attention_norm.rstd,
            &mut LinearGradient { weight: dw, bias: db },
            &mut NormGradient { weight: dgamma, bias: dbeta },
            &mut gradients.middle,
            sized(&mut linear, elements),
            sized(&mut gradients.context, elements),
        );
        self.scratch.linear = linear;
    }

    fn attention_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        if view.absorbs(layer) {
            // `qkv_backward` begins with the context.
            return;
        }
        let ActivationGradients { context: d_context, q: d_q, kv: d_kv, .. } = gradients;
        attention::backward(
            &view.sequences(layer),
            view.attention_dropout(layer).as_ref(),
            &kept.q,
            &kept.kv,
            &kept.softmax,
            d_context,
            None,
            &mut self.scratch.attention,
            sized(d_q, kept.q.len()),
            sized(d_kv, kept.kv.len()),
        );
    }

    fn qkv_backward(
        &mut self,
        layer: usize,
        input: &Vec<f32>,
        kept: &LayerActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        let params = &view.table.layers[layer];
        let mut gathered = std::mem::take(&mut self.scratch.gathered);
        let mut attention = std::mem::take(&mut self.scratch.attention);
        let (query, key_value, norm) = (&params.query, &params.key_value, &params.attention_norm);
        let [dwq, dbq, dwkv, dbkv, dgamma, dbeta] = self.gradients([
            &query.weight,
            &query.bias,
            &key_value.weight,
            &key_value.bias,
            &norm.weight,
            &norm.bias,
        ]);
        let mut d_query = LinearGradient { weight: dwq, bias: dbq };
        let mut d_key_value = LinearGradient { weight: dwkv, bias: dbkv };
        let (query, key_value) = (&view.linear(query), &view.linear(key_value));
        let input = if view.pre_norm() { &kept.attention_input } else { input };
        let ActivationGradients { output, context: d_context, q: d_q, kv: d_kv, .. } = gradients;
        let d_input = sized(output, view.token_count() * view.model.hidden_size);
        if view.absorbs(layer) {
            absorbed_attention::backward(
                &view.sequences(layer),
                view.attention_dropout(layer).as_ref(),
                query,
                key_value,
                input,
                absorbed_attention::Kept {
                    q: &kept.q,
                    parts: &kept.kv,
                    probabilities: &kept.softmax,
                },
                d_context,
                absorbed_attention::Scratch { attention: &mut attention, gathered: &mut gathered },
                absorbed_attention::Gradients {
                    parts: sized(d_kv, kept.kv.len()),
                    q: sized(d_q, kept.q.len()),
                    query: d_query,
                    key_value: d_key_value,
                    input: d_input,
                },
            );
        } else {
            qkv::backward(
                query,
                key_value,
                view.rows(layer),
                input,
                &qkv::Upstream { q: d_q, kv: d_kv },
                &mut gathered,
                &mut d_query,
                &mut d_key_value,
                d_input,
            );
        }
        if view.pre_norm() {
            let mut d_norm = NormGradient { weight: dgamma, bias: dbeta };
            let NormActivations { normalized, rstd } = &kept.attention_norm;
            layernorm::backward_rows(&view.norm(norm), &mut d_norm, normalized, rstd, d_input);
        }
        view.rows(layer).scatter_add(&gradients.middle, view.model.hidden_size, d_input);
        self.scratch.attention = attention;
        self.scratch.gathered = gathered;
    }

    fn embedding_backward(
        &mut self,
        kept: &EmbeddingActivations<Vec<f32>>,
        gradients: &mut ActivationGradients<Vec<f32>>,
    ) {
        let view = self.view;
        let norm = &view.table.embedding_norm;
        let [d_positions, dgamma, dbeta] =
            self.gradients([&view.table.position_embedding, &norm.weight, &norm.bias]);
        embedding::backward(
            &view.tokens(),
            &view.norm(norm),
            view.hidden_dropout(dropout::EMBEDDING_SITE).as_ref(),
            &kept.norm.normalized,
            &kept.norm.rstd,
            &mut gradients.output,
            &mut NormGradient { weight: dgamma, bias: dbeta },
            d_positions,
        );
        self.d_tokens.copy_from_slice(&gradients.output);
    }
}
