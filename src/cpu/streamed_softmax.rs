//! The item softmax over catalogues of which no budget holds the logits of many rows: nothing that grows with `P x V`
//! is kept, not even for a chunk of rows.
//!
//! [`super::item_softmax`] keeps e^logit from one pass to the next. Here logits are made twice, tile by tile: 8 P D V
//! FLOPs in place of 6 and two exponentials a logit, but the table is read twice a step however many rows there are.
//! First comes the log-sum-exp of each row; then p = e^(logit - log-sum-exp) gives a tile's share of all gradients at
//! once: `dE[tile] += w pᵀ h`, `dh += w p E[tile]`, w the weight of a row. Targets are subtracted apart.
//!
//! Items are cut into spans, a task each. A span has sums of its own for the rows, which are added up in order.

use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::item_softmax::{Problem, exponentials};
use super::math::exp;
use super::tiles::{MOST_ELEMENTS, TILE_ITEMS, TILE_ROWS, TileRows};
use super::vector::{add_scaled, sum, vectorized};
use std::ops::Range;

/// Most spans: enough for as many threads.
const SPANS: usize = 16;
/// Rows that the tiles of a chunk should have for chunks to pay.
const LEAST_ROWS: usize = 96;

/// Whether a catalogue is so large that chunks of kept tiles would have too few rows.
pub fn is_due(items: usize) -> bool {
    items.next_multiple_of(TILE_ITEMS).saturating_mul(LEAST_ROWS) > MOST_ELEMENTS
}

/// Items of a span, whole tiles.
pub fn span(items: usize) -> usize {
    items.div_ceil(TILE_ITEMS).div_ceil(SPANS).max(1) * TILE_ITEMS
}

/// Floats kept for `rows` rows of `width` channels: by all spans their maxima, sums and gradients, and once the rows.
pub fn kept(rows: u128, width: u128) -> u128 {
    rows * (SPANS as u128 * (width + 2) + width)
}

