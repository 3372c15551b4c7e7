//! Losses over items, the host's side of `kernels/common/item_loss.cuh`: what the softmax over all of them
//! ([`super::item_softmax`]) and the binary loss over a sample ([`super::gbce`]) have in common.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{Count, Launcher, Partials};
use super::sweep::{self, ProblemArguments, Sweep, THREADS, table_splits};
use crate::Result;
use bytemuck::NoUninit;

/// Channels of a thread that adds splits up.
const RUN: usize = 8;

/// Rows and the output table they are multiplied by: the whole, or that of a step's shortlist, `C` being its `V`.
#[derive(Clone, Copy)]
pub struct Problem<S> {
    /// `P`
    pub rows: Count,
    /// `D`
    pub width: usize,
    /// `V`
    pub items: Count,
    /// `[P, D]` the head's output.
    pub head: Slice<S>,
    /// `[P]` item index, 1 to `V`.
    pub targets: Slice<u32>,
    /// `[V + 2, D]`; rows 0 and V + 1 (PAD, MASK) take no part.
    pub table: Slice<S>,
    /// `[V + 1]`; entry 0 (PAD) takes no part.
    pub bias: Slice<f32>,
}

/// What the forward pass and the gradient of rows leave between two kernels.
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
    // Forward: up to two numbers of each split, and the target's score. Backward: a row of each split.
    splits * rows * width.max(FOUND + 1)
}

/// Number of parts that the gradient of the table should be made in for up to `rows` rows: 1, which may then be the
/// gradient itself, unless there are so few items that most of the device would have nothing to do.
pub fn table_slots(rows: usize, width: usize, items: usize, multiprocessors: u32) -> u32 {
    table_splits(rows, width, items, multiprocessors) as u32
}

/// Most floats that a loss keeps of a row and split: `Running` in `kernels/common/item_loss.cuh`.
const FOUND: usize = 2;

/// One loss of one batch: checked launches of its kernels.
pub(super) struct Call<'a, S> {
    /// How the names of the loss's kernels begin.
    kernels: &'static str,
    launcher: Launcher<'a>,
    problem: Problem<S>,
    sweep: Sweep<S>,
    arguments: ProblemArguments,
}

/// Device addresses of what the forward sweep leaves to be put together.
pub(super) struct Found {
    /// `[splits, P]` what the loss keeps of a row and split.
    pub of_splits: u64,
    /// `[P]` product of each row and its target's vector.
    pub target_scores: u64,
}

/// What a loss knows of each row after the forward pass; mirrors `RowTerms` of `kernels/common/item_loss.cuh`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct RowTerms {
    /// `[P]`
    pub terms: u64,
    /// `[P]`; 0 where each row pulls at its target by 1.
    pub pulls: u64,
}

impl<'a, S: Storage> Call<'a, S> {
    /// `kernels` is `item_softmax` or `gbce`.
    pub fn new(kernels: &'static str, launcher: Launcher<'a>, problem: Problem<S>) -> Result<Self> {
        let sweep = Sweep::new(kernels, problem.width)?;
        let arguments = ProblemArguments::new(kernels, launcher, &problem)?;
        check(kernels, "targets", problem.targets, problem.rows.most)?;
        Ok(Call { kernels, launcher, problem, sweep, arguments })
    }

    /// The loss's kernel called `<loss>_<name>`, of the problem's width and storage.
    fn kernel(&self, name: &str) -> String {
        self.sweep.kernel(&format!("{}_{name}", self.kernels))
    }

    /// Checks a buffer of a number for every row.
    pub fn check_rows<T>(&self, name: &str, slice: Slice<T>) -> Result<()> {
        check(self.kernels, name, slice, self.problem.rows.most)
    }

    /// A thread for every row.
    pub fn grid_of_rows(&self) -> Grid {
        Grid::new(self.problem.rows.most.div_ceil(THREADS as usize), THREADS)
    }

    /// Runs over the logits of every row and split.
    pub fn forward(&self, scratch: Scratch) -> Result<Found> {
        self.check_scratch(scratch)?;
        let most = self.problem.rows.most;
        let of_splits = scratch.memory.address;
        let floats = FOUND * scratch.splits * most;
        let target_scores = of_splits + (floats * size_of::<f32>()) as u64;
        let arguments = ForwardArguments {
            problem: self.arguments,
            of_splits,
            target_scores,
            most: most as u32,
            unused: 0,
        };
        let grid = self.sweep.grid(most, scratch.splits, 1, self.sweep.shared());
        // SAFETY: the problem's buffers have the lengths that its sizes ask for, and scratch has three floats for
        // every row and split.
        unsafe { self.launcher.device.launch(&self.kernel("forward"), grid, &arguments) }?;
        Ok(Found { of_splits, target_scores })
    }

