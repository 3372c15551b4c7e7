//! What a loss over a sample of the items looks at: rows of the output table and biases of the items of a
//! [`Shortlist`](crate::model::shortlist::Shortlist), taken out of the whole, and their gradients put back.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{Count, Launcher, Partials};
use super::tiles::check_width;
use crate::Result;
use bytemuck::NoUninit;

/// Threads of a block.
const THREADS: u32 = 256;
/// Channels of a thread.
const RUN: usize = 8;

/// The items of a step's list.
#[derive(Clone, Copy)]
pub struct List {
    /// `C`
    pub count: Count,
    /// `[C]` item indices, 1 to `V`, none twice.
    pub items: Slice<u32>,
    /// `[C]` what the loss adds to each item's logits.
    pub offsets: Slice<f32>,
}

/// An output table `[V + 2, D]` and bias `[V + 1]`: the whole, or the list's, `C` being its `V`.
#[derive(Clone, Copy)]
pub struct Output<S> {
    /// Row i is the vector of item i, or of the item at place i of the list, from 1.
    pub table: Slice<S>,
    /// In the same order.
    pub bias: Slice<f32>,
}

/// Copies the list's rows of `whole` into `listed`, and its biases with the offsets added.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn gather<S: Storage>(
    launcher: Launcher<'_>,
    list: List,
    width: usize,
    whole: Output<S>,
    listed: Output<S>,
) -> Result<()> {
    const NAME: &str = "shortlist, gather";
    let most = check_list(NAME, list, width)?;
    check_whole(NAME, width, whole.table, whole.bias)?;
    check(NAME, "offsets", list.offsets, most)?;
    check(NAME, "table of the list", listed.table, (most + 2) * width)?;
    check(NAME, "bias of the list", listed.bias, most + 1)?;
    let arguments = GatherArguments {
        count: launcher.size(list.count.size),
        items: list.items.address,
        offsets: list.offsets.address,
        table: whole.table.address,
        bias: whole.bias.address,
        listed_table: listed.table.address,
        listed_bias: listed.bias.address,
        width: width as u32,
        unused: 0,
    };
    let kernel = format!("shortlist_gather_{}", S::NAME);
    // SAFETY: the list's items are rows of the whole by the contract of `List`; the other buffers were checked.
    unsafe { launcher.device.launch(&kernel, grid(most, width), &arguments) }
}

/// Assigns the list's rows of d_table `[V + 2, D]` and entries of d_bias `[V + 1]`, adding up the parts of the list's
/// own gradients in order. All else is left as it is.
///
/// # Errors
/// As [`gather`].
pub fn scatter(
    launcher: Launcher<'_>,
    list: List,
    width: usize,
    d_listed: (Partials, Partials),
    d_table: Slice<f32>,
    d_bias: Slice<f32>,
) -> Result<()> {
    const NAME: &str = "shortlist, scatter";
    let most = check_list(NAME, list, width)?;
    check_whole(NAME, width, d_table, d_bias)?;
    let (of_table, of_bias) = d_listed;
    check(NAME, "gradient of the list's table", of_table.first, (most + 2) * width)?;
    check(NAME, "gradient of the list's bias", of_bias.first, most + 1)?;
    if of_table.slots != of_bias.slots || of_table.slots == 0 {
        return Err(failed(NAME, "gradients in parts that do not belong together"));
    }
    let arguments = ScatterArguments {
        count: launcher.size(list.count.size),
        items: list.items.address,
        d_listed_table: of_table.first.address,
        d_listed_bias: of_bias.first.address,
        table_stride: of_table.stride as u64,
        bias_stride: of_bias.stride as u64,
        d_table: d_table.address,
        d_bias: d_bias.address,
        width: width as u32,
        slots: of_table.slots,
    };
    // SAFETY: as in `gather`; parts are as `Partials` says. No item is listed twice, so no two threads write one row.
    unsafe { launcher.device.launch("shortlist_scatter_f32", grid(most, width), &arguments) }
}

/// A thread for every eight channels.
fn grid(most: usize, width: usize) -> Grid {
    Grid::new((most * width / RUN).div_ceil(THREADS as usize), THREADS)
}

/// Returns the most items that the list can have.
fn check_list(operation: &str, list: List, width: usize) -> Result<usize> {
    let most = list.count.most;
    check_width(operation, width)?;
    check(operation, "items", list.items, most)?;
    // Threads are counted in 32 bits.
    if most * width / RUN > i32::MAX as usize {
        return Err(failed(operation, format!("{most} items of width {width} are too many")));
    }
    Ok(most)
}

/// The whole's bias has an entry less than its table has rows.
fn check_whole<S>(operation: &str, width: usize, table: Slice<S>, bias: Slice<f32>) -> Result<()> {
    check(operation, "table", table, (bias.len + 1) * width)
}

/// Mirrors `ShortlistGather` of kernels/shortlist.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct GatherArguments {
    count: u64,
    items: u64,
    offsets: u64,
    table: u64,
    bias: u64,
    listed_table: u64,
    listed_bias: u64,
    width: u32,
    unused: u32,
}

/// Mirrors `ShortlistScatter`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ScatterArguments {
    count: u64,
    items: u64,
    d_listed_table: u64,
    d_listed_bias: u64,
    table_stride: u64,
    bias_stride: u64,
    d_table: u64,
    d_bias: u64,
    width: u32,
    slots: u32,
}
