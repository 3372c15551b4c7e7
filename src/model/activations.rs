//! What the forward pass keeps and what the backward pass passes down, over an engine's buffers.

/// Kept by a layer norm: `normalized [rows, D]` and `rstd [rows]`, 1 / sqrt(var + ε).
#[derive(Clone, Default)]
pub struct NormActivations<B> {
    /// `[rows, D]`
    pub normalized: B,
    /// `[rows]`
    pub rstd: B,
}

/// Kept by the input embedding.
#[derive(Clone, Default)]
pub struct EmbeddingActivations<B> {
    /// Norm of the sums, `T` rows.
    pub norm: NormActivations<B>,
    /// `[T, D]` input of the first layer.
    pub output: B,
}

/// Kept by one encoder layer. `Tq` is `T`, but `P` in the last layer, which works only where it is read.
#[derive(Clone, Default)]
pub struct LayerActivations<B> {
    /// Norm of the attention sublayer: `Tq` rows after it, or `T` rows before it.
    pub attention_norm: NormActivations<B>,
    /// `[T, D]` normed input of the attention sublayer, where norms stand before.
    pub attention_input: B,
    /// `[Tq, D]` queries.
    pub q: B,
    /// `[T, 2D]` keys and values. On the CPU, what stands in their place where they are absorbed.
    pub kv: B,
    /// What attention keeps of its softmax. On the CPU the probabilities, sequence by sequence, head by head (absorbed,
    /// query by query and then head by head), `[queries, keys]`, sign = dropped; on a GPU the log-sum-exp `[Tq, H]`.
    pub softmax: B,
    /// `[Tq, D]` attention's output before its projection.
    pub context: B,
    /// `[Tq, D]` output of the attention sublayer.
    pub middle: B,
    /// Norm of the feed-forward sublayer, `Tq` rows.
    pub ffn_norm: NormActivations<B>,
    /// `[Tq, D]` normed input of the feed-forward sublayer, where norms stand before.
    pub ffn_input: B,
    /// `[Tq, F]` before the activation.
    pub hidden: B,
    /// `[Tq, D]` output of the layer.
    pub output: B,
}

/// Kept by the head, `P` rows.
#[derive(Clone, Default)]
pub struct HeadActivations<B> {
    /// `[P, D]` before the activation.
    pub hidden: B,
    /// Norm after the activation.
    pub norm: NormActivations<B>,
    /// `[P, D]` what is multiplied by the output table.
    pub output: B,
}

/// Everything the forward pass keeps.
#[derive(Clone, Default)]
pub struct Activations<B> {
    /// Input embedding.
    pub embedding: EmbeddingActivations<B>,
    /// Encoder layers, first to last.
    pub layers: Vec<LayerActivations<B>>,
    /// Head.
    pub head: HeadActivations<B>,
}

/// Gradients on their way down; each layer uses the same buffers again.
#[derive(Clone, Default)]
pub struct ActivationGradients<B> {
    /// `[P, D]` of the head's output; filled by the item softmax.
    pub head: B,
    /// `[Tq, D]` of a layer's output on the way in, `[T, D]` of its input on the way out.
    pub output: B,
    /// `[Tq, D]` of the attention sublayer's output, then of its residual.
    pub middle: B,
    /// `[Tq, D]` of attention's output.
    pub context: B,
    /// `[Tq, D]` of the queries.
    pub q: B,
    /// `[T, 2D]` of keys and values, or of what stands in their place.
    pub kv: B,
}
