//! The fused operations that an engine implements. The forward and backward passes are written once, over
//! this list; each operation has a file of its own name in every engine.

use super::activations::{
    ActivationGradients, EmbeddingActivations, HeadActivations, LayerActivations,
};

/// Operations on one piece of a batch, in the order in which the forward pass calls them and then, mirrored,
/// in the order of the backward pass. Backward operations add to the gradients of the weights.
pub trait Operations {
    /// An activation tensor.
    type Buffer;

    /// x = dropout(LN(E\[id\] + Pos\[position\])).
    fn embedding(&mut self, kept: &mut EmbeddingActivations<Self::Buffer>);

    /// Queries at the rows that are read, keys and values everywhere, from the layer's `input` (normed first
    /// where norms stand before the sublayers).
    fn qkv(
        &mut self,
        layer: usize,
        input: &Self::Buffer,
        kept: &mut LayerActivations<Self::Buffer>,
    );

    /// `context` from `q` and `kv`, within each sequence. Where an engine absorbs keys and values, its `qkv` writes
    /// `context` and its `qkv_backward` begins with the context's gradient: both operations of attention then do nothing.
    fn attention(&mut self, layer: usize, kept: &mut LayerActivations<Self::Buffer>);

    /// `middle` = `input` + dropout(projection of `context`), normed where norms stand after.
    fn projection(
        &mut self,
        layer: usize,
        input: &Self::Buffer,
        kept: &mut LayerActivations<Self::Buffer>,
    );

    /// `output` = `middle` + dropout(feed-forward of `middle`), normed after or, inside, before.
    fn ffn(&mut self, layer: usize, kept: &mut LayerActivations<Self::Buffer>);

    /// Head up to the product with the output table, from the last layer's `input [P, D]`.
    fn head(&mut self, input: &Self::Buffer, kept: &mut HeadActivations<Self::Buffer>);

    /// From `gradients.head` to `gradients.output [P, D]`.
    fn head_backward(
        &mut self,
        input: &Self::Buffer,
        kept: &HeadActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );

    /// From `gradients.output` to `gradients.middle`.
    fn ffn_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );

    /// From `gradients.middle` to `gradients.context`; leaves the residual's gradient in `gradients.middle`.
    fn projection_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );

    /// From `gradients.context` to `gradients.q` and `gradients.kv`.
    fn attention_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );

    /// From `gradients.q`, `gradients.kv` and the residual's gradient to `gradients.output [T, D]`.
    fn qkv_backward(
        &mut self,
        layer: usize,
        input: &Self::Buffer,
        kept: &LayerActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );

    /// From `gradients.output` to the tables.
    fn embedding_backward(
        &mut self,
        kept: &EmbeddingActivations<Self::Buffer>,
        gradients: &mut ActivationGradients<Self::Buffer>,
    );
}
