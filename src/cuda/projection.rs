//! Attention's output projection: output = LN(residual + dropout(context W + b)), the norm only where it stands
//! after.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, NormPartials, NormSaved, Rows, Tail};
use super::tail::{self, RowBlock, TailBackward, TailForward, WIDE, WideBackward, WideForward};
use super::tiles::{Side, check, check_width};
use crate::Result;
use bytemuck::{Pod, Zeroable};

/// `ProjectionForward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ForwardArguments {
    rows: u64,
    step: u64,
    context: u64,
    weight: u64,
    tail: TailForward,
}

/// `ProjectionBackward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BackwardArguments {
    rows: u64,
    step: u64,
    weight: u64,
    d_context: u64,
    tail: TailBackward,
}

/// Bytes of shared memory that `projection.cu` states for each class of widths.
const FORWARD_SHARED: [u32; 3] = [27_648, 54_272, 74_752];
const BACKWARD_SHARED: [u32; 3] = [27_648, 52_224, 67_584];

/// From context `[Tq, D]` and residual `[T, D]` (gathered by `tail.rows`) to output `[Tq, D]`. `saved` is
/// written where the tail has a norm. One launch up to D = 256, two above.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    tail: Tail,
    context: Slice<S>,
    residual: Slice<S>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "projection forward";
    check_width(OPERATION, width)?;
    map.check(OPERATION, "", width, width)?;
    check(OPERATION, "context", context, rows.most * width)?;
    let tokens = match tail.rows {
        Rows::All => rows.most,
        Rows::Selected { rows: map, .. } => map.len,
    };
    check(OPERATION, "residual", residual, tokens * width)?;
    let norm = tail.norm.map(|norm| (norm, saved));
    let end = TailForward {
        residual: residual.address,
        residual_tokens: tail.rows.tokens_address(),
        ..TailForward::new(OPERATION, rows.most, width, norm, output)?
    };
    let Some(block) = RowBlock::of::<S>(width) else {
        return forward_wide(
            launcher,
            rows,
            map,
            context,
            end.after(OPERATION, rows.most, &tail, 0)?,
        );
    };
    let arguments = ForwardArguments {
        rows: launcher.size(rows.size),
        step: launcher.step.address,
        context: context.address,
        weight: map.weight.address,
        tail: end.after(OPERATION, rows.most, &tail, map.bias.address)?,
    };
    let grid = block.grid(rows.most.div_ceil(block.rows), FORWARD_SHARED);
    let kernel = format!("projection_forward_{}_{}", block.name(), S::NAME);
    // SAFETY: the arguments mirror ProjectionForward; all buffers were checked to hold `rows.most` rows, at least
    // as many as the kernel works on, and live as long as their owners, which outlive the step. The tokens of
    // rows lie within the residual by contract of `Rows`.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// The map with its bias to the tail's output, then the tail in place.
fn forward_wide<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    map: Linear<S>,
    context: Slice<S>,
    tail: TailForward,
) -> Result<()> {
    let product = WideForward {
        rows: launcher.size(rows.size),
        input: context.address,
        weight: map.weight.address,
        bias: map.bias.address,
        output: tail.output,
        inputs: tail.width,
        outputs: tail.width,
        ..Zeroable::zeroed()
    };
    let grid = tail::wide_grid::<S>(WIDE, Side::Outputs, rows.most, tail.width as usize);
    let kernel = format!("projection_forward_wide_{}", S::NAME);
    // SAFETY: as in `forward`, with WideForward.
    unsafe {
        launcher.device.launch(&kernel, grid, &product)?;
        tail::launch_forward::<S>(launcher, rows, tail.output, tail)
    }
}

/// On entry `gradient [Tq, D]` is that of the output, on return that of the residual. Assigns d_linear
/// `[Tq, D]`, the gradient of the map's output (for [`super::linear::gradients`]), d_context `[Tq, D]`, and,
/// where the tail has a norm, the parts of its gradients. One launch up to D = 256, two above.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    tail: Tail,
    saved: NormSaved<S>,
    gradient: Slice<S>,
    norm_partials: Option<NormPartials>,
    d_linear: Slice<S>,
    d_context: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "projection backward";
    check_width(OPERATION, width)?;
    map.check(OPERATION, "", width, width)?;
    check(OPERATION, "gradient of the context", d_context, rows.most * width)?;
    let norm = tail::norm_backward(OPERATION, &tail, saved, norm_partials)?;
    let begin = TailBackward::new(OPERATION, rows.most, width, norm, gradient, gradient)?;
    let begin = begin.before(OPERATION, rows.most, &tail, d_linear)?;
    let Some(block) = RowBlock::of::<S>(width) else {
        let blocks = tail::backward_blocks(rows, tail::row_groups(width), &norm);
        let grid = tail::wide_grid::<S>(WIDE, Side::Inputs, rows.most, width);
        let product = WideBackward {
            rows: launcher.size(rows.size),
            upstream: d_linear.address,
            weight: map.weight.address,
            d_input: d_context.address,
            inputs: width as u32,
            outputs: width as u32,
            ..Zeroable::zeroed()
        };
        let kernel = format!("projection_backward_wide_{}", S::NAME);
        // SAFETY: as in `forward`, with WideBackward; where there is a norm there are as many blocks as parts.
        return unsafe {
            tail::launch_backward::<S>(launcher, rows, blocks, begin)?;
            launcher.device.launch(&kernel, grid, &product)
        };
    };
    let arguments = BackwardArguments {
        rows: launcher.size(rows.size),
        step: launcher.step.address,
        weight: map.weight.address,
        d_context: d_context.address,
        tail: begin,
    };
    let blocks = tail::backward_blocks(rows, block.rows, &norm);
    let grid = block.grid(blocks, BACKWARD_SHARED);
    let kernel = format!("projection_backward_{}_{}", block.name(), S::NAME);
    // SAFETY: as in `forward`, with ProjectionBackward; where there is a norm there are as many blocks as parts.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}
