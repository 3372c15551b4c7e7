//! Multi-head attention within each sequence of a packed batch: for head h of width K,
//! context = dropout(softmax(q kᵀ / √K)) v, with queries at all rows or only at those that are read, and keys
//! at all rows or, causal, only up to the query's own.
//!
//! Queries are worked on in tiles, so that what lies between two products stays in the first caches; causal, with
//! the keys that a tile's last query sees: what lies beyond is neither computed nor read.
//!
//! Forward keeps the probabilities, one sign bit each telling whether dropout took it: backward then needs
//! neither exponentials nor random numbers. A row of them is filled up to whole vectors with zeros.

use super::dropout::AttentionDropout;
use super::gemm::Into;
use super::math::exp;
use super::sequences::{Head, Sequences, TILE_QUERIES, Tile, row_len};
use super::small_product::{Panels, Right, multiply};
use super::vector::{dot, larger, max, sum, sum_pairs, vectorized};

/// Elements of a thread's buffers where no sequence has more than `keys` tokens, and no head more than `width` channels.
pub(super) fn scratch_len(keys: usize, width: usize) -> u128 {
    2 * (TILE_QUERIES + width) as u128 * row_len(keys) as u128
}

/// Matrices of one tile, `[queries, keys]`, and what products need.
#[derive(Default)]
pub struct Scratch {
    dropped: Vec<f32>,
    d_scores: Vec<f32>,
    halves: Vec<u16>,
    keys: Panels,
    values: Panels,
    queries: Panels,
    d_context: Panels,
}

/// Writes the signed probabilities and `context [Tq, D]` from `q [Tq, D]` and `kv [T, 2D]`.
///
/// Absorbed, `q` and `context` are `[Tq, H, D]` and `kv` is the input `[T, D]`.
pub fn forward(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    q: &[f32],
    kv: &[f32],
    scratch: &mut Scratch,
    probabilities: &mut [f32],
    context: &mut [f32],
) {
    let scale = sequences.scale();
    sequences.for_each_head(|head| {
        if head.queries == 0 {
            return;
        }
        let Scratch { keys, values, dropped, halves, .. } = &mut *scratch;
        let keys = Right::new(sequences.key_matrix(&head, kv, 0).t(), keys);
        let values = Right::new(sequences.key_matrix(&head, kv, 1), values);
        for tile in sequences.tiles(&head) {
            let scores = &mut probabilities[tile.elements(&head)];
            let queries = sequences.query_matrix(&head, &tile, q);
            multiply(tile.scores_mut(&head, scores), Into::Assign, scale, queries, keys);
            score_probabilities(sequences, &head, &tile, scores);
            let weights: &[f32] = match dropout {
                None => scores,
                Some(dropout) => {
                    dropped.resize(scores.len(), 0.0);
                    drop_probabilities(sequences, &head, &tile, dropout, scores, dropped, halves);
                    dropped
                }
            };
            let out = sequences.query_matrix_mut(&head, &tile, context);
            let weights = tile.scores(&head, weights);
            multiply(out, Into::Assign, 1.0, weights, values.rows(tile.keys));
        }
    });
}

/// Turns a tile's scores into probabilities, 0 where a query does not see a key.
fn score_probabilities(sequences: &Sequences, head: &Head, tile: &Tile, scores: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (row, query) in scores.chunks_exact_mut(head.row_stride()).zip(tile.first..) {
                let seen = sequences.visible(head, query);
                let (row, unseen) = row[..row_len(tile.keys)].split_at_mut(row_len(seen));
                row[seen..].fill(f32::NEG_INFINITY);
                softmax(row);
                // A probability of 0 takes no part in anything that backward does.
                row[seen..].fill(0.0);
                unseen.fill(0.0);
            }
        },
    );
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let top = max(row);
    for x in row.iter_mut() {
        *x = exp(*x - top);
    }
    let inverse = 1.0 / sum(row);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// Marks the probabilities that are dropped by their sign and writes the rest, scaled, to `dropped`.
fn drop_probabilities(
    sequences: &Sequences,
    head: &Head,
    tile: &Tile,
    dropout: &AttentionDropout,
    scores: &mut [f32],
    dropped: &mut [f32],
    halves: &mut Vec<u16>,
) {
    vectorized(
        #[inline(always)]
        || {
            let (rate, keys) = (dropout.rate, row_len(tile.keys));
            let rows = scores
                .chunks_exact_mut(head.row_stride())
                .zip(dropped.chunks_exact_mut(head.row_stride()));
            for ((row, dropped), query) in rows.zip(tile.first..) {
                let position = sequences.position(head, query) as u32;
                dropout.row(sequences.sequence_head(head, query), position, keys, halves);
                let (row, dropped) = (&mut row[..keys], &mut dropped[..keys]);
                for ((p, out), &half) in row.iter_mut().zip(dropped).zip(&*halves) {
                    let factor = rate.factor(half);
                    *out = *p * factor;
                    *p = if factor == 0.0 { -*p } else { *p };
                }
            }
        },
    );
}

/// Absorbed: what the weights of each query add up to, `[Tq, H]`, which is not always 1 where some are dropped.
pub fn weight_sums(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    probabilities: &[f32],
) -> Vec<f32> {
    assert!(sequences.absorbed, "heads would write the same sums");
    let mut sums = vec![1.0; sequences.query_count() * sequences.heads];
    let Some(dropout) = dropout else { return sums };
    let survivor_scale = dropout.rate.scale;
    let weight = move |p: f32| larger(p, 0.0) * survivor_scale;
    sequences.for_each_head(|head| {
        if head.queries == 0 {
            return;
        }
        let rows = probabilities[head.probability..].chunks_exact(head.row_stride());
        vectorized(
            #[inline(always)]
            || {
                let sums = sums[head.query..][..head.queries].iter_mut();
                for ((sum, row), query) in sums.zip(rows).zip(0..) {
                    let seen = &row[..sequences.visible(&head, query)];
                    *sum = sum_pairs(seen, seen, |p, _| weight(p));
                }
            },
        );
    });
    sums
}

