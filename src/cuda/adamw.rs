//! Gradient norm and AdamW (Loshchilov and Hutter, ICLR 2019) over the whole arena, two launches.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{Count, Launcher, Partials};
use crate::Result;
use bytemuck::{NoUninit, Pod, Zeroable};

/// Most elements of one [`Chunk`].
pub const CHUNK_ELEMENTS: usize = 4096;
/// Elements of a chunk whose gradient comes in parts: small, so that there are blocks enough to read them.
const PARTIAL_ELEMENTS: usize = 1024;
/// Threads of a block, as the kernels declare.
const THREADS: u32 = 256;
/// Blocks of the update for each multiprocessor; they walk over the chunks.
const UPDATE_BLOCKS: usize = 4;
/// Steps whose outcomes lie in the ring at once.
pub const OUTCOMES: usize = 64;

/// A piece of one tensor of the arena, worked on by one block.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Chunk {
    /// First element within the arena; a multiple of 4.
    pub first: u64,
    /// Device address of part 0 of its gradient, a multiple of 16; 0 where the gradient is in the arena already.
    pub parts: u64,
    /// Elements from one part to the next, a multiple of 4.
    pub stride: u64,
    /// Number of elements, at most [`CHUNK_ELEMENTS`].
    pub len: u32,
    /// Number of parts.
    pub slots: u32,
    /// Whether weight decay applies, 0 or 1.
    pub decay: u32,
    /// Fills the struct up to a multiple of 8 bytes.
    pub unused: u32,
}

impl Chunk {
    /// The chunks of a tensor of `len` elements from `first` on, whose gradient comes in `partials` or is in the
    /// arena.
    pub fn cut(
        first: usize,
        len: usize,
        decay: bool,
        partials: Option<Partials>,
    ) -> impl Iterator<Item = Chunk> {
        let most = if partials.is_some() { PARTIAL_ELEMENTS } else { CHUNK_ELEMENTS };
        (0..len).step_by(most).map(move |start| Chunk {
            first: (first + start) as u64,
            parts: partials.map_or(0, |parts| parts.first.address + 4 * start as u64),
            stride: partials.map_or(0, |parts| parts.stride as u64),
            len: (len - start).min(most) as u32,
            slots: partials.map_or(0, |parts| parts.slots),
            decay: u32::from(decay),
            unused: 0,
        })
    }
}

/// What a step leaves to be read later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Outcome {
    /// Number of the step.
    pub number: u32,
    /// 1 where the update was left out, because loss or gradient of this or an earlier step is not finite.
    pub skipped: u32,
    /// Mean loss over the rows.
    pub loss: f32,
    /// Global gradient norm before clipping.
    pub gradient_norm: f32,
}

/// Constants of a run.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decays of the running means.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub epsilon: f64,
    /// Weight decay: taken off the weights of matrices, or added to every gradient.
    pub weight_decay: f64,
    /// Adam: the decay is added to the gradient of every weight.
    pub coupled: bool,
    /// Bound of the gradient norm.
    pub clip_norm: Option<f64>,
}

/// The arenas, all laid out alike, padded to a multiple of 4 elements and aligned to 16 bytes.
#[derive(Clone, Copy)]
pub struct Arenas<S> {
    /// Every element that is trained lies in one chunk.
    pub chunks: Slice<Chunk>,
    /// Weights in full precision.
    pub parameters: Slice<f32>,
    /// Weights as products read them; the same memory as `parameters` where `S` is `f32`.
    pub stored: Slice<S>,
    /// Gradients.
    pub gradient: Slice<f32>,
    /// Running mean.
    pub first_moment: Slice<f32>,
    /// Running mean of squares.
    pub second_moment: Slice<f32>,
}

