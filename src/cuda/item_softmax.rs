//! Softmax cross-entropy over all items, without a `P x V` matrix: logits are made again where they are needed.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{Count, Launcher, Partials};
use super::sweep::{self, ProblemArguments, Sweep, THREADS, table_splits};
use crate::Result;
use bytemuck::NoUninit;

/// Channels of a thread that adds splits up.
const RUN: usize = 8;

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

/// What [`forward`] and [`rows_backward`] leave between two kernels.
#[derive(Clone, Copy, Default)]
pub struct Scratch {
    /// At least [`scratch_len`] elements.
    pub memory: Slice<f32>,
    /// Over how many blocks the items are split for each tile of rows: the order of sums depends on it.
    pub splits: usize,
}

/// Splits that leave every multiprocessor enough blocks for batches of `rows` rows.
pub fn splits(rows: usize, items: usize, multiprocessors: u32) -> usize {
    sweep::splits(rows, items, multiprocessors)
}

/// Elements of [`Scratch::memory`] for up to `rows` rows.
pub fn scratch_len(splits: usize, rows: usize, width: usize) -> usize {
    // Forward: maximum and sum of each split, and the target's logit. Backward: a row of each split.
    splits * rows * width.max(3)
}

/// Writes the log-sum-exp `[P]` and the loss `[P]` (log-sum-exp minus the target's logit) of each row.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    scratch: Scratch,
    log_sum_exp: Slice<f32>,
    losses: Slice<f32>,
) -> Result<()> {
    const NAME: &str = "item softmax";
    let call = Call::new(NAME, launcher, &problem)?;
    let most = problem.rows.most;
    check_scratch(NAME, &problem, scratch)?;
    check(NAME, "log-sum-exp", log_sum_exp, most)?;
    check(NAME, "losses", losses, most)?;
    let floats = (scratch.splits * most * size_of::<f32>()) as u64;
    let [maxima, sums, target_logits] =
        [0, 1, 2].map(|index| scratch.memory.address + index * floats);
    let arguments = ForwardArguments {
        problem: call.arguments,
        maxima,
        sums,
        target_logits,
        most: most as u32,
        unused: 0,
    };
    let sweep = &call.sweep;
    let grid = sweep.grid(most, scratch.splits, 1, sweep.shared());
    let kernel = sweep.kernel("item_softmax_forward");
    // SAFETY: the problem's buffers have the lengths that its sizes ask for, and scratch has three floats for
    // every row and split.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }?;
    let arguments = CombineArguments {
        rows: launcher.size(problem.rows.size),
        targets: problem.targets.address,
        maxima,
        sums,
        target_logits,
        log_sum_exp: log_sum_exp.address,
        losses: losses.address,
        most: most as u32,
        splits: scratch.splits as u32,
        items: problem.items as u32,
        unused: 0,
    };
    let grid = Grid::new(most.div_ceil(THREADS as usize), THREADS);
    // SAFETY: as above; outputs have an element for every row.
    unsafe { launcher.device.launch("item_softmax_combine_f32", grid, &arguments) }
}

