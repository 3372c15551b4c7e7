//! The best items of each row.

use super::device::{Grid, failed};
use super::item_loss::Problem;
use super::memory::{Slice, Storage, check};
use super::operands::Launcher;
use super::rank::{Seen, SeenArguments};
use super::sweep::{ProblemArguments, Sweep, THREADS};
use crate::Result;
use bytemuck::NoUninit;

/// Most items that [`top_k`] gives.
pub const MOST_BEST: usize = 256;
/// Keys of a list, as `LIST` in kernels/top_k.cu.
const LIST: usize = 512;
/// Most blocks that share the items of a tile of rows, and least items for each of them.
const MOST_SPLITS: usize = 16;
const SPLIT_ITEMS: usize = 1024;

fn splits(items: usize) -> usize {
    items.div_ceil(SPLIT_ITEMS).clamp(1, MOST_SPLITS)
}

/// Elements of scratch that [`top_k`] needs, of `u64` each.
pub fn top_k_scratch_len(rows: usize, items: usize) -> usize {
    splits(items) * rows * LIST
}

/// Writes the `k` best items `[P, k]` of each row, best first, and their scores; of equal scores the lower index
/// comes first. Seen items are left out, and those whose bias is negative infinity; where fewer are left, index 0
/// and negative infinity fill up. Where another item's score is not finite, the row's first index is 0 and its
/// first score NaN: no order can be given then. The problem's targets are not read and may be empty.
///
/// # Errors
/// As [`super::rank::rank`]; also when `k` is 0 or above [`MOST_BEST`].
pub fn top_k<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    seen: Seen,
    k: usize,
    scratch: Slice<u64>,
    items: Slice<u32>,
    scores: Slice<f32>,
) -> Result<()> {
    const NAME: &str = "top k";
    if !(1..=MOST_BEST).contains(&k) {
        return Err(failed(NAME, format!("k is {k}; it must be 1 to {MOST_BEST}")));
    }
    let sweep = Sweep::<S>::new(NAME, problem.width)?;
    let (most, splits) = (problem.rows.most, splits(problem.items.most));
    let arguments = SweepArguments {
        problem: ProblemArguments::new(NAME, launcher, &problem)?,
        seen: SeenArguments::new(NAME, most, seen)?,
        lists: scratch.address,
        most: most as u32,
        k: k as u32,
    };
    check(NAME, "scratch", scratch, top_k_scratch_len(most, problem.items.most))?;
    check(NAME, "items", items, most * k)?;
    check(NAME, "scores", scores, most * k)?;
    let grid = sweep.grid(most, splits, 1, sweep.shared());
    // SAFETY: the problem's buffers have the lengths that its sizes ask for, scratch has a list for every row and
    // split; lists of seen items lie within `seen.items` by the contract of `Seen`.
    unsafe { launcher.device.launch(&sweep.kernel("top_k_sweep"), grid, &arguments) }?;
    let arguments = MergeArguments {
        rows: launcher.size(problem.rows.size),
        lists: scratch.address,
        items: items.address,
        scores: scores.address,
        most: most as u32,
        splits: splits as u32,
        k: k as u32,
        unused: 0,
    };
    // SAFETY: as above; outputs have k elements for every row.
    unsafe { launcher.device.launch("top_k_merge_f32", Grid::new(most, THREADS), &arguments) }
}

/// Mirrors `TopKSweep` of kernels/top_k.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct SweepArguments {
    problem: ProblemArguments,
    seen: SeenArguments,
    lists: u64,
    most: u32,
    k: u32,
}

/// Mirrors `TopKMerge` of kernels/top_k.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct MergeArguments {
    rows: u64,
    lists: u64,
    items: u64,
    scores: u64,
    most: u32,
    splits: u32,
    k: u32,
    unused: u32,
}