/// Adds up the parts of every chunk, in order, into the gradient arena, and leaves each chunk's sum of squares
/// in `squares [chunks]`.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length or a failed launch.
pub fn gradient_norm<S: Storage>(
    launcher: Launcher<'_>,
    arenas: Arenas<S>,
    squares: Slice<f32>,
) -> Result<()> {
    check_arenas("gradient norm", &arenas, squares)?;
    let arguments = NormArguments {
        chunks: arenas.chunks.address,
        gradient: arenas.gradient.address,
        squares: squares.address,
    };
    let grid = Grid::new(arenas.chunks.len, THREADS);
    // SAFETY: chunks lie within the arena and their parts within memory of their own, by the contract of
    // `Arenas`; `squares` has one element a chunk.
    unsafe { launcher.device.launch("gradient_norm_f32", grid, &arguments) }
}

/// The update, unless the loss or the norm is not finite or `halted [1]` is set, which then is set for good.
/// Writes the outcome at `number % OUTCOMES` of `outcomes`. The mean loss is taken over `losses [P]`.
///
/// # Errors
/// As [`gradient_norm`].
#[expect(clippy::too_many_arguments, reason = "one argument a buffer")]
pub fn update<S: Storage>(
    launcher: Launcher<'_>,
    constants: AdamW,
    arenas: Arenas<S>,
    squares: Slice<f32>,
    rows: Count,
    losses: Slice<f32>,
    halted: Slice<u32>,
    outcomes: Slice<Outcome>,
) -> Result<()> {
    check_arenas("adamw", &arenas, squares)?;
    check("adamw", "losses", losses, rows.most)?;
    check("adamw", "halted", halted, 1)?;
    check("adamw", "outcomes", outcomes, OUTCOMES)?;
    let arguments = UpdateArguments {
        step: launcher.step.address,
        rows: launcher.size(rows.size),
        chunks: arenas.chunks.address,
        squares: squares.address,
        losses: losses.address,
        parameters: arenas.parameters.address,
        stored: arenas.stored.address,
        gradient: arenas.gradient.address,
        first_moment: arenas.first_moment.address,
        second_moment: arenas.second_moment.address,
        halted: halted.address,
        outcomes: outcomes.address,
        chunk_count: arenas.chunks.len as u32,
        outcome_count: OUTCOMES as u32,
        clip_norm: constants.clip_norm.map_or(f32::INFINITY, |bound| bound as f32),
        epsilon: constants.epsilon as f32,
        weight_decay: constants.weight_decay as f32,
        beta1: constants.betas.0 as f32,
        beta2: constants.betas.1 as f32,
        mean_weight: (1.0 - constants.betas.0) as f32,
        square_weight: (1.0 - constants.betas.1) as f32,
        coupled: u32::from(constants.coupled),
    };
    let most = UPDATE_BLOCKS * launcher.device.multiprocessors() as usize;
    let grid = Grid::new(arenas.chunks.len.clamp(1, most), THREADS);
    let kernel = format!("adamw_update_{}", S::NAME);
    // SAFETY: all arenas have one length, chunks lie within it by the contract of `Arenas`; the others were
    // checked above.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// Mirrors `NormArguments` of kernels/adamw.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct NormArguments {
    chunks: u64,
    gradient: u64,
    squares: u64,
}

/// Mirrors `UpdateArguments` of kernels/adamw.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct UpdateArguments {
    step: u64,
    rows: u64,
    chunks: u64,
    squares: u64,
    losses: u64,
    parameters: u64,
    stored: u64,
    gradient: u64,
    first_moment: u64,
    second_moment: u64,
    halted: u64,
    outcomes: u64,
    chunk_count: u32,
    outcome_count: u32,
    clip_norm: f32,
    epsilon: f32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    mean_weight: f32,
    square_weight: f32,
    coupled: u32,
}

fn check_arenas<S: Storage>(
    operation: &str,
    arenas: &Arenas<S>,
    squares: Slice<f32>,
) -> Result<()> {
    let len = arenas.parameters.len;
    if !len.is_multiple_of(4) {
        let problem = format!("has {len} elements, which is no multiple of 4");
        return Err(failed(format!("{operation}: arena"), problem));
    }
    check(operation, "stored weights", arenas.stored, len)?;
    check(operation, "gradient", arenas.gradient, len)?;
    check(operation, "first moment", arenas.first_moment, len)?;
    check(operation, "second moment", arenas.second_moment, len)?;
    check(operation, "squares", squares, arenas.chunks.len)
}
