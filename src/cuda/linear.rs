//! Weight gradients of linear maps, several at once: dW = upstreamᵀ input, db = column sums of upstream.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, LinearPartials};
use crate::Result;
use crate::config::Activation;

/// Most maps that one launch takes.
pub const MOST_MAPS: usize = 4;

/// One map's gradient.
#[derive(Clone, Copy)]
pub struct Gradient<S> {
    /// Rows of `upstream`.
    pub rows: Count,
    /// Width of `upstream`, a multiple of 16.
    pub outputs: usize,
    /// Width of `input`, a multiple of 16.
    pub inputs: usize,
    /// `[rows, outputs]` gradient of the map's output.
    pub upstream: Slice<S>,
    /// `[rows, inputs]`, or more rows where `tokens` picks them.
    pub input: Slice<S>,
    /// `[rows]` which row of `input` belongs to each row; empty where row i belongs to row i.
    pub tokens: Slice<u32>,
    /// Applied to `input` first, where the map's input is an activation's output that was not kept.
    pub activation: Option<Activation>,
    /// What is assigned.
    pub partials: LinearPartials,
}

/// Assigns all parts of the weight and bias gradients of up to [`MOST_MAPS`] maps, in one launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length or a failed launch.
pub fn gradients<S: Storage>(launcher: Launcher<'_>, maps: &[Gradient<S>]) -> Result<()> {
    todo!()
}
