//! Softmax cross-entropy over all `V` items at the `P` masked rows: logits = h Eᵀ + b, PAD and MASK left out;
//! loss = mean over rows of logsumexp - logit of the target.
//!
//! The `P x V` matrix never exists. Rows go through in chunks that fit a fixed budget; a chunk is cut into
//! tiles of rows by items, and a tile keeps e^(logit - m) with m its own row maximum. Once a row's
//! logsumexp is known, the probabilities are the tile times one factor a row, so the factor goes into the
//! small operand of each gradient product and the tiles are never walked over again:
//! `dE[block] = Σ tileᵀ (factor · h)`, `dh = Σ factor · (tile E[block])`. Targets are subtracted apart, since
//! they are sparse. 6 P D V FLOPs, one exponential a logit.
//!
//! Where a chunk would have few rows, since there are so many items, [`super::streamed_softmax`] takes over.
//!
//! The functions here are sequential; the engine runs tiles, item blocks and row blocks in parallel.

use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::math::exp;
use super::vector::{add_scaled, dot, max, sum, vectorized};
use crate::batch::Segments;
use std::ops::Range;

/// Most rows of a tile. A tile of 192 KiB stays in the second-level cache between its product and its
/// exponentials; larger ones make the products of the gradients deeper, smaller ones pack operands more often.
pub const TILE_ROWS: usize = 192;
/// Items of a tile.
pub const TILE_ITEMS: usize = 256;
/// Rows up to which one task gives a whole tile's their gradient; a higher tile is two tasks, so that small batches busy
/// more threads.
const TASK_ROWS: usize = 96;
/// Tiles have a multiple of so many rows, but where they have fewer: halves of them are whole vectors.
const EVEN_ROWS: usize = 16;
/// Elements that the tiles of one chunk may take: 32 MiB, or one row of them where that is more. Each further chunk reads and writes
/// the table's gradient once more, which is little beside its products.
pub const MOST_ELEMENTS: usize = 8 << 20;

/// What the head and the output table give.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// `[P, D]` head outputs.
    pub rows: &'a [f32],
    /// `[P]` target items, from 1.
    pub targets: &'a [u32],
    /// `[V, D]` output table without PAD and MASK.
    pub table: &'a [f32],
    /// `[V]` output bias without PAD.
    pub bias: &'a [f32],
}

impl Problem<'_> {
    /// `D`
    pub fn width(&self) -> usize {
        self.table.len() / self.bias.len()
    }

    /// `V`
    pub fn items(&self) -> usize {
        self.bias.len()
    }

    /// Weight of a row in the mean: how much it pulls at its target, in this loss.
    pub fn weight(&self) -> f32 {
        1.0 / self.targets.len() as f32
    }

    /// The logit of a row's own target. Within [`vectorized`], since it is a dot product.
    #[inline(always)]
    pub(super) fn target_logit(&self, row: usize) -> f32 {
        let (d, target) = (self.width(), self.targets[row] as usize - 1);
        dot(&self.rows[row * d..][..d], &self.table[target * d..][..d]) + self.bias[target]
    }

    /// Writes products of rows with items, logits without the bias, into `tile [rows, items]`.
    pub(super) fn products(&self, rows: &Range<usize>, items: &Range<usize>, tile: &mut [f32]) {
        let d = self.width();
        let h = Matrix::new(&self.rows[rows.start * d..rows.end * d], rows.len(), d);
        let product = MatrixMut::new(tile, rows.len(), items.len());
        multiply(product, Into::Assign, 1.0, h, self.table_block(items).t());
    }

    pub(super) fn table_block(&self, items: &Range<usize>) -> Matrix<'_> {
        let d = self.width();
        Matrix::new(&self.table[items.start * d..items.end * d], items.len(), d)
    }
}

/// How rows and items are cut into tiles; depends on `P` and `V` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Items, `V`.
    items: usize,
    /// Rows of a tile.
    tile_rows: usize,
    /// Rows of a chunk, a multiple of `tile_rows`.
    pub chunk_rows: usize,
}

impl Tiling {
    /// For `rows` rows and `items` items.
    pub fn new(rows: usize, items: usize) -> Self {
        let padded = items.div_ceil(TILE_ITEMS) * TILE_ITEMS;
        let most = (MOST_ELEMENTS / padded).max(1);
        // Chunks and tiles of the same height, so that none leaves a thread with little to do.
        let of_chunk = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        let tiles = of_chunk.div_ceil(TILE_ROWS);
        let tile_rows = of_chunk.div_ceil(tiles).next_multiple_of(EVEN_ROWS).min(most / tiles);
        let chunk_rows = tiles * tile_rows;
        Tiling { items, tile_rows, chunk_rows }
    }

    /// Elements of a tile.
    pub fn tile_len(&self) -> usize {
        self.tile_rows * TILE_ITEMS
    }

