//! Rank of each row's target among all items.
//!
//! Products stand item by item, `[V, rows]`: the matrix product then rearranges the few rows and not the table, and an
//! item is compared with the targets of all rows at once.

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

/// Writes `products [V, rows]`: the scores of all rows of `problem`, without the items' bias.
pub fn products(problem: &Problem, products: &mut Vec<f32>) {
    let (d, v) = (problem.width(), problem.items());
    let rows = problem.rows.len() / d;
    products.resize(rows * v, 0.0);
    let h = Matrix::new(problem.rows, rows, d);
    let table = Matrix::new(problem.table, v, d);
    multiply(MatrixMut::new(products, v, rows), Into::Assign, 1.0, table, h.t());
}

/// Writes the rank, from 1, of each row's target, items in the row's list of `seen` (ascending, from 1) left out;
/// `u32::MAX` where the target itself was seen. What does not score less than the target, NaN included, stands
/// before it. `products` is scratch.
pub fn ranks(problem: &Problem, seen: &[&[u32]], products: &mut Vec<f32>, ranks: &mut [u32]) {
    self::products(problem, products);
    let rows = ranks.len();
    let score = |item: u32, row: usize| {
        let item = item as usize - 1;
        products[item * rows + row] + problem.bias[item]
    };
    let bars = problem.targets.iter().enumerate();
    let bars: Vec<f32> = bars.map(|(row, &target)| score(target, row)).collect();
    ranks.fill(0);
    vectorized(
        #[inline(always)]
        || count_below(products, problem.bias, &bars, ranks),
    );
    for (row, (rank, seen)) in ranks.iter_mut().zip(seen).enumerate() {
        let not_below =
            |&&item: &&u32| !matches!(score(item, row).partial_cmp(&bars[row]), Some(Less));
        // The target is not below itself, so the count of the rest, plus one for the rank, needs no correction.
        *rank = match seen.binary_search(&problem.targets[row]) {
            Ok(_) => u32::MAX,
            Err(_) => problem.items() as u32 - *rank - seen.iter().filter(not_below).count() as u32,
        };
    }
}

/// Adds to each row's count how many items score less than its bar.
#[inline(always)]
fn count_below(products: &[f32], bias: &[f32], bars: &[f32], counts: &mut [u32]) {
    for (products, &bias) in products.chunks_exact(bars.len()).zip(bias) {
        for ((count, &product), &bar) in counts.iter_mut().zip(products).zip(bars) {
            *count += u32::from(product + bias < bar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rank of `target` where each item's score is given.
    fn rank(scores: &[f32], target: u32, seen: &[u32]) -> u32 {
        let bias = vec![0.0; scores.len()];
        let problem = Problem { rows: &[1.0], targets: &[target], table: scores, bias: &bias };
        let mut rank = [0];
        ranks(&problem, &[seen], &mut Vec::new(), &mut rank);
        rank[0]
    }

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
