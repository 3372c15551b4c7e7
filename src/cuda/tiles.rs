//! Tiles of products and the shared memory that they need, mirrored from `kernels/common/gemm.cuh`, and what all
//! operations on rows of width `D` ask of their buffers.

use super::device::failed;
use super::memory::{self, Slice, Storage};
use crate::Result;

/// Width up to which a block holds whole rows.
pub const FUSED_WIDTH: usize = 256;
/// Widest rows that kernels take.
pub const MOST_WIDTH: usize = 1024;

/// How a block shares its tile of a product: `Blocking` in `gemm.cuh`.
#[derive(Clone, Copy, Debug)]
pub struct Blocking {
    down: usize,
    across: usize,
    /// Columns of a warp.
    warp_columns: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
}

/// How a weight is read: `AcrossOutputs` for y = x Wᵀ, `AcrossInputs` for dx = dy W.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The product's columns are outputs.
    Outputs,
    /// The product's columns are inputs.
    Inputs,
}

impl Blocking {
    /// `down` x `across` warps of 16 `mt` x 8 `nt` elements.
    pub const fn new(down: usize, across: usize, mt: usize, nt: usize) -> Self {
        let warp_columns = 8 * nt;
        Blocking {
            down,
            across,
            warp_columns,
            rows: down * 16 * mt,
            columns: across * warp_columns,
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        (32 * self.down * self.across) as u32
    }

    /// Bytes of `Stages`: `count` chunks of both operands.
    pub fn stages<S: Storage>(&self, side: Side, count: usize) -> usize {
        count * tile::<S>(self.rows, chunk::<S>()) + self.right_stages::<S>(side, count)
    }

    /// Bytes of `RightStages`: `count` chunks of the right operand.
    pub fn right_stages<S: Storage>(&self, side: Side, count: usize) -> usize {
        count
            * match side {
                Side::Outputs => tile::<S>(self.columns, chunk::<S>()),
                Side::Inputs => tile::<S>(chunk::<S>(), self.columns),
            }
    }

    /// Bytes of `Patches`.
    pub fn patches(&self) -> usize {
        self.down * self.across * 16 * (self.warp_columns + 8) * 4
    }

    /// Bytes of `Staging` of the whole tile.
    pub fn staging(&self) -> usize {
        self.rows * (self.columns + 8) * 4
    }

    /// Bytes of `LinearTileShared`.
    pub fn linear_tile<S: Storage>(&self, side: Side) -> usize {
        self.stages::<S>(side, 2).max(self.patches())
    }
}

/// Elements of the inner dimension that are copied at a time: `Blocking::CHUNK`.
pub const fn chunk<S: Storage>() -> usize {
    64 / size_of::<S>()
}

/// Bytes of a `Tile` (`tile.cuh`).
pub const fn tile<S: Storage>(rows: usize, columns: usize) -> usize {
    rows * (columns * size_of::<S>() + 16)
}

/// Refuses widths that no kernel takes.
///
/// # Errors
/// [`crate::Error::Device`] that names the operation and the width.
pub fn check_width(operation: &str, width: usize) -> Result<()> {
    if width >= 16 && width.is_multiple_of(16) && width <= MOST_WIDTH {
        return Ok(());
    }
    let problem = format!(
        "width {width} is not a multiple of 16 up to {MOST_WIDTH}; choose another hidden_size, or --device cpu"
    );
    Err(failed(operation, problem))
}

/// Checks that a buffer has the length that an operation's sizes ask for, and begins at a multiple of 16 bytes,
/// as accesses of 16 bytes want.
///
/// # Errors
/// [`crate::Error::Device`] that names the operation and the buffer.
pub fn check<T>(operation: &str, buffer: &str, slice: Slice<T>, expected: usize) -> Result<()> {
    memory::check(operation, buffer, slice, expected)?;
    if slice.address.is_multiple_of(16) {
        return Ok(());
    }
    let problem = format!("begins at {:#x}, which is not a multiple of 16", slice.address);
    Err(failed(format!("{operation}: {buffer}"), problem))
}

/// The same for buffers of one length.
///
/// # Errors
/// As [`check`].
pub fn check_all<T>(operation: &str, expected: usize, buffers: &[(&str, Slice<T>)]) -> Result<()> {
    buffers.iter().try_for_each(|&(name, buffer)| check(operation, name, buffer, expected))
}