/// Assigns d_head `[P, D]`, the gradient of the mean loss.
///
/// # Errors
/// As [`forward`].
pub fn rows_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    scratch: Scratch,
    d_head: Slice<S>,
) -> Result<()> {
    const NAME: &str = "item softmax, rows backward";
    let call = Call::new(NAME, launcher, &problem)?;
    let (most, width) = (problem.rows.most, problem.width);
    check_scratch(NAME, &problem, scratch)?;
    check(NAME, "log-sum-exp", log_sum_exp, most)?;
    check(NAME, "gradient of head", d_head, most * width)?;
    let arguments = RowsArguments {
        problem: call.arguments,
        log_sum_exp: log_sum_exp.address,
        parts: scratch.memory.address,
        most: most as u32,
        unused: 0,
    };
    let sweep = &call.sweep;
    let grid = sweep.grid(most, scratch.splits, sweep.channel_blocks(), sweep.product_shared());
    // SAFETY: the problem's buffers have the lengths that its sizes ask for, and scratch has a row for every row
    // and split.
    unsafe { launcher.device.launch(&sweep.kernel("item_softmax_rows"), grid, &arguments) }?;
    let arguments = RowsCombineArguments {
        rows: launcher.size(problem.rows.size),
        parts: scratch.memory.address,
        d_head: d_head.address,
        most: most as u32,
        splits: scratch.splits as u32,
        width: width as u32,
        unused: 0,
    };
    let grid = Grid::new((most * width / RUN).div_ceil(THREADS as usize), THREADS);
    let kernel = format!("item_softmax_rows_combine_{}", S::NAME);
    // SAFETY: as above; the output has a row for every row.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// Number of parts that [`table_backward`] should make for up to `rows` rows: 1, which may then be the gradient itself,
/// unless there are so few items that most of the device would have nothing to do.
pub fn table_slots(rows: usize, width: usize, items: usize, multiprocessors: u32) -> u32 {
    table_splits(rows, width, items, multiprocessors) as u32
}

/// Assigns all parts of d_table `[V + 2, D]` (rows 0 and V + 1 become 0) and d_bias `[V + 1]` (entry 0 becomes 0), the
/// gradients of the mean loss; both have the same number of slots.
///
/// # Errors
/// As [`forward`].
pub fn table_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    d_table: Partials,
    d_bias: Partials,
) -> Result<()> {
    const NAME: &str = "item softmax, table backward";
    let call = Call::new(NAME, launcher, &problem)?;
    check(NAME, "log-sum-exp", log_sum_exp, problem.rows.most)?;
    check(NAME, "gradient of table", d_table.first, problem.table.len)?;
    check(NAME, "gradient of bias", d_bias.first, problem.bias.len)?;
    if d_table.slots != d_bias.slots {
        return Err(failed(
            NAME,
            "the gradients of table and bias have different numbers of slots",
        ));
    }
    let arguments = TableArguments {
        problem: call.arguments,
        log_sum_exp: log_sum_exp.address,
        d_table: d_table.first.address,
        d_bias: d_bias.first.address,
        d_table_stride: d_table.stride as u64,
        d_bias_stride: d_bias.stride as u64,
    };
    let sweep = &call.sweep;
    let (slots, shared) = (d_table.slots as usize, sweep.product_shared());
    let grid = sweep.grid(problem.items, sweep.channel_blocks(), slots, shared);
    // SAFETY: the problem's buffers have the lengths that its sizes ask for, and gradients those of what they
    // belong to, in parts as `Partials` says.
    unsafe { launcher.device.launch(&sweep.kernel("item_softmax_table"), grid, &arguments) }
}

/// What all three have in common.
struct Call<S> {
    sweep: Sweep<S>,
    arguments: ProblemArguments,
}

impl<S: Storage> Call<S> {
    fn new(operation: &str, launcher: Launcher<'_>, problem: &Problem<S>) -> Result<Self> {
        let sweep = Sweep::new(operation, problem.width)?;
        let arguments = ProblemArguments::new(operation, launcher, problem)?;
        check(operation, "targets", problem.targets, problem.rows.most)?;
        Ok(Call { sweep, arguments })
    }
}

fn check_scratch<S: Storage>(
    operation: &str,
    problem: &Problem<S>,
    scratch: Scratch,
) -> Result<()> {
    let needed = scratch_len(scratch.splits, problem.rows.most, problem.width);
    if scratch.splits > 0 && scratch.memory.len >= needed {
        return Ok(());
    }
    let (len, splits) = (scratch.memory.len, scratch.splits);
    let problem = format!("has {len} elements where {needed} are needed for {splits} splits");
    Err(failed(format!("{operation}: scratch"), problem))
}

/// Mirrors `SoftmaxForward` of kernels/item_softmax.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ForwardArguments {
    problem: ProblemArguments,
    maxima: u64,
    sums: u64,
    target_logits: u64,
    most: u32,
    unused: u32,
}

/// Mirrors `SoftmaxCombine`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct CombineArguments {
    rows: u64,
    targets: u64,
    maxima: u64,
    sums: u64,
    target_logits: u64,
    log_sum_exp: u64,
    losses: u64,
    most: u32,
    splits: u32,
    items: u32,
    unused: u32,
}

/// Mirrors `RowsBackward`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RowsArguments {
    problem: ProblemArguments,
    log_sum_exp: u64,
    parts: u64,
    most: u32,
    unused: u32,
}

/// Mirrors `RowsCombine`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RowsCombineArguments {
    rows: u64,
    parts: u64,
    d_head: u64,
    most: u32,
    splits: u32,
    width: u32,
    unused: u32,
}

/// Mirrors `TableBackward`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct TableArguments {
    problem: ProblemArguments,
    log_sum_exp: u64,
    d_table: u64,
    d_bias: u64,
    d_table_stride: u64,
    d_bias_stride: u64,
}
