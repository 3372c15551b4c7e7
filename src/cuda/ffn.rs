//! Feed-forward sublayer: output = LN(residual + dropout(act(input W1 + b1) W2 + b2)), the norm only where it
//! stands after.

use super::activation::code;
use super::device::failed;
use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, NormPartials, NormSaved, Tail};
use super::tail::{
    self, RowBlock, TailBackward, TailForward, WIDE, WIDE_ACTIVATED, WideBackward, WideForward,
};
use super::tiles::{Side, check, check_all, check_width};
use crate::Result;
use crate::config::Activation;
use bytemuck::{Pod, Zeroable};

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

/// `FfnForward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ForwardArguments {
    rows: u64,
    step: u64,
    input: u64,
    inner_weight: u64,
    inner_bias: u64,
    outer_weight: u64,
    hidden: u64,
    tail: TailForward,
    inner_width: u32,
    activation: u32,
}

/// `FfnBackward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BackwardArguments {
    rows: u64,
    step: u64,
    inner_weight: u64,
    outer_weight: u64,
    hidden: u64,
    d_hidden: u64,
    d_input: u64,
    tail: TailBackward,
    inner_width: u32,
    activation: u32,
}

/// Bytes of shared memory that `ffn.cu` states for each class of widths.
const FORWARD_SHARED: [u32; 3] = [36_864, 71_680, 92_160];
const BACKWARD_SHARED: [u32; 3] = [36_864, 69_632, 86_016];

impl<S: Storage> FeedForward<S> {
    fn check(&self, operation: &str) -> Result<()> {
        check_width(operation, self.width)?;
        if self.inner_width == 0 || !self.inner_width.is_multiple_of(16) {
            let problem = format!(
                "inner width {} is not a multiple of 16; choose another inner_size, or --device cpu",
                self.inner_width
            );
            return Err(failed(operation, problem));
        }
        self.inner.check(operation, "", self.inner_width, self.width)?;
        self.outer.check(operation, "", self.width, self.inner_width)
    }
}

/// From input and residual `[Tq, D]` (the same buffer where the norm stands after) to output `[Tq, D]`.
/// `tail.rows` serves dropout's address only: residual row i belongs to row i. `hidden [Tq, F]` receives what
/// stands before the activation; without it that never leaves the chip. One launch up to D = 256; above three,
/// and `hidden` is needed.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
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
    const OPERATION: &str = "ffn forward";
    maps.check(OPERATION)?;
    check_all(OPERATION, rows.most * maps.width, &[("input", input), ("residual", residual)])?;
    if let Some(hidden) = hidden {
        check(OPERATION, "hidden", hidden, rows.most * maps.inner_width)?;
    }
    let norm = tail.norm.map(|norm| (norm, saved));
    let end = TailForward {
        residual: residual.address,
        ..TailForward::new(OPERATION, rows.most, maps.width, norm, output)?
    };
    let Some(block) = RowBlock::of::<S>(maps.width) else {
        let hidden = hidden.ok_or_else(|| {
            failed(OPERATION, format!("width {} needs a buffer for hidden", maps.width))
        })?;
        let end = end.after(OPERATION, rows.most, &tail, 0)?;
        return forward_wide(launcher, rows, maps, input, hidden, end);
    };
    let arguments = ForwardArguments {
        rows: launcher.size(rows.size),
        step: launcher.step.address,
        input: input.address,
        inner_weight: maps.inner.weight.address,
        inner_bias: maps.inner.bias.address,
        outer_weight: maps.outer.weight.address,
        hidden: hidden.unwrap_or_default().address,
        tail: end.after(OPERATION, rows.most, &tail, maps.outer.bias.address)?,
        inner_width: maps.inner_width as u32,
        activation: code(Some(maps.activation)),
    };
    let grid = block.grid(rows.most.div_ceil(block.rows), FORWARD_SHARED);
    let kernel = format!("ffn_forward_{}_{}", block.name(), S::NAME);
    // SAFETY: the arguments mirror FfnForward; all buffers were checked to hold `rows.most` rows, at least as many
    // as the kernel works on, and live as long as their owners, which outlive the step.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// Each map with its bias, the second to the tail's output, then the tail in place.