/// A tile, and the maximum and the sum of each of its rows.
#[derive(Default)]
pub struct Scratch {
    tile: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

impl Scratch {
    fn resize(&mut self) {
        self.tile.resize(TILE_ROWS * TILE_ITEMS, 0.0);
        self.maxima.resize(TILE_ROWS, 0.0);
        self.sums.resize(TILE_ROWS, 0.0);
    }
}

fn pieces(of: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = of.end;
    of.step_by(size).map(move |first| first..(first + size).min(end))
}

/// `[P]` cut as `rights` has taken them in, tile by tile.
fn tiles(rows: usize, rights: &[TileRows]) -> impl Iterator<Item = (Range<usize>, &TileRows)> {
    pieces(0..rows, TILE_ROWS).zip(rights)
}

/// Writes the maximum of each row's logits over `items`, and the sum of e^(logit - maximum). `rights` are all rows,
/// [`TILE_ROWS`] each.
pub fn statistics(
    problem: &Problem,
    rights: &[TileRows],
    items: Range<usize>,
    scratch: &mut Scratch,
    maxima: &mut [f32],
    sums: &mut [f32],
) {
    scratch.resize();
    maxima.fill(f32::NEG_INFINITY);
    sums.fill(0.0);
    for items in pieces(items, TILE_ITEMS) {
        for (rows, right) in tiles(maxima.len(), rights) {
            let columns = right.columns();
            let tile = &mut scratch.tile[..items.len() * columns];
            let (tops, totals) = (&mut scratch.maxima[..columns], &mut scratch.sums[..columns]);
            tops.fill(f32::NEG_INFINITY);
            tops[..rows.len()].copy_from_slice(&maxima[rows.clone()]);
            problem.products(right, &items, tile);
            exponentials(&problem.bias[items.clone()], tile, tops, totals);
            vectorized(
                #[inline(always)]
                || {
                    let of_rows = maxima[rows.clone()].iter_mut().zip(&mut sums[rows]);
                    for ((maximum, sum), (&top, &total)) in of_rows.zip(tops.iter().zip(&*totals)) {
                        *sum = *sum * exp(*maximum - top) + total;
                        *maximum = top;
                    }
                },
            );
        }
    }
}

/// From what [`statistics`] left for all spans, one after another: each row's log-sum-exp, and the sum of the losses.
pub fn combine(problem: &Problem, maxima: &[f32], sums: &[f32], log_sums: &mut [f32]) -> f64 {
    let rows = log_sums.len();
    let mut loss = 0.0;
    vectorized(
        #[inline(always)]
        || {
            for (row, log_sum) in log_sums.iter_mut().enumerate() {
                let spans = (row..maxima.len()).step_by(rows);
                let top = spans.clone().map(|i| maxima[i]).fold(f32::NEG_INFINITY, f32::max);
                let term = |i: usize| f64::from(sums[i]) * f64::from(maxima[i] - top).exp();
                let exact = f64::from(top) + spans.map(term).sum::<f64>().ln();
                loss += exact - f64::from(problem.target_logit(row));
                *log_sum = exact as f32;
            }
        },
    );
    loss
}

/// Writes a span's gradients `d_table [items, D]` and `d_bias [items]`, and its share `d_rows [P, D]` of that of the
/// rows, targets not yet subtracted.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor")]
pub fn gradients(
    problem: &Problem,
    rights: &[TileRows],
    log_sums: &[f32],
    items: Range<usize>,
    scratch: &mut Scratch,
    d_table: &mut [f32],
    d_bias: &mut [f32],
    d_rows: &mut [f32],
) {
    scratch.resize();
    let (d, weight, first) = (problem.width(), problem.weight(), items.start);
    d_bias.fill(0.0);
    for items in pieces(items, TILE_ITEMS) {
        let own = items.start - first..items.end - first;
        let d_bias = &mut d_bias[own.clone()];
        let (mut into_table, into_rows) =
            (Into::Assign, if own.start == 0 { Into::Assign } else { Into::Add });
        for (rows, right) in tiles(log_sums.len(), rights) {
            let tile = &mut scratch.tile[..items.len() * right.columns()];
            problem.products(right, &items, tile);
            let (bias, log_sums) = (&problem.bias[items.clone()], &log_sums[rows.clone()]);
            probabilities(bias, log_sums, weight, tile, d_bias);
            let tile = Matrix::strided(tile, items.len(), rows.len(), right.columns());
            let h = Matrix::new(&problem.rows[rows.start * d..rows.end * d], rows.len(), d);
            let out = MatrixMut::new(&mut d_table[own.start * d..own.end * d], items.len(), d);
            multiply(out, into_table, weight, tile, h);
            let out = MatrixMut::new(&mut d_rows[rows.start * d..rows.end * d], rows.len(), d);
            multiply(out, into_rows, weight, tile.t(), problem.table_block(&items));
            into_table = Into::Add;
        }
    }
}

/// Turns products `[items, columns]` into the rows' probabilities and adds the items' sums of them, weighted, to `d_bias`.
fn probabilities(
    bias: &[f32],
    log_sums: &[f32],
    weight: f32,
    tile: &mut [f32],
    d_bias: &mut [f32],
) {
    let columns = tile.len() / bias.len();
    vectorized(
        #[inline(always)]
        || {
            for ((item, &bias), d_bias) in tile.chunks_exact_mut(columns).zip(bias).zip(d_bias) {
                let item = &mut item[..log_sums.len()];
                for (x, &log_sum) in item.iter_mut().zip(log_sums) {
                    *x = exp(*x + bias - log_sum);
                }
                *d_bias += weight * sum(item);
            }
        },
    );
}

/// Writes the gradient `d_rows` of `rows` from the shares `[P, D]` of all spans, with `pulls [P]` at the targets.
pub fn row_gradient(
    problem: &Problem,
    pulls: &[f32],
    shares: &[f32],
    rows: Range<usize>,
    d_rows: &mut [f32],
) {
    let d = problem.width();
    let all = problem.targets.len() * d;
    vectorized(
        #[inline(always)]
        || {
            for (out, row) in d_rows.chunks_exact_mut(d).zip(rows) {
                out.fill(0.0);
                for share in shares.chunks_exact(all) {
                    add_scaled(out, 1.0, &share[row * d..][..d]);
                }
                let target = problem.targets[row] as usize - 1;
                add_scaled(out, -pulls[row], &problem.table[target * d..][..d]);
            }
        },
    );
}
