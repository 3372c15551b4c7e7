//! Feed-forward sublayer: output = LN(residual + dropout(act(input W1 + b1) W2 + b2)), the norm only where it
//! stands after.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, NormPartials, NormSaved, Tail};
use crate::Result;
use crate::config::Activation;

/// The two maps `[F, D]` and `[D, F]`, and what lies between.
#[derive(Clone, Copy)]
pub struct FeedForward<S> {
    /// `D`
    pub width: usize,
    /// `F`, any multiple of 16.
    pub inner_width: usize,
    /// First map.
    pub inner: Linear<S>,
    /// Second map.
    pub outer: Linear<S>,
    /// Between them.
    pub activation: Activation,
}

/// From input and residual `[Tq, D]` (the same buffer where the norm stands after) to output `[Tq, D]`.
/// `tail.rows` serves dropout's address only: residual row i belongs to row i. `hidden [Tq, F]` receives what
/// stands before the activation; without it that never leaves the chip. One launch up to D = 256.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    maps: FeedForward<S>,
    tail: Tail,
    input: Slice<S>,
    residual: Slice<S>,
    hidden: Option<Slice<S>>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    todo!()
}

/// On entry `gradient [Tq, D]` is that of the output. Assigns d_linear `[Tq, D]` (of the second map's output)
/// and d_hidden `[Tq, F]`, for [`super::linear::gradients`], and, where the tail has a norm, the parts of its
/// gradients. Where `d_input` is given it receives the gradient of the input alone and `gradient` returns that
/// of the residual; otherwise input and residual are one and `gradient` returns their sum.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    maps: FeedForward<S>,
    tail: Tail,
    hidden: Slice<S>,
    saved: NormSaved<S>,
    gradient: Slice<S>,
    norm_partials: Option<NormPartials>,
    d_linear: Slice<S>,
    d_hidden: Slice<S>,
    d_input: Option<Slice<S>>,
) -> Result<()> {
    todo!()
}
