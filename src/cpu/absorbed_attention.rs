//! Attention of the last layer where nothing is to be learnt from it: the same context as by [`super::qkv`] and
//! [`super::attention`], without keys and values.
//!
//! There, few rows are read, as a rule one a sequence. With k_j = Wk x_j + bk, a score q · k_j is (Wkᵀ q) · x_j plus what
//! is the same for all keys and falls out of the softmax; and since probabilities add up to 1, Σ p_j v_j is
//! Wv (Σ p_j x_j) + bv. So each head takes 4 D FLOPs a token and row in place of 4 D² / H a token for its keys and values
//! (the matrices are absorbed into queries and outputs, as DeepSeek-V2, 2024, does with its latent keys).

use super::attention::{Sequences, softmax};
use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::linear::{self, Linear};
use super::vector::{add_scaled, dot, vectorized};
use std::ops::Range;

/// Queries worked on at a time, so that what is `H` times as wide as they does not grow with their number.
const BLOCK: usize = 64;

/// Elements of a block's buffers, for `heads` heads in `width` channels.
pub(super) fn scratch_len(width: u128, heads: u128) -> u128 {
    BLOCK as u128 * width * 2 * heads
}

/// Queries, and buffers of a block of them.
#[derive(Default)]
pub struct Scratch {
    /// `[Tq, D]` q
    queries: Vec<f32>,
    /// `[queries, H, D]` Wkᵀ q / √K
    absorbed: Vec<f32>,
    /// `[queries, H, D]` Σ p x
    means: Vec<f32>,
    /// Probabilities of a head's keys.
    probabilities: Vec<f32>,
    /// `[Tq, D]` the input's rows.
    gathered: Vec<f32>,
}

/// Writes `context [Tq, D]` from the layer's `input [T, D]`, normed where norms stand before the sublayers.
pub fn forward(
    sequences: &Sequences,
    query: &Linear,
    key_value: &Linear,
    input: &[f32],
    scratch: &mut Scratch,
    context: &mut [f32],
) {
    let (d, heads) = (sequences.width, sequences.heads);
    let (k, rows) = (d / heads, context.len() / d);
    let keys_of = keys_of_queries(sequences, rows);
    let Scratch { queries, absorbed, means, probabilities, gathered } = scratch;
    queries.resize(rows * d, 0.0);
    linear::forward(query, rows, sequences.rows.gather(input, d, gathered), queries);
    for first in (0..rows).step_by(BLOCK) {
        let block = first..(first + BLOCK).min(rows);
        let count = block.len();
        absorbed.resize(count * heads * d, 0.0);
        for head in 0..heads {
            let out = MatrixMut::strided(&mut absorbed[head * d..], count, d, heads * d);
            let of_head = Matrix::strided(&queries[first * d + head * k..], count, k, d);
            let weight = Matrix::new(&key_value.weight[head * k * d..][..k * d], k, d);
            multiply(out, Into::Assign, 1.0 / (k as f32).sqrt(), of_head, weight);
        }
        means.clear();
        means.resize(count * heads * d, 0.0);
        let of_heads = absorbed.chunks_exact(heads * d).zip(means.chunks_exact_mut(heads * d));
        for (keys, (absorbed, means)) in keys_of[block.clone()].iter().zip(of_heads) {
            let seen = &input[keys.start * d..keys.end * d];
            for (absorbed, mean) in absorbed.chunks_exact(d).zip(means.chunks_exact_mut(d)) {
                weighted_mean(absorbed, seen, probabilities, mean);
            }
        }
        let context = &mut context[block.start * d..block.end * d];
        let (weight, bias) = (&key_value.weight[d * d..], &key_value.bias[d..]);
        context.chunks_exact_mut(d).for_each(|row| row.copy_from_slice(bias));
        for head in 0..heads {
            let out = MatrixMut::strided(&mut context[head * k..], count, k, d);
            let of_head = Matrix::strided(&means[head * d..], count, d, heads * d);
            let weight = Matrix::new(&weight[head * k * d..][..k * d], k, d);
            multiply(out, Into::Add, 1.0, of_head, weight.t());
        }
    }
}