    /// Rows of a tile.
    pub fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Rows that one task gives their gradient; a tile has a multiple of them.
    pub fn task_rows(&self) -> usize {
        let halves = self.tile_rows > TASK_ROWS && self.tile_rows.is_multiple_of(2);
        if halves { self.tile_rows / 2 } else { self.tile_rows }
    }

    /// Blocks of items.
    pub fn item_blocks(&self) -> usize {
        self.items.div_ceil(TILE_ITEMS)
    }

    /// Items of block `block`, from 0.
    pub fn block_items(&self, block: usize) -> Range<usize> {
        block * TILE_ITEMS..((block + 1) * TILE_ITEMS).min(self.items)
    }
}

/// A chunk of rows and the tiles made of it: tile (row block i, item block j) is number i · item_blocks + j.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Cut of the whole problem.
    pub tiling: Tiling,
    /// The chunk's rows.
    pub rows: (usize, usize),
    /// e^(logit - m), tile by tile.
    pub tiles: &'a [f32],
    /// Factor of each tile's rows, `tile_rows` a tile.
    pub factors: &'a [f32],
}

impl Chunk<'_> {
    /// Blocks of rows.
    pub fn row_blocks(&self) -> usize {
        (self.rows.1 - self.rows.0).div_ceil(self.tiling.tile_rows)
    }

    /// Rows of block `block`, within the whole problem.
    fn block_rows(&self, block: usize) -> Range<usize> {
        let start = self.rows.0 + block * self.tiling.tile_rows;
        start..(start + self.tiling.tile_rows).min(self.rows.1)
    }

    fn tile(&self, row_block: usize, item_block: usize) -> (&[f32], &[f32]) {
        let number = row_block * self.tiling.item_blocks() + item_block;
        (
            &self.tiles[number * self.tiling.tile_len()..][..self.tiling.tile_len()],
            &self.factors[number * self.tiling.tile_rows..][..self.tiling.tile_rows],
        )
    }
}

/// Fills one tile with e^(logit - m) and writes m and the sum of each of its rows.
pub fn exponentials(
    problem: &Problem,
    rows: Range<usize>,
    items: Range<usize>,
    tile: &mut [f32],
    maxima: &mut [f32],
    sums: &mut [f32],
) {
    let tile = &mut tile[..rows.len() * items.len()];
    let bias = &problem.bias[items.clone()];
    problem.products(&rows, &items, tile);
    vectorized(
        #[inline(always)]
        || {
            for ((row, top), total) in tile.chunks_exact_mut(items.len()).zip(maxima).zip(sums) {
                add_scaled(row, 1.0, bias);
                *top = max(row);
                let shift = *top;
                for x in row.iter_mut() {
                    *x = exp(*x - shift);
                }
                *total = sum(row);
            }
        },
    );
}

/// From the row maxima and sums of one row block's tiles: turns the maxima into factors
/// e^(m - logsumexp) / P and returns the sum of the rows' losses.
pub fn combine(
    problem: &Problem,
    tile_rows: usize,
    rows: Range<usize>,
    maxima: &mut [f32],
    sums: &[f32],
) -> f64 {
    let mut loss = 0.0;
    vectorized(
        #[inline(always)]
        || {
            for (local, row) in rows.enumerate() {
                let entries = (local..maxima.len()).step_by(tile_rows);
                let top = entries.clone().map(|i| maxima[i]).fold(f32::NEG_INFINITY, f32::max);
                let mut total = 0.0f64;
                for i in entries.clone() {
                    maxima[i] = exp(maxima[i] - top);
                    total += f64::from(sums[i]) * f64::from(maxima[i]);
                }
                let scale = problem.weight() / total as f32;
                entries.for_each(|i| maxima[i] *= scale);
                loss += f64::from(top) + total.ln() - f64::from(problem.target_logit(row));
            }
        },
    );
    loss
}

/// Writes (`Assign`) or adds (`Add`) one item block's gradients `d_table [items, D]` and `d_bias [items]`,
/// targets not yet subtracted. `weighted` is scratch.
pub fn item_gradient(
    problem: &Problem,
    chunk: &Chunk,
    item_block: usize,
    into: Into,
    weighted: &mut Vec<f32>,
    d_table: &mut [f32],
    d_bias: &mut [f32],
) {
    let d = problem.width();
    let count = d_bias.len();
    if into == Into::Assign {
        d_bias.fill(0.0);
    }
    for row_block in 0..chunk.row_blocks() {
        let rows = chunk.block_rows(row_block);
        let (tile, factors) = chunk.tile(row_block, item_block);
        let tile = &tile[..rows.len() * count];
        weighted.clear();
        weighted.extend_from_slice(&problem.rows[rows.start * d..rows.end * d]);
        vectorized(
            #[inline(always)]
            || {
                for (row, (h, &factor)) in weighted.chunks_exact_mut(d).zip(factors).enumerate() {
                    h.iter_mut().for_each(|x| *x *= factor);
                    add_scaled(d_bias, factor, &tile[row * count..][..count]);
                }
            },
        );
        let into = if row_block == 0 { into } else { Into::Add };
        let product = MatrixMut::new(d_table, count, d);
        let tile = Matrix::new(tile, rows.len(), count).t();
        multiply(product, into, 1.0, tile, Matrix::new(weighted, rows.len(), d));
    }
}

