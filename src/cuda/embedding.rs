//! Input embedding: `x = dropout(LN(E[id] + Pos[position]))`, and the gradients of its tables.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{Count, HiddenDropout, Launcher, Norm, NormPartials, NormSaved};
use super::tiles::check_width;
use crate::Result;
use crate::config::Positions;
use bytemuck::NoUninit;

/// Widest rows of each class of kernels.
const CLASSES: [usize; 5] = [64, 128, 256, 512, 1024];
/// Channels and segments that a block adds up rows for.
const SUM_CHANNELS: usize = 64;
const SCATTER_SEGMENTS: usize = 8;
/// Threads of a block that adds up rows.
const SUM_THREADS: u32 = 256;

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
    check_width("embedding", tokens.width)?;
    let elements = tokens.count.most * tokens.width;
    let item_rows = table_rows("items", tokens.items, tokens.width)?;
    let position_rows = table_rows("positions", tokens.positions, tokens.width)?;
    check("embedding", "ids", tokens.ids, tokens.count.most)?;
    check("embedding", "position_ids", tokens.position_ids, tokens.count.most)?;
    check("embedding", "norm weight", norm.weight, tokens.width)?;
    check("embedding", "norm bias", norm.bias, tokens.width)?;
    check("embedding", "normalized", saved.normalized, elements)?;
    check("embedding", "rstd", saved.rstd, tokens.count.most)?;
    check("embedding", "output", output, elements)?;
    let arguments = ForwardArguments {
        tokens: launcher.size(tokens.count.size),
        step: launcher.step.address,
        ids: tokens.ids.address,
        position_ids: tokens.position_ids.address,
        items: tokens.items.address,
        positions: tokens.positions.address,
        gamma: norm.weight.address,
        beta: norm.bias.address,
        normalized: saved.normalized.address,
        rstd: saved.rstd.address,
        output: output.address,
        dropout,
        epsilon: norm.epsilon,
        width: tokens.width as u32,
        item_rows,
        position_rows,
        unused: 0,
    };
    let class = Class::of(tokens.width);
    let grid = Grid::new(tokens.count.most.div_ceil(class.rows()), class.threads());
    // SAFETY: all buffers have the lengths that the sizes ask for, indices are clamped to their tables.
    unsafe { launcher.device.launch(&class.kernel::<S>("forward"), grid, &arguments) }
}

/// Replaces the gradient of the output `[T, D]` by that of the sums; assigns the parts of the norm's gradients.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a buffer")]
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
    const NAME: &str = "embedding backward";
    check_width(NAME, width)?;
    check(NAME, "norm weight", norm.weight, width)?;
    check(NAME, "normalized", saved.normalized, count.most * width)?;
    check(NAME, "rstd", saved.rstd, count.most)?;
    check(NAME, "gradient", gradient, count.most * width)?;
    check(NAME, "gradient of the norm's weight", norm_partials.weight.first, width)?;
    check(NAME, "gradient of the norm's bias", norm_partials.bias.first, width)?;
    if norm_partials.weight.slots != norm_partials.bias.slots {
        return Err(failed(NAME, "the norm's gradients have different numbers of slots"));
    }
    let arguments = BackwardArguments {
        tokens: launcher.size(count.size),
        step: launcher.step.address,
        gamma: norm.weight.address,
        normalized: saved.normalized.address,
        rstd: saved.rstd.address,
        gradient: gradient.address,
        d_gamma: norm_partials.weight.first.address,
        d_beta: norm_partials.bias.first.address,
        d_gamma_stride: norm_partials.weight.stride as u64,
        d_beta_stride: norm_partials.bias.stride as u64,
        dropout,
        width: width as u32,
    };
    let class = Class::of(width);
    let grid = Grid::new(norm_partials.weight.slots as usize, class.threads());
    // SAFETY: all buffers have the lengths that the sizes ask for; parts are as `Partials` says.
    unsafe { launcher.device.launch(&class.kernel::<S>("backward"), grid, &arguments) }
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

/// Which token stands at a position of a sequence.
#[derive(Clone, Copy)]
pub struct Places {
    /// `B`
    pub sequences: Count,
    /// `[B + 1]` where each sequence begins.
    pub cu_seqlens: Slice<u32>,
    /// Where positions are counted from.
    pub positions: Positions,
}

