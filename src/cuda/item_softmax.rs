//! Softmax cross-entropy over all items, without a `P x V` matrix: logits are made again where they are needed.

use super::embedding::Segments;
use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher};
use crate::Result;

/// Rows and the output table they are multiplied by.
#[derive(Clone, Copy)]
pub struct Problem<S> {
    /// `P`
    pub rows: Count,
    /// `D`
    pub width: usize,
    /// `V`
    pub items: usize,
    /// `[P, D]` the head's output.
    pub head: Slice<S>,
    /// `[P]` item index, 1 to `V`.
    pub targets: Slice<u32>,
    /// `[V + 2, D]`; rows 0 and V + 1 (PAD, MASK) take no part.
    pub table: Slice<S>,
    /// `[V + 1]`; entry 0 (PAD) takes no part.
    pub bias: Slice<f32>,
}

/// Elements of scratch that [`forward`] and [`rows_backward`] need for up to `rows` rows.
pub fn scratch_len(rows: usize, width: usize, items: usize, multiprocessors: u32) -> usize {
    todo!()
}

/// Writes the log-sum-exp `[P]` and the loss `[P]` (log-sum-exp minus the target's logit) of each row.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    scratch: Slice<f32>,
    log_sum_exp: Slice<f32>,
    losses: Slice<f32>,
) -> Result<()> {
    todo!()
}

/// Assigns d_head `[P, D]`, the gradient of the mean loss.
///
/// # Errors
/// As [`forward`].
pub fn rows_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    scratch: Slice<f32>,
    d_head: Slice<S>,
) -> Result<()> {
    todo!()
}

/// Assigns all of d_table `[V + 2, D]` (rows 0 and V + 1 become 0) and d_bias `[V + 1]` (entry 0 becomes 0), the
/// gradients of the mean loss; `targets` are the rows sorted by target.
///
/// # Errors
/// As [`forward`].
pub fn table_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    targets: Segments,
    d_table: Slice<f32>,
    d_bias: Slice<f32>,
) -> Result<()> {
    todo!()
}
