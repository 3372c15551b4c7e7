//! Tiles of rows against all items, the host's side of `kernels/common/sweep.cuh`: which class of kernels takes
//! rows of a width, how much shared memory its blocks want, and over how many blocks the items are split.

use super::device::{Grid, failed};
use super::item_loss::Problem;
use super::memory::{Storage, check};
use super::operands::Launcher;
use super::tiles::check_width;
use crate::Result;
use bytemuck::NoUninit;
use std::marker::PhantomData;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Widest rows that lie in shared memory whole, and channels of a gradient that a block makes.
const NARROW: usize = 256;
/// Channels of wide rows that are multiplied between two barriers.
const CHUNK: usize = 64;
/// Rows and items for the sake of counting blocks, whatever the tile.
const SPLIT_TILE: usize = 64;
/// Blocks to split up for, for each multiprocessor.
const SPLIT_BLOCKS: usize = 4;
/// Most splits.
const MOST_SPLITS: usize = 32;

/// A class of kernels, `Sweep` in `kernels/common/sweep.cuh`.
pub(super) struct Sweep<S> {
    width: usize,
    storage: PhantomData<S>,
}

impl<S: Storage> Sweep<S> {
    /// The class for rows of `width` elements.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where there is none.
    pub fn new(operation: &str, width: usize) -> Result<Self> {
        check_width(operation, width)?;
        Ok(Sweep { width, storage: PhantomData })
    }

    /// Rows whose channels a block holds at once, 256 where they are wide.
    fn class(&self) -> usize {
        [64, 128].into_iter().find(|&class| self.width <= class).unwrap_or(NARROW)
    }

    fn is_wide(&self) -> bool {
        self.width > NARROW
    }

    /// Rows and items of a tile.
    pub fn tile(&self) -> usize {
        if size_of::<S>() == 4 && self.class() == NARROW { 32 } else { 64 }
    }

    fn stages(&self) -> usize {
        if size_of::<S>() == 2 && (self.is_wide() || self.class() < NARROW) { 2 } else { 1 }
    }

    /// Bytes of a `Tile`.
    fn tile_bytes(&self, rows: usize, columns: usize) -> usize {
        rows * (columns * size_of::<S>() + 16)
    }

    /// Bytes of shared memory where scores are looked at.
    pub fn shared(&self) -> u32 {
        let (tile, stages) = (self.tile(), self.stages());
        let bytes = if self.is_wide() {
            2 * stages * self.tile_bytes(tile, CHUNK)
        } else {
            (1 + stages) * self.tile_bytes(tile, self.class())
        };
        bytes as u32
    }

    /// Bytes of shared memory where gradients are made of them.
    pub fn product_shared(&self) -> u32 {
        let tile = self.tile();
        let block_rows = if self.is_wide() { tile } else { 1 };
        let block = self.tile_bytes(block_rows, self.class());
        self.shared() + (self.tile_bytes(tile, tile) + block) as u32
    }

    /// Blocks that share the channels of a gradient.
    pub fn channel_blocks(&self) -> usize {
        self.width.div_ceil(NARROW)
    }

    /// Name of the kernel of an operation.
    pub fn kernel(&self, operation: &str) -> String {
        let class = if self.is_wide() { 1024 } else { self.class() };
        format!("{operation}_d{class}_{}", S::NAME)
    }

    /// A block for each tile of `rows`, times `y` times `z`.
    pub fn grid(&self, rows: usize, y: usize, z: usize, shared: u32) -> Grid {
        let blocks = [rows.div_ceil(self.tile()) as u32, y as u32, z as u32];
        Grid { blocks, threads: THREADS, shared }
    }
}

/// Over how many blocks the items are split for each tile of rows, so that there are blocks enough for the device.
pub(super) fn splits(rows: usize, items: usize, multiprocessors: u32) -> usize {
    let row_tiles = rows.div_ceil(SPLIT_TILE).max(1);
    let wanted = (SPLIT_BLOCKS * multiprocessors as usize).div_ceil(row_tiles);
    wanted.min(items.div_ceil(SPLIT_TILE)).clamp(1, MOST_SPLITS)
}

/// Over how many blocks the rows are split for each tile of items, so that there are at most two blocks for each
/// multiprocessor.
pub(super) fn table_splits(rows: usize, width: usize, items: usize, multiprocessors: u32) -> usize {
    let tiles = items.div_ceil(SPLIT_TILE).max(1) * width.div_ceil(NARROW).max(1);
    let wanted = 2 * multiprocessors as usize / tiles;
    wanted.min(rows.div_ceil(SPLIT_TILE)).clamp(1, MOST_SPLITS)
}

/// Mirrors `ItemProblem` of kernels/common/sweep.cuh.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct ProblemArguments {
    rows: u64,
    items: u64,
    head: u64,
    targets: u64,
    table: u64,
    bias: u64,
    width: u32,
    unused: u32,
}

impl ProblemArguments {
    /// All but the targets is checked.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for buffers of wrong length or too many items.
    pub fn new<S: Storage>(
        operation: &str,
        launcher: Launcher<'_>,
        problem: &Problem<S>,
    ) -> Result<Self> {
        let Problem { rows, width, items, head, targets, table, bias } = *problem;
        // Item indices plus a tile must not overflow.
        let most = items.most;
        if most == 0 || most > i32::MAX as usize {
            let problem = format!("{most} items; kernels take 1 to {}", i32::MAX);
            return Err(failed(operation, problem));
        }
        check(operation, "head", head, rows.most * width)?;
        check(operation, "table", table, (most + 2) * width)?;
        check(operation, "bias", bias, most + 1)?;
        Ok(ProblemArguments {
            rows: launcher.size(rows.size),
            items: launcher.size(items.size),
            head: head.address,
            targets: targets.address,
            table: table.address,
            bias: bias.address,
            width: width as u32,
            unused: 0,
        })
    }
}