/// From d_sums, of the sums of both tables' rows, to both tables, in one launch. Adds to each row of d_items
/// `[V + 2, D]` that a segment names the sum of its tokens' d_sums, in order; assigns d_positions `[L, D]`, for
/// each position the sum over sequences, in order.
///
/// # Errors
/// As [`forward`].
pub fn tables_backward<S: Storage>(
    launcher: Launcher<'_>,
    width: usize,
    segments: Segments,
    places: Places,
    d_sums: Slice<S>,
    d_items: Slice<f32>,
    d_positions: Slice<f32>,
) -> Result<()> {
    const NAME: &str = "embedding tables";
    check_width(NAME, width)?;
    check(NAME, "keys", segments.keys, segments.count.most)?;
    check(NAME, "offsets", segments.offsets, segments.count.most + 1)?;
    check(NAME, "cu_seqlens", places.cu_seqlens, places.sequences.most + 1)?;
    check(NAME, "gradient of sums", d_sums, segments.indices.len * width)?;
    let scatter_blocks = segments.count.most.div_ceil(SCATTER_SEGMENTS) as u32;
    let position_rows = table_rows("gradient of positions", d_positions, width)?;
    let arguments = TablesArguments {
        segments: launcher.size(segments.count.size),
        keys: segments.keys.address,
        offsets: segments.offsets.address,
        indices: segments.indices.address,
        sequences: launcher.size(places.sequences.size),
        cu_seqlens: places.cu_seqlens.address,
        d_sums: d_sums.address,
        d_items: d_items.address,
        d_positions: d_positions.address,
        item_rows: table_rows("gradient of items", d_items, width)?,
        scatter_blocks,
        from_end: u32::from(places.positions == Positions::FromEnd),
        width: width as u32,
    };
    let channels = width.div_ceil(SUM_CHANNELS) as u32;
    let blocks = [scatter_blocks + position_rows, channels, 1];
    let grid = Grid { blocks, threads: SUM_THREADS, shared: 0 };
    let kernel = format!("embedding_tables_{}", S::NAME);
    // SAFETY: there is a key for every segment, an entry of `cu_seqlens` for every sequence, and a row of `d_sums` for
    // every index and token; keys beyond the table are left out.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// Mirrors `EmbeddingForward` of kernels/embedding.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ForwardArguments {
    tokens: u64,
    step: u64,
    ids: u64,
    position_ids: u64,
    items: u64,
    positions: u64,
    gamma: u64,
    beta: u64,
    normalized: u64,
    rstd: u64,
    output: u64,
    dropout: HiddenDropout,
    epsilon: f32,
    width: u32,
    item_rows: u32,
    position_rows: u32,
    unused: u32,
}

/// Mirrors `EmbeddingBackward` of kernels/embedding.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct BackwardArguments {
    tokens: u64,
    step: u64,
    gamma: u64,
    normalized: u64,
    rstd: u64,
    gradient: u64,
    d_gamma: u64,
    d_beta: u64,
    d_gamma_stride: u64,
    d_beta_stride: u64,
    dropout: HiddenDropout,
    width: u32,
}

/// Mirrors `EmbeddingTables` of kernels/embedding.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct TablesArguments {
    segments: u64,
    keys: u64,
    offsets: u64,
    indices: u64,
    sequences: u64,
    cu_seqlens: u64,
    d_sums: u64,
    d_items: u64,
    d_positions: u64,
    item_rows: u32,
    scatter_blocks: u32,
    from_end: u32,
    width: u32,
}

/// Rows of up to this many channels, as `EmbeddingLanes` spreads them over lanes.
#[derive(Clone, Copy)]
struct Class(usize);

impl Class {
    /// For a width that [`check_width`] has let pass.
    fn of(width: usize) -> Self {
        Class(CLASSES.into_iter().find(|&class| width <= class).unwrap_or(1024))
    }

    fn threads(self) -> u32 {
        if self.0 < 1024 { 256 } else { 128 }
    }

    /// Rows that a block holds at a time: eight channels a lane, at most a warp a row.
    fn rows(self) -> usize {
        self.threads() as usize / (self.0 / 8).min(32)
    }

    fn kernel<S: Storage>(self, direction: &str) -> String {
        format!("embedding_{direction}_d{}_{}", self.0, S::NAME)
    }
}

/// Number of rows of a table, at least one.
fn table_rows<T>(table: &str, slice: Slice<T>, width: usize) -> Result<u32> {
    match u32::try_from(slice.len / width) {
        Ok(rows) if rows > 0 && slice.len.is_multiple_of(width) => Ok(rows),
        _ => Err(failed(
            format!("embedding: {table}"),
            format!("has {} elements, which are no rows of {width}", slice.len),
        )),
    }
}
