//! Softmax cross-entropy over all `V` items at the `P` masked rows: logits = h Eᵀ + b, PAD and MASK left out;
//! loss = mean over rows of logsumexp - logit of the target.
//!
//! The `P x V` matrix never exists. Rows go through in chunks that fit a fixed budget; a chunk is cut into
//! tiles of items by rows, and a tile keeps e^(logit - m), m the largest logit of its row so far. Once a row's
//! logsumexp is known, the probabilities are the tile times one factor a row, so the factor goes into the
//! small operand of a gradient product and the tiles are never walked over again:
//! `dE[block] = Σ tileᵀ (factor · h)`. The gradient of the rows, `dh = Σ factor · (tile E[block])`, is gathered while a
//! tile is still in the cache, as fused attention does (Dao et al., FlashAttention, 2022): a span of blocks, with m
//! running over them, has a share of it, whose factor is that of its last tile. Targets are subtracted apart, since
//! they are sparse. 6 P D V FLOPs, one exponential a logit.
//!
//! Tiles stand item by item, `[items, rows]`: the products then rearrange rows, once, and no part of the table; maxima and
//! sums are taken over many rows at once.
//!
//! Where a chunk would have few rows, since there are so many items, [`super::streamed_softmax`] takes over.
//!
//! The functions here are sequential; the engine runs spans, item blocks and row blocks in parallel.

use super::gbce::{self, Negatives};
use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::math::{exp, exp_below, exp_below_vector};
use super::tiles::{Chunk, EVEN_COLUMNS, Span, TILE_ROWS, TileRows, Tiling};
use super::vector::{add_scaled, dot, larger, load, store, vectorized, with_simd};
use crate::batch::Segments;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Vectors of columns whose maxima and sums are taken at a time, as long as there are so many.
const STRIP: usize = 4;

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

    /// Writes products of `rows` with items, logits without the bias, into `tile [items, columns]`.
    pub(super) fn products(&self, rows: &TileRows, items: &Range<usize>, tile: &mut [f32]) {
        let product = MatrixMut::new(tile, items.len(), rows.columns());
        multiply(product, Into::Assign, 1.0, self.table_block(items), rows.matrix());
    }

    pub(super) fn table_block(&self, items: &Range<usize>) -> Matrix<'_> {
        let d = self.width();
        Matrix::new(&self.table[items.start * d..items.end * d], items.len(), d)
    }
}

/// Fills the tiles of a span, from item block `first` on; with `negatives`, those of the binary loss. `rows` are those of
/// the problem that `right` has taken in.
pub fn fill_span(
    problem: &Problem,
    negatives: Option<&Negatives>,
    tiling: &Tiling,
    rows: Range<usize>,
    right: &TileRows,
    first: usize,
    span: Span,
) {
    let (d, height, columns) = (problem.width(), tiling.tile_rows(), right.columns());
    let share = &mut span.share[..rows.len() * d];
    let tiles = span.tiles.chunks_mut(tiling.tile_len()).zip(span.sums.chunks_mut(height));
    for (index, (tile, sums)) in tiles.enumerate() {
        let items = tiling.block_items(first + index);
        let (tile, sums) = (&mut tile[..items.len() * columns], &mut sums[..columns]);
        problem.products(right, &items, tile);
        match negatives {
            Some(negatives) => gbce::sigmoids(problem, negatives, &rows, &items, tile, sums),
            None => {
                let (before, maxima) = span.maxima.split_at_mut(index * height);
                let (before, maxima) =
                    (&before[before.len().saturating_sub(height)..], &mut maxima[..columns]);
                match index {
                    0 => maxima.fill(f32::NEG_INFINITY),
                    _ => maxima.copy_from_slice(&before[..columns]),
                }
                exponentials(&problem.bias[items.clone()], tile, maxima, sums);
                rescale(before, maxima, d, share);
            }
        }
        let tile = Matrix::strided(tile, items.len(), rows.len(), columns).t();
        let into = if index == 0 { Into::Assign } else { Into::Add };
        let product = MatrixMut::new(share, rows.len(), d);
        multiply(product, into, 1.0, tile, problem.table_block(&items));
    }
}

/// Turns products `[items, columns]` into e^(logit - maximum), with `maxima [columns]` raised first to the largest logit
/// of their column where that is larger, and writes the sum of each column.
pub fn exponentials(bias: &[f32], tile: &mut [f32], maxima: &mut [f32], sums: &mut [f32]) {
    with_simd(Exponentials { bias, tile, maxima, sums });
}

/// Written in vectors, since the compiler made the search for the largest logit scalar.
struct Exponentials<'a> {
    bias: &'a [f32],
    tile: &'a mut [f32],
    maxima: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (columns, width) = (self.maxima.len(), STRIP * S::F32_LANES);
        let wide = columns / width * width;
        for first in (0..wide).step_by(width) {
            self.strip::<S, STRIP>(simd, first..first + width);
        }
        for first in (wide..columns).step_by(S::F32_LANES) {
            self.strip::<S, 1>(simd, first..(first + S::F32_LANES).min(columns));
        }
    }
}

