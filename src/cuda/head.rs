//! The head up to the product with the output table: LN(gelu(input W + b)), exact GELU whatever `hidden_act` is.

use super::device::Grid;
use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, Norm, NormPartials, NormSaved};
use super::tiles::{Blocking, FUSED_WIDTH, Side, check, check_all, check_width, tile};
use crate::Result;
use bytemuck::NoUninit;

/// `HeadArguments`
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ForwardArguments {
    rows: u64,
    weight: u64,
    bias: u64,
    gamma: u64,
    beta: u64,
    input: u64,
    hidden: u64,
    normalized: u64,
    rstd: u64,
    output: u64,
    width: u32,
    epsilon: f32,
}

/// `HeadBackwardArguments`
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct BackwardArguments {
    rows: u64,
    weight: u64,
    gamma: u64,
    hidden: u64,
    normalized: u64,
    rstd: u64,
    d_output: u64,
    d_hidden: u64,
    d_input: u64,
    d_gamma: u64,
    d_beta: u64,
    d_gamma_stride: u64,
    d_beta_stride: u64,
    width: u32,
    slots: u32,
}

/// Above [`FUSED_WIDTH`]: tiles of the products.
const TILES: Blocking = Blocking::new(2, 2, 4, 8);
/// Above [`FUSED_WIDTH`]: rows of a block, a warp each.
const WARP_ROWS: usize = 4;

/// Up to [`FUSED_WIDTH`]: widest row of a kernel, and its tile, which has whole rows.
fn fused(width: usize) -> (usize, Blocking) {
    let columns = width.next_power_of_two().max(64);
    (columns, Blocking::new(2, 2, 2, columns / 16))
}

fn check_map<S: Storage>(operation: &str, width: usize, map: Linear<S>, norm: Norm) -> Result<()> {
    check_width(operation, width)?;
    map.check(operation, "", width, width)?;
    norm.check(operation, width)
}

fn products(rows: usize, width: usize, side: Side, element: impl FnOnce(Side) -> usize) -> Grid {
    let blocks = [width.div_ceil(TILES.columns) as u32, rows.div_ceil(TILES.rows) as u32, 1];
    Grid { blocks, threads: TILES.threads(), shared: element(side) as u32 }
}

/// From input `[P, D]`: hidden `[P, D]` before the activation, what the norm keeps, and output `[P, D]`. One
/// launch up to D = 256, two above.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    norm: Norm,
    input: Slice<S>,
    hidden: Slice<S>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "head forward";
    check_map(OPERATION, width, map, norm)?;
    let buffers = [
        ("input", input),
        ("hidden", hidden),
        ("normalized", saved.normalized),
        ("output", output),
    ];
    check_all(OPERATION, rows.most * width, &buffers)?;
    check(OPERATION, "rstd", saved.rstd, rows.most)?;
    let arguments = ForwardArguments {
        rows: launcher.size(rows.size),
        weight: map.weight.address,
        bias: map.bias.address,
        gamma: norm.weight.address,
        beta: norm.bias.address,
        input: input.address,
        hidden: hidden.address,
        normalized: saved.normalized.address,
        rstd: saved.rstd.address,
        output: output.address,
        width: width as u32,
        epsilon: norm.epsilon,
    };
    let launch = |kernel: String, grid| {
        // SAFETY: the arguments mirror HeadArguments; all buffers were checked to hold `rows.most` rows, at least
        // as many as the kernel works on, and live as long as their owners, which outlive the step.
        unsafe { launcher.device.launch(&kernel, grid, &arguments) }
    };
    if width <= FUSED_WIDTH {
        let (columns, blocking) = fused(width);
        let shared = blocking.stages::<S>(Side::Outputs, 2).max(blocking.staging()) as u32;
        let grid = Grid::new(rows.most.div_ceil(blocking.rows), blocking.threads());
        return launch(format!("head_forward_d{columns}_{}", S::NAME), Grid { shared, ..grid });
    }
    let grid = products(rows.most, width, Side::Outputs, |side| TILES.linear_tile::<S>(side));
    launch(format!("head_forward_map_{}", S::NAME), grid)?;
    let grid = Grid::new(rows.most.div_ceil(WARP_ROWS), 32 * WARP_ROWS as u32);
    launch(format!("head_forward_rows_{}", S::NAME), grid)
}

/// From d_output `[P, D]`: d_hidden `[P, D]` (for [`super::linear::gradients`]), d_input `[P, D]`, and the
/// parts of the norm's gradients.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    norm: Norm,
    hidden: Slice<S>,
    saved: NormSaved<S>,
    d_output: Slice<S>,
    norm_partials: NormPartials,
    d_hidden: Slice<S>,
    d_input: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "head backward";
    check_map(OPERATION, width, map, norm)?;
    let buffers = [
        ("hidden", hidden),
        ("normalized", saved.normalized),
        ("gradient of the output", d_output),
        ("gradient of hidden", d_hidden),
        ("gradient of the input", d_input),
    ];
    check_all(OPERATION, rows.most * width, &buffers)?;
    check(OPERATION, "rstd", saved.rstd, rows.most)?;
    norm_partials.check(OPERATION, width)?;
    let slots = norm_partials.weight.slots;
    let arguments = BackwardArguments {
        rows: launcher.size(rows.size),
        weight: map.weight.address,
        gamma: norm.weight.address,
        hidden: hidden.address,
        normalized: saved.normalized.address,
        rstd: saved.rstd.address,
        d_output: d_output.address,
        d_hidden: d_hidden.address,
        d_input: d_input.address,
        d_gamma: norm_partials.weight.first.address,
        d_beta: norm_partials.bias.first.address,
        d_gamma_stride: norm_partials.weight.stride as u64,
        d_beta_stride: norm_partials.bias.stride as u64,
        width: width as u32,
        slots,
    };
    let launch = |kernel: String, grid| {
        // SAFETY: as in `forward`, with HeadBackwardArguments; there are `slots` parts, and as many blocks.
        unsafe { launcher.device.launch(&kernel, grid, &arguments) }
    };
    if width <= FUSED_WIDTH {
        let (columns, blocking) = fused(width);
        let grid = Grid::new(slots as usize, blocking.threads());
        let shared = backward_shared::<S>(columns, blocking) as u32;
        return launch(format!("head_backward_d{columns}_{}", S::NAME), Grid { shared, ..grid });
    }
    let grid = Grid::new(slots as usize, 32 * WARP_ROWS as u32);
    launch(format!("head_backward_rows_{}", S::NAME), grid)?;
    let grid = products(rows.most, width, Side::Inputs, |side| TILES.linear_tile::<S>(side));
    launch(format!("head_backward_map_{}", S::NAME), grid)
}

/// Bytes of `Fused::Backward`: rows of d_hidden, and what takes turns.
fn backward_shared<S: Storage>(columns: usize, blocking: Blocking) -> usize {
    let reduction = 2 * 4 * 8 * blocking.threads() as usize;
    let turns = blocking.right_stages::<S>(Side::Inputs, 2).max(blocking.patches()).max(reduction);
    tile::<S>(blocking.rows, columns) + turns
}
