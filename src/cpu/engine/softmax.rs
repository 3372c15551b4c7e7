//! The item softmax, or the binary loss in its place, over all threads: first the tiles of a chunk of rows, then item
//! blocks, then row blocks; or, where there are so many items that tiles are not kept, spans of items.

use crate::batch::Segments;
use crate::cpu::gbce::{self, Negatives};
use crate::cpu::gemm::Into;
use crate::cpu::item_softmax::{self, Problem};
use crate::cpu::streamed_softmax;
use crate::cpu::tiles::{Chunk, Span, TILE_ITEMS, TILE_ROWS, TileRows, Tiling};
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose shares of a gradient one task adds up.
const ROWS_A_TASK: usize = 64;

/// Memory kept between steps, and the gradient of the rows.
#[derive(Default)]
pub struct ItemSoftmax {
    /// `[P, D]` gradient of the head's outputs.
    pub d_rows: Vec<f32>,
    /// The rows, tile by tile, as right operands of products.
    rights: Vec<TileRows>,
    tiles: Vec<f32>,
    /// Maxima, then factors.
    factors: Vec<f32>,
    sums: Vec<f32>,
    /// Shares of the rows' gradient by spans of items.
    shares: Vec<f32>,
    /// `[P]` how much each row pulls at its target.
    pulls: Vec<f32>,
    /// `[P]` log-sum-exp of each row, where tiles are not kept.
    log_sums: Vec<f32>,
}

impl ItemSoftmax {
    /// Returns the mean loss; leaves `d_rows` and writes `d_table [V, D]` and `d_bias [V]`.
    /// To be called within the engine's thread pool.
    pub fn run(
        &mut self,
        problem: &Problem,
        targets: &Segments,
        d_table: &mut [f32],
        d_bias: &mut [f32],
    ) -> f64 {
        if streamed_softmax::is_due(problem.items()) {
            return self.run_streamed(problem, targets, d_table, d_bias);
        }
        self.run_loss(problem, None, targets, d_table, d_bias)
    }

    /// [`Self::run`] without keeping tiles, whatever the number of items.
    pub fn run_streamed(
        &mut self,
        problem: &Problem,
        targets: &Segments,
        d_table: &mut [f32],
        d_bias: &mut [f32],
    ) -> f64 {
        let (rows, d) = (problem.targets.len(), problem.width());
        let span = streamed_softmax::span(problem.items());
        let spans = problem.items().div_ceil(span);
        let ItemSoftmax { d_rows, rights, shares, factors: maxima, sums, pulls, log_sums, .. } =
            self;
        take_in(rights, problem.rows, TILE_ROWS, d);
        let rights = &rights[..];
        pulls.clear();
        pulls.resize(rows, problem.weight());
        for (buffer, len) in [
            (&mut *maxima, spans * rows),
            (&mut *sums, spans * rows),
            (&mut *shares, spans * rows * d),
            (&mut *log_sums, rows),
            (&mut *d_rows, rows * d),
        ] {
            buffer.resize(len, 0.0);
        }
        let items = |number: usize| number * span..((number + 1) * span).min(problem.items());
        let statistics = maxima.par_chunks_mut(rows).zip(sums.par_chunks_mut(rows)).enumerate();
        statistics.with_max_len(1).for_each_init(
            Default::default,
            |scratch, (number, (maxima, sums))| {
                let items = items(number);
                streamed_softmax::statistics(problem, rights, items, scratch, maxima, sums);
            },
        );
        let loss = streamed_softmax::combine(problem, maxima, sums, log_sums);
        let of_items = d_table.par_chunks_mut(span * d).zip(d_bias.par_chunks_mut(span));
        let of_spans = of_items.zip(shares.par_chunks_mut(rows * d)).enumerate();
        of_spans.with_max_len(1).for_each_init(
            Default::default,
            |scratch, (number, ((d_table, d_bias), share))| {
                let (items, log_sums) = (items(number), &log_sums[..]);
                let range = items.clone();
                streamed_softmax::gradients(
                    problem, rights, log_sums, range, scratch, d_table, d_bias, share,
                );
                item_softmax::subtract_targets(problem, pulls, targets, items, d_table, d_bias);
            },
        );
        d_rows.par_chunks_mut(ROWS_A_TASK * d).enumerate().for_each(|(task, d_rows)| {
            let first = task * ROWS_A_TASK;
            let rows = first..first + d_rows.len() / d;
            streamed_softmax::row_gradient(problem, pulls, shares, rows, d_rows);
        });
        loss / rows as f64
    }

