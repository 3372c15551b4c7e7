//! Arguments of what is done to whole rows around the linear maps of a sublayer, mirrored by
//! `kernels/common/tail.cuh`, and of the maps alone where rows are too wide for that (`kernels/common/wide.cuh`).

use super::device::{Grid, failed};
use super::memory::{Slice, Storage};
use super::operands::{Count, HiddenDropout, Launcher, Norm, NormPartials, NormSaved, Rows, Tail};
use super::step::Rate;
use super::tiles::{Blocking, FUSED_WIDTH, Side, check};
use crate::Result;
use bytemuck::{Pod, Zeroable};

/// output = LN(residual + dropout(x + bias)); address 0 where there is none of it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct TailForward {
    pub bias: u64,
    pub residual: u64,
    pub residual_tokens: u64,
    pub tokens: u64,
    pub gamma: u64,
    pub beta: u64,
    pub normalized: u64,
    pub rstd: u64,
    pub output: u64,
    pub dropout: HiddenDropout,
    pub epsilon: f32,
    pub width: u32,
    pub unused: u32,
}

/// d = LN'(d_output), d_linear = dropout(d), d_input = d + residual; address 0 where there is none of it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct TailBackward {
    pub d_output: u64,
    pub d_input: u64,
    pub residual: u64,
    pub residual_rows: u64,
    pub d_linear: u64,
    pub tokens: u64,
    pub gamma: u64,
    pub normalized: u64,
    pub rstd: u64,
    pub d_gamma: u64,
    pub d_beta: u64,
    pub d_gamma_stride: u32,
    pub d_beta_stride: u32,
    pub dropout: HiddenDropout,
    pub width: u32,
}

/// `WideForward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WideForward {
    pub rows: u64,
    pub input: u64,
    pub weight: u64,
    pub bias: u64,
    pub output: u64,
    pub inputs: u32,
    pub outputs: u32,
    pub activation: u32,
    pub unused: u32,
}

/// `WideBackward`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WideBackward {
    pub rows: u64,
    pub upstream: u64,
    pub weight: u64,
    pub hidden: u64,
    pub residual: u64,
    pub d_input: u64,
    pub inputs: u32,
    pub outputs: u32,
    pub activation: u32,
    pub unused: u32,
}

/// `WideBlock`
pub(super) const WIDE: Blocking = Blocking::new(2, 2, 4, 8);
/// `WideActivatedBlock`
pub(super) const WIDE_ACTIVATED: Blocking = Blocking::new(2, 4, 2, 8);

/// A block for each tile of a product `[rows, columns]`.
pub(super) fn wide_grid<S: Storage>(
    blocking: Blocking,
    side: Side,
    rows: usize,
    columns: usize,
) -> Grid {
    let blocks = [columns.div_ceil(blocking.columns), rows.div_ceil(blocking.rows)];
    Grid {
        blocks: [blocks[0] as u32, blocks[1] as u32, 1],
        threads: blocking.threads(),
        shared: blocking.linear_tile::<S>(side) as u32,
    }
}

/// No dropout.
const NOTHING: HiddenDropout = HiddenDropout { site: 0, rate: Rate::NONE };

impl TailForward {
    /// A norm and nothing else, or not even that. Checks what it takes.
    pub fn new<S: Storage>(
        operation: &str,
        rows: usize,
        width: usize,
        norm: Option<(Norm, NormSaved<S>)>,
        output: Slice<S>,
    ) -> Result<Self> {
        check(operation, "output", output, rows * width)?;
        let plain = TailForward {
            output: output.address,
            dropout: NOTHING,
            width: width as u32,
            ..Zeroable::zeroed()
        };
        let Some((norm, saved)) = norm else { return Ok(plain) };
        check_norm(operation, rows, width, norm, saved)?;
        Ok(TailForward {
            gamma: norm.weight.address,
            beta: norm.bias.address,
            normalized: saved.normalized.address,
            rstd: saved.rstd.address,
            epsilon: norm.epsilon,
            ..plain
        })
    }

