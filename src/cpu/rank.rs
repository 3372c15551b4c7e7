//! Rank of each row's target among all items.

use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::item_softmax::Problem;
use super::vector::vectorized;
use std::cmp::Ordering::Less;

/// Elements of scores held at once: 16 MiB.
pub const SCORE_ELEMENTS: usize = 4 << 20;
/// Most rows scored at once.
const MOST_ROWS: usize = 32;

/// Rows to score at once for `items` items; depends on nothing else.
pub fn rows_at_once(items: usize) -> usize {
    (SCORE_ELEMENTS / items.max(1)).clamp(1, MOST_ROWS)
}

/// Writes `scores [rows, V]` of all rows of `problem`.
pub fn scores(problem: &Problem, scores: &mut Vec<f32>) {
    let (d, v) = (problem.width(), problem.items());
    let rows = problem.rows.len() / d;
    scores.clear();
    for _ in 0..rows {
        scores.extend_from_slice(problem.bias);
    }
    let h = Matrix::new(problem.rows, rows, d);
    let table = Matrix::new(problem.table, v, d);
    multiply(MatrixMut::new(scores, rows, v), Into::Add, 1.0, h, table.t());
}

/// Rank, from 1, of `target` (from 1) in one row of scores, items in `seen` (ascending, from 1) left out;
/// `u32::MAX` where the target itself was seen. What does not score less than the target, NaN included,
/// stands before it.
pub fn rank(scores: &[f32], target: u32, seen: &[u32]) -> u32 {
    if seen.binary_search(&target).is_ok() {
        return u32::MAX;
    }
    let bar = scores[target as usize - 1];
    let below: u32 = vectorized(
        #[inline(always)]
        || scores.iter().map(|&score| u32::from(score < bar)).sum(),
    );
    let seen_not_below = seen
        .iter()
        .filter(|&&item| !matches!(scores[item as usize - 1].partial_cmp(&bar), Some(Less)));
    // The target is not below itself, so the count of the rest, plus one for the rank, needs no correction.
    scores.len() as u32 - below - seen_not_below.count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_nan_count_against_the_target() {
        let scores = [1.0, 3.0, 2.0, 2.0, f32::NAN, 0.0];
        assert_eq!(rank(&scores, 2, &[]), 2); // NaN alone
        assert_eq!(rank(&scores, 3, &[]), 4); // 3.0, the tie and NaN
        assert_eq!(rank(&scores, 3, &[2, 5]), 2); // the tie
        assert_eq!(rank(&scores, 3, &[3]), u32::MAX);
        assert_eq!(rank(&scores, 5, &[]), 6); // a target that is NaN is last
        assert_eq!(rank(&[0.5], 1, &[]), 1);
    }
}