    /// The same; with `negatives`, of the binary loss.
    pub fn run_loss(
        &mut self,
        problem: &Problem,
        negatives: Option<&Negatives>,
        targets: &Segments,
        d_table: &mut [f32],
        d_bias: &mut [f32],
    ) -> f64 {
        let tiling = Tiling::new(problem.targets.len(), problem.items());
        self.run_tiled(problem, negatives, tiling, targets, d_table, d_bias)
    }

    /// The same, cut by a tiling that may have fewer rows in a chunk.
    pub fn run_tiled(
        &mut self,
        problem: &Problem,
        negatives: Option<&Negatives>,
        tiling: Tiling,
        targets: &Segments,
        d_table: &mut [f32],
        d_bias: &mut [f32],
    ) -> f64 {
        let (rows, d) = (problem.targets.len(), problem.width());
        let mut d_rows = std::mem::take(&mut self.d_rows);
        d_rows.resize(rows * d, 0.0);
        let mut pulls = std::mem::take(&mut self.pulls);
        pulls.clear();
        pulls.resize(rows, problem.weight());
        let mut loss = 0.0;
        for start in (0..rows).step_by(tiling.chunk_rows) {
            let end = (start + tiling.chunk_rows).min(rows);
            let own = &mut pulls[start..end];
            let (chunk, chunk_loss) = self.fill_chunk(problem, negatives, tiling, start..end, own);
            loss += chunk_loss;
            let into = if start == 0 { Into::Assign } else { Into::Add };
            item_gradients(problem, &chunk, into, d_table, d_bias);
            row_gradients(problem, &pulls, &chunk, &mut d_rows[start * d..end * d]);
        }
        subtract_targets(problem, &pulls, &tiling, targets, d_table, d_bias);
        (self.d_rows, self.pulls) = (d_rows, pulls);
        loss / rows as f64
    }

    /// Fills the tiles of a chunk of rows; returns them and the sum of the rows' losses.
    fn fill_chunk(
        &mut self,
        problem: &Problem,
        negatives: Option<&Negatives>,
        tiling: Tiling,
        rows: Range<usize>,
        pulls: &mut [f32],
    ) -> (Chunk<'_>, f64) {
        let ItemSoftmax { rights, tiles, factors, sums, shares, .. } = self;
        let (d, height, blocks) = (problem.width(), tiling.tile_rows(), tiling.item_blocks());
        take_in(rights, &problem.rows[rows.start * d..rows.end * d], height, d);
        let count = rights.len() * blocks;
        tiles.resize(count * tiling.tile_len(), 0.0);
        factors.resize(count * height, 0.0);
        sums.resize(count * height, 0.0);
        shares.resize(rights.len() * tiling.spans() * height * d, 0.0);
        let block_rows = |block: usize| {
            let start = rows.start + block * height;
            start..(start + height).min(rows.end)
        };
        let spans = spans(&tiling, d, tiles, factors, sums, shares);
        spans.into_par_iter().with_max_len(1).for_each(|(block, first, span)| {
            let (rows, right) = (block_rows(block), &rights[block]);
            item_softmax::fill_span(problem, negatives, &tiling, rows, right, first, span);
        });
        let losses: Vec<f64> = factors
            .par_chunks_mut(blocks * height)
            .zip(sums.par_chunks(blocks * height))
            .zip(pulls.par_chunks_mut(height))
            .enumerate()
            .map(|(block, ((factors, sums), pulls))| {
                let rows = block_rows(block);
                match negatives {
                    None => item_softmax::combine(problem, height, rows, factors, sums),
                    Some(negatives) => {
                        gbce::combine(problem, negatives, height, rows, factors, sums, pulls)
                    }
                }
            })
            .collect();
        let chunk = Chunk { tiling, rows: (rows.start, rows.end), tiles, factors, shares };
        (chunk, losses.iter().sum())
    }
}

