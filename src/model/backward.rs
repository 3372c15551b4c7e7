//! The backward pass: [`super::forward::forward`] from its last line to its first.

use super::activations::{ActivationGradients, Activations};
use super::operations::Operations;

/// From the gradient of the head's output, in `gradients.head`, to the gradients of all weights.
pub fn backward<O: Operations>(
    operations: &mut O,
    kept: &Activations<O::Buffer>,
    gradients: &mut ActivationGradients<O::Buffer>,
) {
    let input = |index: usize| match index {
        0 => &kept.embedding.output,
        _ => &kept.layers[index - 1].output,
    };
    operations.head_backward(input(kept.layers.len()), &kept.head, gradients);
    for (index, layer) in kept.layers.iter().enumerate().rev() {
        operations.ffn_backward(index, layer, gradients);
        operations.projection_backward(index, layer, gradients);
        operations.attention_backward(index, layer, gradients);
        operations.qkv_backward(index, input(index), layer, gradients);
    }
    operations.embedding_backward(&kept.embedding, gradients);
}