    /// With what follows a sublayer's map but the norm. Checks the tail's tokens.
    pub fn after(self, operation: &str, rows: usize, tail: &Tail, bias: u64) -> Result<Self> {
        check_tokens(operation, rows, tail.rows)?;
        let tokens = tail.rows.tokens_address();
        Ok(TailForward { bias, tokens, dropout: tail.dropout, ..self })
    }
}

impl TailBackward {
    /// A norm and nothing else, or not even that. Checks what it takes.
    pub fn new<S: Storage>(
        operation: &str,
        rows: usize,
        width: usize,
        norm: Option<(Norm, NormSaved<S>, NormPartials)>,
        d_output: Slice<S>,
        d_input: Slice<S>,
    ) -> Result<Self> {
        check(operation, "gradient of the output", d_output, rows * width)?;
        check(operation, "gradient of the input", d_input, rows * width)?;
        let plain = TailBackward {
            d_output: d_output.address,
            d_input: d_input.address,
            dropout: NOTHING,
            width: width as u32,
            ..Zeroable::zeroed()
        };
        let Some((norm, saved, partials)) = norm else { return Ok(plain) };
        check_norm(operation, rows, width, norm, saved)?;
        let [d_gamma_stride, d_beta_stride] = partials.check(operation, width)?;
        Ok(TailBackward {
            gamma: norm.weight.address,
            normalized: saved.normalized.address,
            rstd: saved.rstd.address,
            d_gamma: partials.weight.first.address,
            d_beta: partials.bias.first.address,
            d_gamma_stride,
            d_beta_stride,
            ..plain
        })
    }

    /// With the gradient of a sublayer's map besides. Checks it and the tail's tokens.
    pub fn before<S: Storage>(
        self,
        operation: &str,
        rows: usize,
        tail: &Tail,
        d_linear: Slice<S>,
    ) -> Result<Self> {
        check(operation, "gradient of the map's output", d_linear, rows * self.width as usize)?;
        check_tokens(operation, rows, tail.rows)?;
        let tokens = tail.rows.tokens_address();
        Ok(TailBackward { d_linear: d_linear.address, tokens, dropout: tail.dropout, ..self })
    }
}

/// The tail's norm with what belongs to it on the way back.
///
/// # Errors
/// [`crate::Error::Device`] for a norm without room for its gradients.
pub(super) fn norm_backward<S>(
    operation: &str,
    tail: &Tail,
    saved: NormSaved<S>,
    partials: Option<NormPartials>,
) -> Result<Option<(Norm, NormSaved<S>, NormPartials)>> {
    match (tail.norm, partials) {
        (None, _) => Ok(None),
        (Some(norm), Some(partials)) => Ok(Some((norm, saved, partials))),
        (Some(_), None) => Err(failed(operation, "there is no room for the norm's gradients")),
    }
}

/// Blocks of a backward pass: one for each part of the norm's gradients, or, where there is no norm, one for each
/// `block_rows` rows that there may be.
pub(super) fn backward_blocks<S>(
    rows: Count,
    block_rows: usize,
    norm: &Option<(Norm, NormSaved<S>, NormPartials)>,
) -> usize {
    match norm {
        Some((_, _, partials)) => partials.weight.slots as usize,
        None => rows.most.div_ceil(block_rows),
    }
}

/// Widest rows of the kernel that takes rows of `width` as a whole, `width` being a multiple of 16 up to 1,024.
pub(super) fn row_class(width: usize) -> usize {
    width.next_power_of_two().max(64)
}

/// `RowBlock`: how blocks of rows up to [`FUSED_WIDTH`] are cut.
#[derive(Clone, Copy)]
pub(super) struct RowBlock {
    /// Which of them.
    pub class: RowClass,
    /// Rows of a block.
    pub rows: usize,
    /// Threads of a block.
    pub threads: u32,
}