/// All spans of a chunk, each with its row block and first item block.
fn spans<'a>(
    tiling: &Tiling,
    d: usize,
    tiles: &'a mut [f32],
    maxima: &'a mut [f32],
    sums: &'a mut [f32],
    shares: &'a mut [f32],
) -> Vec<(usize, usize, Span<'a>)> {
    let (height, blocks, of_span) =
        (tiling.tile_rows(), tiling.item_blocks(), tiling.span_blocks());
    let mut spans = Vec::new();
    let row_blocks = tiles
        .chunks_mut(blocks * tiling.tile_len())
        .zip(maxima.chunks_mut(blocks * height).zip(sums.chunks_mut(blocks * height)))
        .zip(shares.chunks_mut(tiling.spans() * height * d));
    for (row_block, ((tiles, (maxima, sums)), shares)) in row_blocks.enumerate() {
        let of_block = tiles
            .chunks_mut(of_span * tiling.tile_len())
            .zip(maxima.chunks_mut(of_span * height).zip(sums.chunks_mut(of_span * height)))
            .zip(shares.chunks_mut(height * d));
        for (span, ((tiles, (maxima, sums)), share)) in of_block.enumerate() {
            spans.push((row_block, span * of_span, Span { tiles, maxima, sums, share }));
        }
    }
    spans
}

/// Makes right operands of `rows [rows, D]`, `height` of them each.
fn take_in(rights: &mut Vec<TileRows>, rows: &[f32], height: usize, d: usize) {
    rights.resize_with(rows.len().div_ceil(height * d), TileRows::default);
    let pairs = rights.par_iter_mut().zip(rows.par_chunks(height * d));
    pairs.for_each(|(right, rows)| right.fill(rows, d));
}

fn item_gradients(
    problem: &Problem,
    chunk: &Chunk,
    into: Into,
    d_table: &mut [f32],
    d_bias: &mut [f32],
) {
    d_table
        .par_chunks_mut(TILE_ITEMS * problem.width())
        .zip(d_bias.par_chunks_mut(TILE_ITEMS))
        .enumerate()
        .for_each_init(Vec::new, |weighted, (block, (d_table, d_bias))| {
            item_softmax::item_gradient(problem, chunk, block, into, weighted, d_table, d_bias);
        });
}

fn subtract_targets(
    problem: &Problem,
    pulls: &[f32],
    tiling: &Tiling,
    targets: &Segments,
    d_table: &mut [f32],
    d_bias: &mut [f32],
) {
    d_table
        .par_chunks_mut(TILE_ITEMS * problem.width())
        .zip(d_bias.par_chunks_mut(TILE_ITEMS))
        .enumerate()
        .for_each(|(block, (d_table, d_bias))| {
            let items = tiling.block_items(block);
            item_softmax::subtract_targets(problem, pulls, targets, items, d_table, d_bias);
        });
}

fn row_gradients(problem: &Problem, pulls: &[f32], chunk: &Chunk, d_rows: &mut [f32]) {
    let d = problem.width();
    d_rows.par_chunks_mut(ROWS_A_TASK * d).enumerate().for_each(|(task, d_rows)| {
        let first = chunk.rows.0 + task * ROWS_A_TASK;
        let rows = first..first + d_rows.len() / d;
        item_softmax::row_gradient(problem, pulls, chunk, rows, d_rows);
    });
}