impl Exponentials<'_> {
    /// The columns `strip`, which fill `N` vectors, or one of them in part; maxima and sums stay in registers.
    #[inline(always)]
    fn strip<S: Simd, const N: usize>(&mut self, simd: S, strip: Range<usize>) {
        let (columns, lanes) = (self.maxima.len(), S::F32_LANES);
        let zero = simd.splat_f32s(0.0);
        let (mut tops, mut totals) = ([zero; N], [zero; N]);
        for (top, maxima) in tops.iter_mut().zip(self.maxima[strip.clone()].chunks(lanes)) {
            *top = load(simd, maxima);
        }
        for (row, &bias) in self.tile.chunks_exact(columns).zip(self.bias) {
            let bias = simd.splat_f32s(bias);
            for (top, x) in tops.iter_mut().zip(row[strip.clone()].chunks(lanes)) {
                *top = simd.max_f32s(simd.add_f32s(load(simd, x), bias), *top);
            }
        }
        for (row, &bias) in self.tile.chunks_exact_mut(columns).zip(self.bias) {
            let bias = simd.splat_f32s(bias);
            let sums = tops.iter().zip(&mut totals);
            for ((&top, total), x) in sums.zip(row[strip.clone()].chunks_mut(lanes)) {
                let below = simd.add_f32s(load(simd, x), simd.sub_f32s(bias, top));
                let value = exp_below_vector(simd, below);
                *total = simd.add_f32s(*total, value);
                store(simd, x, value);
            }
        }
        for (out, top) in self.maxima[strip.clone()].chunks_mut(lanes).zip(tops) {
            store(simd, out, top);
        }
        for (out, total) in self.sums[strip].chunks_mut(lanes).zip(totals) {
            store(simd, out, total);
        }
    }
}

/// Makes up for maxima that have risen since they were `before`, in sums `[rows, D]` of what they were taken from;
/// before the first tile there are none.
fn rescale(before: &[f32], maxima: &[f32], d: usize, share: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for ((row, &before), &now) in share.chunks_exact_mut(d).zip(before).zip(maxima) {
                if before < now {
                    let factor = exp(before - now);
                    row.iter_mut().for_each(|x| *x *= factor);
                }
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
    let (mut tops, mut totals) = ([f32::NEG_INFINITY; TILE_ROWS], [0.0f64; TILE_ROWS]);
    let (tops, totals) = (&mut tops[..rows.len()], &mut totals[..rows.len()]);
    let mut loss = 0.0;
    vectorized(
        #[inline(always)]
        || {
            for maxima in maxima.chunks_exact(tile_rows) {
                tops.iter_mut().zip(maxima).for_each(|(top, &m)| *top = larger(*top, m));
            }
            for (maxima, sums) in maxima.chunks_exact_mut(tile_rows).zip(sums.chunks(tile_rows)) {
                let entries = maxima.iter_mut().zip(sums).zip(tops.iter().zip(&mut *totals));
                for ((m, &sum), (&top, total)) in entries {
                    *m = exp_below(*m - top);
                    *total += f64::from(sum) * f64::from(*m);
                }
            }
            for maxima in maxima.chunks_exact_mut(tile_rows) {
                for (m, &total) in maxima.iter_mut().zip(&*totals) {
                    *m *= problem.weight() / total as f32;
                }
            }
            for (row, (&top, &total)) in rows.zip(tops.iter().zip(&*totals)) {
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
        let columns = rows.len().next_multiple_of(EVEN_COLUMNS);
        let tile = &chunk.tile(row_block, item_block)[..count * columns];
        let factors = &chunk.factors(row_block, item_block)[..rows.len()];
        weighted.clear();
        weighted.extend_from_slice(&problem.rows[rows.start * d..rows.end * d]);
        vectorized(
            #[inline(always)]
            || {
                for (h, &factor) in weighted.chunks_exact_mut(d).zip(factors) {
                    h.iter_mut().for_each(|x| *x *= factor);
                }
                for (d_bias, item) in d_bias.iter_mut().zip(tile.chunks_exact(columns)) {
                    *d_bias += dot(&item[..rows.len()], factors);
                }
            },
        );
        let into = if row_block == 0 { into } else { Into::Add };
        let product = MatrixMut::new(d_table, count, d);
        let tile = Matrix::strided(tile, count, rows.len(), columns);
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

/// Writes the gradient `d_rows [rows, D]` of `rows`, which lie in the chunk, with `pulls [P]` at the targets.
pub fn row_gradient(
    problem: &Problem,
    pulls: &[f32],
    chunk: &Chunk,
    rows: Range<usize>,
    d_rows: &mut [f32],
) {
    let (d, tiling) = (problem.width(), chunk.tiling);
    let (height, blocks, of_span) =
        (tiling.tile_rows(), tiling.item_blocks(), tiling.span_blocks());
    vectorized(
        #[inline(always)]
        || {
            for (out, row) in d_rows.chunks_exact_mut(d).zip(rows) {
                let local = row - chunk.rows.0;
                let (row_block, local) = (local / height, local % height);
                out.fill(0.0);
                for span in 0..tiling.spans() {
                    let last = ((span + 1) * of_span).min(blocks) - 1;
                    let factor = chunk.factors(row_block, last)[local];
                    let share = ((row_block * tiling.spans() + span) * height + local) * d;
                    add_scaled(out, factor, &chunk.shares[share..share + d]);
                }
                let target = problem.targets[row] as usize - 1;
                add_scaled(out, -pulls[row], &problem.table[target * d..][..d]);
            }
        },
    );
}