    /// Assigns d_head `[P, D]`, the gradient of the mean loss. The buffers of `terms` have been checked.
    pub fn rows_backward(&self, terms: RowTerms, scratch: Scratch, d_head: Slice<S>) -> Result<()> {
        let (most, width) = (self.problem.rows.most, self.problem.width);
        self.check_scratch(scratch)?;
        check(self.kernels, "gradient of head", d_head, most * width)?;
        let arguments = RowsArguments {
            problem: self.arguments,
            terms,
            parts: scratch.memory.address,
            most: most as u32,
            unused: 0,
        };
        let sweep = &self.sweep;
        let grid = sweep.grid(most, scratch.splits, sweep.channel_blocks(), sweep.product_shared());
        // SAFETY: the problem's buffers have the lengths that its sizes ask for, and scratch has a row for every
        // row and split.
        unsafe { self.launcher.device.launch(&self.kernel("rows"), grid, &arguments) }?;
        let arguments = RowsCombineArguments {
            rows: self.launcher.size(self.problem.rows.size),
            parts: scratch.memory.address,
            d_head: d_head.address,
            most: most as u32,
            splits: scratch.splits as u32,
            width: width as u32,
            unused: 0,
        };
        let grid = Grid::new((most * width / RUN).div_ceil(THREADS as usize), THREADS);
        // The same for every loss.
        let kernel = format!("item_softmax_rows_combine_{}", S::NAME);
        // SAFETY: as above; the output has a row for every row.
        unsafe { self.launcher.device.launch(&kernel, grid, &arguments) }
    }

    /// Assigns all parts of d_table `[V + 2, D]` (rows 0 and V + 1 become 0) and d_bias `[V + 1]` (entry 0 becomes 0),
    /// the gradients of the mean loss; both have the same number of slots. Where there are fewer items than there may
    /// be, what lies beyond row V + 1 is left as it is. The buffers of `terms` have been checked.
    pub fn table_backward(
        &self,
        terms: RowTerms,
        d_table: Partials,
        d_bias: Partials,
    ) -> Result<()> {
        check(self.kernels, "gradient of table", d_table.first, self.problem.table.len)?;
        check(self.kernels, "gradient of bias", d_bias.first, self.problem.bias.len)?;
        if d_table.slots != d_bias.slots {
            let problem = "the gradients of table and bias have different numbers of slots";
            return Err(failed(self.kernels, problem));
        }
        let arguments = TableArguments {
            problem: self.arguments,
            terms,
            d_table: d_table.first.address,
            d_bias: d_bias.first.address,
            d_table_stride: d_table.stride as u64,
            d_bias_stride: d_bias.stride as u64,
        };
        let sweep = &self.sweep;
        let (slots, shared) = (d_table.slots as usize, sweep.product_shared());
        let grid = sweep.grid(self.problem.items.most, sweep.channel_blocks(), slots, shared);
        // SAFETY: the problem's buffers have the lengths that its sizes ask for, and gradients those of what they
        // belong to, in parts as `Partials` says.
        unsafe { self.launcher.device.launch(&self.kernel("table"), grid, &arguments) }
    }

    fn check_scratch(&self, scratch: Scratch) -> Result<()> {
        let (rows, width) = (self.problem.rows.most, self.problem.width);
        let needed = scratch_len(scratch.splits, rows, width);
        if scratch.splits > 0 && scratch.memory.len >= needed {
            return Ok(());
        }
        let (len, splits) = (scratch.memory.len, scratch.splits);
        let problem = format!("has {len} elements where {needed} are needed for {splits} splits");
        Err(failed(format!("{}: scratch", self.kernels), problem))
    }
}

/// Mirrors `LossForward` of kernels/common/item_loss.cuh.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ForwardArguments {
    problem: ProblemArguments,
    of_splits: u64,
    target_scores: u64,
    most: u32,
    unused: u32,
}

/// Mirrors `RowsBackward`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RowsArguments {
    problem: ProblemArguments,
    terms: RowTerms,
    parts: u64,
    most: u32,
    unused: u32,
}

/// Mirrors `RowsCombine` of kernels/item_softmax.cu.
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
    terms: RowTerms,
    d_table: u64,
    d_bias: u64,
    d_table_stride: u64,
    d_bias_stride: u64,
}
