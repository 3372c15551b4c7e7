//! Input embedding: x = dropout(LN(E[id] + Pos[position])), and the gradients of its tables.

use super::memory::{Slice, Storage};
use super::operands::{Count, HiddenDropout, Launcher, Norm, NormPartials, NormSaved};
use crate::Result;
use crate::config::Positions;

/// Tokens and the tables they are looked up in.
#[derive(Clone, Copy)]
pub struct Tokens<S> {
    /// `T`
    pub count: Count,
    /// `D`
    pub width: usize,
    /// `[T]` rows of `items`.
    pub ids: Slice<u32>,
    /// `[T]` rows of `positions`.
    pub position_ids: Slice<u32>,
    /// `[V + 2, D]`
    pub items: Slice<S>,
    /// `[L, D]`
    pub positions: Slice<S>,
}

/// Writes what the norm keeps and the output `[T, D]`. An id or position beyond its table is clamped to it.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    tokens: Tokens<S>,
    norm: Norm,
    dropout: HiddenDropout,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    todo!()
}

/// Replaces the gradient of the output `[T, D]` by that of the sums; assigns the parts of the norm's gradients.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    count: Count,
    width: usize,
    norm: Norm,
    dropout: HiddenDropout,
    saved: NormSaved<S>,
    gradient: Slice<S>,
    norm_partials: NormPartials,
) -> Result<()> {
    todo!()
}

/// Assigns the position table's gradient `[L, D]`: the sum over sequences, in order, of the token that stands
/// at each position.
///
/// # Errors
/// As [`forward`].
pub fn positions_backward<S: Storage>(
    launcher: Launcher<'_>,
    sequences: Count,
    cu_seqlens: Slice<u32>,
    positions: Positions,
    width: usize,
    d_sums: Slice<S>,
    d_positions: Slice<f32>,
) -> Result<()> {
    todo!()
}

/// Indices sorted by key, as [`crate::batch::Segments`] has them.
#[derive(Clone, Copy)]
pub struct Segments {
    /// Number of distinct keys.
    pub count: Count,
    /// `[S]` distinct keys, ascending.
    pub keys: Slice<u32>,
    /// `[S + 1]` where each key's indices begin.
    pub offsets: Slice<u32>,
    /// The indices.
    pub indices: Slice<u32>,
}

/// Adds to each row of d_items `[V + 2, D]` that a segment names the sum of its tokens' d_sums, in order.
///
/// # Errors
/// As [`forward`].
pub fn scatter<S: Storage>(
    launcher: Launcher<'_>,
    segments: Segments,
    width: usize,
    d_sums: Slice<S>,
    d_items: Slice<f32>,
) -> Result<()> {
    todo!()
}
