//! The rank of each row's target among all items.

use super::device::Grid;
use super::item_loss::Problem;
use super::memory::{Slice, Storage, check};
use super::operands::Launcher;
use super::sweep::{ProblemArguments, Sweep, THREADS, splits};
use crate::Result;
use bytemuck::NoUninit;

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
    const NAME: &str = "rank";
    let sweep = Sweep::<S>::new(NAME, problem.width)?;
    let most = problem.rows.most;
    let arguments = RankArguments {
        problem: ProblemArguments::new(NAME, launcher, &problem)?,
        seen: SeenArguments::new(NAME, most, seen)?,
        ranks: ranks.address,
    };
    check(NAME, "targets", problem.targets, most)?;
    check(NAME, "ranks", ranks, most)?;
    let begin = BeginArguments {
        rows: launcher.size(problem.rows.size),
        targets: problem.targets.address,
        seen: arguments.seen,
        ranks: ranks.address,
    };
    let grid = Grid::new(most.div_ceil(THREADS as usize), THREADS);
    // SAFETY: targets, offsets and ranks have an entry for every row; lists lie within `seen.items` by the
    // contract of `Seen`.
    unsafe { launcher.device.launch("rank_begin_f32", grid, &begin) }?;
    let splits = splits(most, problem.items.most, launcher.device.multiprocessors());
    let grid = sweep.grid(most, splits, 1, sweep.shared());
    // SAFETY: as above; the problem's buffers have the lengths that its sizes ask for.
    unsafe { launcher.device.launch(&sweep.kernel("rank"), grid, &arguments) }
}

/// Mirrors `SeenLists` of kernels/common/seen.cuh.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct SeenArguments {
    offsets: u64,
    items: u64,
}

impl SeenArguments {
    pub fn new(operation: &str, rows: usize, seen: Seen) -> Result<Self> {
        check(operation, "offsets of seen items", seen.offsets, rows + 1)?;
        Ok(SeenArguments { offsets: seen.offsets.address, items: seen.items.address })
    }
}

/// Mirrors `RankBegin` of kernels/rank.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct BeginArguments {
    rows: u64,
    targets: u64,
    seen: SeenArguments,
    ranks: u64,
}

/// Mirrors `Rank` of kernels/rank.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RankArguments {
    problem: ProblemArguments,
    seen: SeenArguments,
    ranks: u64,
}
