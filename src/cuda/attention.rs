//! Multi-head attention within sequences of any length, fused: scores and probabilities stay on the chip.

use super::memory::{Slice, Storage};
use super::operands::{AttentionDropout, Count, Launcher, Rows};
use crate::Result;

/// The packed sequences and which of their tokens ask.
#[derive(Clone, Copy)]
pub struct Sequences {
    /// `B`
    pub sequences: Count,
    /// `[B + 1]` where each sequence begins among the tokens.
    pub cu_seqlens: Slice<u32>,
    /// `[B + 1]` where each sequence begins among the queries; `cu_seqlens` itself where every token asks.
    pub cu_queries: Slice<u32>,
    /// Tokens of the queries.
    pub rows: Rows,
    /// `T`
    pub tokens: Count,
    /// `Tq`
    pub queries: Count,
    /// `L`: no sequence is longer.
    pub max_len: usize,
    /// `H`
    pub heads: usize,
    /// `D`; the head width `K = D / H` is a multiple of 8 up to 128.
    pub width: usize,
}

/// context `[Tq, D]` = dropout(softmax(q kᵀ / sqrt(K))) v a head; q `[Tq, D]`, kv `[T, 2D]` (keys, then values
/// of a token). Keeps the log-sum-exp of each query and head, `[Tq, H]`. One launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    sequences: &Sequences,
    dropout: AttentionDropout,
    q: Slice<S>,
    kv: Slice<S>,
    log_sum_exp: Slice<f32>,
    context: Slice<S>,
) -> Result<()> {
    todo!()
}

/// From d_context `[Tq, D]` to d_q `[Tq, D]` and d_kv `[T, 2D]`, every element assigned; without atomics, so
/// that sums have one order. One launch.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    sequences: &Sequences,
    dropout: AttentionDropout,
    q: Slice<S>,
    kv: Slice<S>,
    log_sum_exp: Slice<f32>,
    context: Slice<S>,
    d_context: Slice<S>,
    d_q: Slice<S>,
    d_kv: Slice<S>,
) -> Result<()> {
    todo!()
}