/// The tokens that each query sees, within the lane.
fn keys_of_queries(sequences: &Sequences, rows: usize) -> Vec<Range<usize>> {
    let mut all = Vec::with_capacity(rows);
    let bounds = sequences.cu_seqlens.windows(2).zip(sequences.cu_queries.windows(2));
    for (keys, queries) in bounds {
        for query in queries[0]..queries[1] {
            let (first, end) = (keys[0] as usize, keys[1] as usize);
            all.push(first..first + sequences.seen_by(query as usize, first, end - first));
        }
    }
    all
}

/// Adds to `mean [D]` the rows of `seen [keys, D]`, weighted by the softmax of their products with `query [D]`.
fn weighted_mean(query: &[f32], seen: &[f32], probabilities: &mut Vec<f32>, mean: &mut [f32]) {
    let d = query.len();
    probabilities.resize(seen.len() / d, 0.0);
    vectorized(
        #[inline(always)]
        || {
            for (score, key) in probabilities.iter_mut().zip(seen.chunks_exact(d)) {
                *score = dot(query, key);
            }
            softmax(probabilities);
            for (&probability, key) in probabilities.iter().zip(seen.chunks_exact(d)) {
                add_scaled(mean, probability, key);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::lane::Rows;
    use crate::cpu::{attention, qkv};

    /// More queries than a block has, several and none in a sequence, sequences of one token.
    #[test]
    fn contexts_are_those_of_keys_and_values() {
        let numbers = |count: usize, by: usize| -> Vec<f32> {
            (0..count).map(|i| (i * by % 1009) as f32 / 504.5 - 1.0).collect()
        };
        let (heads, d) = (3, 24);
        let lengths: Vec<u32> = (0..50).map(|i| 1 + i * 7 % 23).collect();
        let (mut cu_seqlens, mut cu_queries, mut rows) = (vec![0], vec![0], Vec::new());
        for &length in &lengths {
            let first = cu_seqlens[cu_seqlens.len() - 1];
            rows.extend((0..length).filter(|place| place % 4 == 1).map(|place| first + place));
            cu_seqlens.push(first + length);
            cu_queries.push(rows.len() as u32);
        }
        assert!(rows.len() > BLOCK);
        let input = numbers(cu_seqlens[lengths.len()] as usize * d, 37);
        let weights =
            [numbers(d * d, 53), numbers(d, 59), numbers(2 * d * d, 61), numbers(2 * d, 67)];
        let query = Linear { weight: &weights[0], bias: &weights[1] };
        let key_value = Linear { weight: &weights[2], bias: &weights[3] };
        for causal in [false, true] {
            let rows = Rows::Selected(&rows);
            let (cu_seqlens, cu_queries) = (&cu_seqlens[..], &cu_queries[..]);
            let sequences =
                Sequences { cu_seqlens, cu_queries, rows, first: 0, heads, width: d, causal };
            let tokens = input.len() / d;
            let queries = rows.count(tokens);
            let (mut q, mut kv) = (vec![0.0; queries * d], vec![0.0; tokens * 2 * d]);
            qkv::forward(&query, &key_value, rows, &input, &mut Vec::new(), &mut q, &mut kv);
            let mut expected = vec![0.0; queries * d];
            let mut probabilities = vec![0.0; sequences.probability_count()];
            let mut scratch = attention::Scratch::default();
            let out = &mut expected[..];
            attention::forward(&sequences, None, &q, &kv, &mut scratch, &mut probabilities, out);
            let mut found = vec![f32::NAN; queries * d];
            let mut scratch = Scratch::default();
            forward(&sequences, &query, &key_value, &input, &mut scratch, &mut found);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() < 2e-5,
                    "causal {causal}, {index}: {found}, {expected}"
                );
            }
        }
    }
}