fn forward_wide<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    maps: FeedForward<S>,
    input: Slice<S>,
    hidden: Slice<S>,
    tail: TailForward,
) -> Result<()> {
    let (width, inner_width) = (maps.width, maps.inner_width);
    let inner = WideForward {
        rows: launcher.size(rows.size),
        input: input.address,
        weight: maps.inner.weight.address,
        bias: maps.inner.bias.address,
        output: hidden.address,
        inputs: width as u32,
        outputs: inner_width as u32,
        ..Zeroable::zeroed()
    };
    let outer = WideForward {
        input: hidden.address,
        weight: maps.outer.weight.address,
        bias: maps.outer.bias.address,
        output: tail.output,
        inputs: inner_width as u32,
        outputs: width as u32,
        activation: code(Some(maps.activation)),
        ..inner
    };
    let inner_grid = tail::wide_grid::<S>(WIDE, Side::Outputs, rows.most, inner_width);
    let outer_grid = tail::wide_grid::<S>(WIDE_ACTIVATED, Side::Outputs, rows.most, width);
    // SAFETY: as in `forward`, with WideForward.
    unsafe {
        launcher.device.launch(&format!("ffn_inner_wide_{}", S::NAME), inner_grid, &inner)?;
        launcher.device.launch(&format!("ffn_outer_wide_{}", S::NAME), outer_grid, &outer)?;
        tail::launch_forward::<S>(launcher, rows, tail.output, tail)
    }
}

/// On entry `gradient [Tq, D]` is that of the output. Assigns d_linear `[Tq, D]` (of the second map's output)
/// and d_hidden `[Tq, F]`, for [`super::linear::gradients`], and, where the tail has a norm, the parts of its
/// gradients. Where `d_input` is given it receives the gradient of the input alone and `gradient` returns that
/// of the residual; otherwise input and residual are one and `gradient` returns their sum. One launch up to
/// D = 256, three above.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
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
    const OPERATION: &str = "ffn backward";
    maps.check(OPERATION)?;
    let buffers = [("hidden", hidden), ("gradient of hidden", d_hidden)];
    check_all(OPERATION, rows.most * maps.inner_width, &buffers)?;
    if let Some(d_input) = d_input {
        check(OPERATION, "gradient of the input", d_input, rows.most * maps.width)?;
    }
    let norm = tail::norm_backward(OPERATION, &tail, saved, norm_partials)?;
    let begin = TailBackward::new(OPERATION, rows.most, maps.width, norm, gradient, gradient)?;
    let begin = begin.before(OPERATION, rows.most, &tail, d_linear)?;
    let Some(block) = RowBlock::of::<S>(maps.width) else {
        let blocks = tail::backward_blocks(rows, tail::row_groups(maps.width), &norm);
        // SAFETY: as in `forward`; where there is a norm there are as many blocks as parts.
        unsafe { tail::launch_backward::<S>(launcher, rows, blocks, begin) }?;
        return backward_wide(launcher, rows, maps, hidden, gradient, d_linear, d_hidden, d_input);
    };
    let arguments = BackwardArguments {
        rows: launcher.size(rows.size),
        step: launcher.step.address,
        inner_weight: maps.inner.weight.address,
        outer_weight: maps.outer.weight.address,
        hidden: hidden.address,
        d_hidden: d_hidden.address,
        d_input: d_input.unwrap_or_default().address,
        tail: begin,
        inner_width: maps.inner_width as u32,
        activation: code(Some(maps.activation)),
    };
    let blocks = tail::backward_blocks(rows, block.rows, &norm);
    let grid = block.grid(blocks, BACKWARD_SHARED);
    let kernel = format!("ffn_backward_{}_{}", block.name(), S::NAME);
    // SAFETY: as in `forward`, with FfnBackward; where there is a norm there are as many blocks as parts.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// From d_linear back through both maps, all buffers being checked.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
fn backward_wide<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    maps: FeedForward<S>,
    hidden: Slice<S>,
    gradient: Slice<S>,
    d_linear: Slice<S>,
    d_hidden: Slice<S>,
    d_input: Option<Slice<S>>,
) -> Result<()> {
    let (width, inner_width) = (maps.width, maps.inner_width);
    let outer = WideBackward {
        rows: launcher.size(rows.size),
        upstream: d_linear.address,
        weight: maps.outer.weight.address,
        hidden: hidden.address,
        d_input: d_hidden.address,
        inputs: inner_width as u32,
        outputs: width as u32,
        activation: code(Some(maps.activation)),
        ..Zeroable::zeroed()
    };
    let inner = WideBackward {
        upstream: d_hidden.address,
        weight: maps.inner.weight.address,
        hidden: 0,
        residual: if d_input.is_some() { 0 } else { gradient.address },
        d_input: d_input.unwrap_or(gradient).address,
        inputs: width as u32,
        outputs: inner_width as u32,
        activation: code(None),
        ..outer
    };
    let outer_grid = tail::wide_grid::<S>(WIDE, Side::Inputs, rows.most, inner_width);
    let inner_grid = tail::wide_grid::<S>(WIDE, Side::Inputs, rows.most, width);
    let kernel = format!("ffn_backward_wide_{}", S::NAME);
    // SAFETY: as in `forward`, with WideBackward.
    unsafe {
        launcher.device.launch(&kernel, outer_grid, &outer)?;
        launcher.device.launch(&kernel, inner_grid, &inner)
    }
}