/// Width up to which kernels take rows.
#[derive(Clone, Copy)]
pub(super) enum RowClass {
    D64,
    D128,
    D256,
}

impl RowBlock {
    /// For rows of `width`; `None` where they are too wide.
    pub fn of<S: Storage>(width: usize) -> Option<Self> {
        let class = match row_class(width) {
            64 => RowClass::D64,
            128 => RowClass::D128,
            FUSED_WIDTH => RowClass::D256,
            _ => return None,
        };
        let threads = if let RowClass::D256 = class { 256 } else { 128 };
        Some(RowBlock { class, rows: 128 / size_of::<S>(), threads })
    }

    /// `blocks` of them with `shared` bytes each, which the kernel file states for each class.
    pub fn grid(self, blocks: usize, shared: [u32; 3]) -> Grid {
        Grid { shared: shared[self.class as usize], ..Grid::new(blocks, self.threads) }
    }

    /// In a kernel's name.
    pub fn name(self) -> &'static str {
        ["d64", "d128", "d256"][self.class as usize]
    }
}

fn check_norm<S: Storage>(
    operation: &str,
    rows: usize,
    width: usize,
    norm: Norm,
    saved: NormSaved<S>,
) -> Result<()> {
    norm.check(operation, width)?;
    check(operation, "normalized rows", saved.normalized, rows * width)?;
    check(operation, "rstd", saved.rstd, rows)
}

fn check_tokens(operation: &str, count: usize, rows: Rows) -> Result<()> {
    match rows {
        Rows::All => Ok(()),
        Rows::Selected { tokens, .. } => check(operation, "tokens of the rows", tokens, count),
    }
}

/// Launches one of `kernels/layernorm.cu` on all rows: the ends of sublayers of wide rows, and norms alone.
///
/// # Safety
/// As [`super::device::Device::launch`], for the addresses of `tail` and `input`.
pub(super) unsafe fn launch_forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    input: u64,
    tail: TailForward,
) -> Result<()> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Arguments {
        rows: u64,
        step: u64,
        input: u64,
        tail: TailForward,
    }
    let step = launcher.step.address;
    let arguments = Arguments { rows: launcher.size(rows.size), step, input, tail };
    let (class, threads) = row_kernel(tail.width as usize);
    // How many rows a group of lanes fetches ahead: ROWS_AHEAD.
    let ahead = if class > 256 { 1 } else { 8 / size_of::<S>() };
    let grid = Grid::new(rows.most.div_ceil(row_groups(tail.width as usize) * ahead), threads);
    let kernel = format!("layernorm_forward_d{class}_{}", S::NAME);
    // SAFETY: the arguments mirror LayernormForward; the addresses are the caller's matter.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// The same backward, in `blocks` blocks.
///
/// # Safety
/// As [`super::device::Device::launch`], for the addresses of `tail`.
pub(super) unsafe fn launch_backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    blocks: usize,
    tail: TailBackward,
) -> Result<()> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Arguments {
        rows: u64,
        step: u64,
        tail: TailBackward,
    }
    let step = launcher.step.address;
    let arguments = Arguments { rows: launcher.size(rows.size), step, tail };
    let (class, threads) = row_kernel(tail.width as usize);
    let kernel = format!("layernorm_backward_d{class}_{}", S::NAME);
    // SAFETY: the arguments mirror LayernormBackward; the addresses are the caller's matter.
    unsafe { launcher.device.launch(&kernel, Grid::new(blocks, threads), &arguments) }
}

/// Class and threads of a kernel of `layernorm.cu`.
fn row_kernel(width: usize) -> (usize, u32) {
    let class = row_class(width);
    (class, if class < 1024 { 256 } else { 128 })
}

/// Rows that a block of such a kernel holds at a time: `GROUPS`.
pub(super) fn row_groups(width: usize) -> usize {
    let (class, threads) = row_kernel(width);
    threads as usize / (class / 8).min(32)
}
