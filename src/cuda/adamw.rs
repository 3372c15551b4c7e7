//! Gradient norm and AdamW (Loshchilov and Hutter, ICLR 2019) over the whole arena, two launches.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher};
use crate::Result;
use bytemuck::{Pod, Zeroable};

/// Most elements of one [`Chunk`].
pub const CHUNK_ELEMENTS: usize = 4096;
/// Steps whose outcomes lie in the ring at once.
pub const OUTCOMES: usize = 64;

/// A piece of one tensor of the arena, worked on by one block.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Chunk {
    /// First element within the arena; a multiple of 4.
    pub first: u64,
    /// Device address of part 0 of its gradient; 0 where the gradient is in the arena already.
    pub parts: u64,
    /// Elements from one part to the next.
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
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Bound of the gradient norm.
    pub clip_norm: Option<f64>,
}

/// The arenas, all laid out alike and padded to a multiple of 4 elements.
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
    todo!()
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
    todo!()
}