/// Subtracts the targets in `segments` (keys are item indices from 1) that fall into `items` (from 0), each row's
/// as much as `pulls [P]` says.
pub fn subtract_targets(
    problem: &Problem,
    pulls: &[f32],
    segments: &Segments,
    items: Range<usize>,
    d_table: &mut [f32],
    d_bias: &mut [f32],
) {
    let d = problem.width();
    let first = segments.keys.partition_point(|&key| (key as usize) < items.start + 1);
    let last = segments.keys.partition_point(|&key| (key as usize) < items.end + 1);
    vectorized(
        #[inline(always)]
        || {
            for key in first..last {
                let item = segments.keys[key] as usize - 1 - items.start;
                for &row in &segments.indices
                    [segments.offsets[key] as usize..segments.offsets[key + 1] as usize]
                {
                    let (h, pull) = (&problem.rows[row as usize * d..][..d], pulls[row as usize]);
                    add_scaled(&mut d_table[item * d..][..d], -pull, h);
                    d_bias[item] -= pull;
                }
            }
        },
    );
}

/// Writes the gradient `d_rows [rows, D]` of `rows`, which lie in one tile of the chunk, with `pulls [P]` at the
/// targets. `product` is scratch.
pub fn row_gradient(
    problem: &Problem,
    pulls: &[f32],
    chunk: &Chunk,
    rows: Range<usize>,
    product: &mut Vec<f32>,
    d_rows: &mut [f32],
) {
    let d = problem.width();
    let local = rows.start - chunk.rows.0;
    let (row_block, first) = (local / chunk.tiling.tile_rows, local % chunk.tiling.tile_rows);
    product.resize(rows.len() * d, 0.0);
    vectorized(
        #[inline(always)]
        || {
            for (out, row) in d_rows.chunks_exact_mut(d).zip(rows.clone()) {
                let target = problem.targets[row] as usize - 1;
                for (x, &e) in out.iter_mut().zip(&problem.table[target * d..][..d]) {
                    *x = -pulls[row] * e;
                }
            }
        },
    );
    for item_block in 0..chunk.tiling.item_blocks() {
        let items = chunk.tiling.block_items(item_block);
        let (tile, factors) = chunk.tile(row_block, item_block);
        let tile = Matrix::new(&tile[first * items.len()..], rows.len(), items.len());
        let out = MatrixMut::new(product, rows.len(), d);
        multiply(out, Into::Assign, 1.0, tile, problem.table_block(&items));
        vectorized(
            #[inline(always)]
            || {
                for ((out, product), &factor) in
                    d_rows.chunks_exact_mut(d).zip(product.chunks_exact(d)).zip(&factors[first..])
                {
                    add_scaled(out, factor, product);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_stay_within_their_budget() {
        for (rows, items) in
            [(1, 1), (1000, 1682), (3300, 3416), (1300, 26_744), (9, 1 << 20), (5, 1 << 27)]
        {
            let tiling = Tiling::new(rows, items);
            let chunk = tiling.chunk_rows.min(rows.next_multiple_of(tiling.tile_rows));
            let padded = tiling.item_blocks() * TILE_ITEMS;
            assert!(chunk * padded <= MOST_ELEMENTS.max(padded), "{rows} x {items}: {tiling:?}");
            assert_eq!(tiling.chunk_rows % tiling.tile_rows, 0);
            assert_eq!(tiling.block_items(tiling.item_blocks() - 1).end, items);
        }
    }

    /// No tile, and no chunk, is left with a few rows while others are full.
    #[test]
    fn tiles_are_even() {
        for (rows, items) in [(1054, 1682), (350, 12_101), (1300, 26_744), (193, 100), (97, 60_000)]
        {
            let tiling = Tiling::new(rows, items);
            let height = tiling.tile_rows();
            let chunks = rows.div_ceil(tiling.chunk_rows);
            let of_last = rows - (chunks - 1) * tiling.chunk_rows;
            let of_last_tile = of_last - (of_last.div_ceil(height) - 1) * height;
            let tiles = rows.div_ceil(height);
            assert!(of_last_tile + EVEN_ROWS * tiles > height, "{rows} x {items}: {tiling:?}");
            assert!(height <= TILE_ROWS && tiling.task_rows() <= TASK_ROWS, "{tiling:?}");
            assert_eq!(height % tiling.task_rows(), 0, "{tiling:?}");
        }
    }
}
