//! The rank of each row's target among all items, and the best items of each row.

use super::item_softmax::Problem;
use super::memory::{Slice, Storage};
use super::operands::Launcher;
use crate::Result;

/// Items that rows leave out: row i those at `offsets[i]..offsets[i + 1]` of `items`, ascending.
#[derive(Clone, Copy)]
pub struct Seen {
    /// `[P + 1]`
    pub offsets: Slice<u32>,
    /// Item indices, 1 to `V`.
    pub items: Slice<u32>,
}

/// Writes the rank, from 1, of each row's target: 1 + the items, seen ones apart, that score at least as much, or
/// NaN. A target that is itself among the seen gets `u32::MAX`. Scores are added up and compared in f32.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn rank<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    seen: Seen,
    ranks: Slice<u32>,
) -> Result<()> {
    todo!()
}

/// Most items that [`top_k`] gives.
pub const MOST_BEST: usize = 256;

/// Elements of scratch that [`top_k`] needs, of `u64` each.
pub fn top_k_scratch_len(rows: usize, items: usize, k: usize) -> usize {
    todo!()
}

/// Writes the `k` best items `[P, k]` of each row, best first, and their scores; of equal scores the lower index
/// comes first. Seen items are left out; where fewer are left, index 0 fills up.
///
/// # Errors
/// As [`rank`]; also when `k` is 0 or above [`MOST_BEST`].
pub fn top_k<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    seen: Seen,
    k: usize,
    scratch: Slice<u64>,
    items: Slice<u32>,
    scores: Slice<f32>,
) -> Result<()> {
    todo!()
}