/// Writes `d_q [Tq, D]` and `d_kv [T, 2D]` from the context's gradient and what forward kept.
///
/// With w the dropped weights: dv = wᵀ dc, dw = dc vᵀ, ds = p (dp - Σ w dw) row by row, dq = ds k / √K,
/// dk = dsᵀ q / √K. The sum equals c · dc, but taken over the very dw it is subtracted from, it cancels
/// without error where one weight is nearly 1.
///
/// Absorbed, all are as in [`forward`], and `d_sums [Tq, H]` is the gradient of [`weight_sums`], which is added to dw.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    q: &[f32],
    kv: &[f32],
    probabilities: &[f32],
    d_context: &[f32],
    d_sums: Option<&[f32]>,
    scratch: &mut Scratch,
    d_q: &mut [f32],
    d_kv: &mut [f32],
) {
    let scale = sequences.scale();
    let survivor_scale = dropout.map_or(1.0, |dropout| dropout.rate.scale);
    let Scratch { dropped, d_scores, .. } = scratch;
    sequences.for_each_head(|head| {
        if head.queries == 0 {
            zero_keys(sequences, &head, 0, d_kv);
            return;
        }
        let values = sequences.key_matrix(&head, kv, 1).t();
        let values = Right::new(values, &mut scratch.values);
        let keys = Right::new(sequences.key_matrix(&head, kv, 0), &mut scratch.keys);
        let mut into = Into::Assign;
        // The last tile first: it sees all keys that any does.
        for tile in sequences.tiles(&head).rev() {
            if into == Into::Assign {
                zero_keys(sequences, &head, tile.keys, d_kv);
            }
            let probabilities = &probabilities[tile.elements(&head)];
            dropped.resize(probabilities.len(), 0.0);
            d_scores.resize(probabilities.len(), 0.0);
            let d_out = sequences.query_matrix(&head, &tile, d_context);
            if let Some(d_sums) = d_sums {
                let d_sums = &d_sums[head.query + tile.first..];
                let rows = d_scores.chunks_exact_mut(head.row_stride()).zip(d_sums);
                rows.for_each(|(row, &d_sum)| row.fill(d_sum));
            }
            let into_scores = if d_sums.is_some() { Into::Add } else { Into::Assign };
            multiply(tile.scores_mut(&head, d_scores), into_scores, 1.0, d_out, values);
            score_gradients(&head, &tile, survivor_scale, probabilities, dropped, d_scores);
            let (weights, d_scores) = (tile.scores(&head, dropped), tile.scores(&head, d_scores));
            let d_queries = sequences.query_matrix_mut(&head, &tile, d_q);
            multiply(d_queries, Into::Assign, scale, d_scores, keys.rows(tile.keys));
            let d_out = Right::new(d_out, &mut scratch.d_context);
            let d_values = sequences.key_matrix_mut(&head, &tile, d_kv, 1);
            multiply(d_values, into, 1.0, weights.t(), d_out);
            let queries = sequences.query_matrix(&head, &tile, q);
            let queries = Right::new(queries, &mut scratch.queries);
            // Absorbed, the keys are the values, which have their gradient already.
            let into_keys = if sequences.absorbed { Into::Add } else { into };
            let d_keys = sequences.key_matrix_mut(&head, &tile, d_kv, 0);
            multiply(d_keys, into_keys, scale, d_scores.t(), queries);
            into = Into::Add;
        }
    });
}

/// No gradient for the keys and values of a head from `first` on, which no query sees.
fn zero_keys(sequences: &Sequences, head: &Head, first: usize, d_kv: &mut [f32]) {
    for key in head.key + first..head.key + head.keys {
        for part in 0..sequences.parts() {
            let first = sequences.key_start(head, key, part);
            d_kv[first..first + sequences.channels()].fill(0.0);
        }
    }
}

/// Replaces a tile's dw in `d_scores` by ds and fills its `weights` with w.
fn score_gradients(
    head: &Head,
    tile: &Tile,
    survivor_scale: f32,
    probabilities: &[f32],
    weights: &mut [f32],
    d_scores: &mut [f32],
) {
    // By the sign's bits, and without a reference to the scale: the compiler then neither branches nor loads.
    let kept = survivor_scale.to_bits();
    let factor = move |p: f32| f32::from_bits(kept & !((p.to_bits() as i32 >> 31) as u32));
    let (keys, row_stride) = (row_len(tile.keys), head.row_stride());
    vectorized(
        #[inline(always)]
        || {
            let rows = probabilities
                .chunks_exact(row_stride)
                .zip(weights.chunks_exact_mut(row_stride))
                .zip(d_scores.chunks_exact_mut(row_stride));
            for ((probabilities, weights), d_scores) in rows {
                let (weights, d_scores) = (&mut weights[..keys], &mut d_scores[..keys]);
                for (weight, &p) in weights.iter_mut().zip(probabilities) {
                    *weight = p * factor(p);
                }
                let delta = dot(weights, d_scores);
                for (d, &p) in d_scores.iter_mut().zip(probabilities) {
                    *d = p.abs() * (*d * factor(p) - delta);
                }
            }
        },
    );
}
