//! The forward pass, from item ids to the head's output at the rows that are read.

use super::activations::Activations;
use super::operations::Operations;

/// Runs the network on one piece of a batch and keeps what [`super::backward::backward`] needs.
pub fn forward<O: Operations>(operations: &mut O, kept: &mut Activations<O::Buffer>) {
    operations.embedding(&mut kept.embedding);
    let mut input = &kept.embedding.output;
    for (index, layer) in kept.layers.iter_mut().enumerate() {
        operations.qkv(index, input, layer);
        operations.attention(index, layer);
        operations.projection(index, input, layer);
        operations.ffn(index, layer);
        input = &layer.output;
    }
    operations.head(input, &mut kept.head);
}
