//! The `k` best items of each row, exactly: higher scores first, equal scores by item index.
//!
//! Scores exist only for a tile of [`TILE_ROWS`] rows by [`TILE_ITEMS`] items at a time, whatever `V` is: they and the
//! items' vectors stay in a core's cache, and a matrix product rearranges a vector once for all rows of its tile. A row
//! keeps at most `2k` entries and the score that a further item must exceed.

use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::item_softmax::Problem;
use super::vector::vectorized;
use std::cmp::Ordering;
use std::ops::Range;

/// Most rows of a tile.
pub const TILE_ROWS: usize = 128;
/// Most items of a tile; its scores take 512 KiB.
pub const TILE_ITEMS: usize = 1024;
/// Scores that are compared with the bar in one go.
const LANES: usize = 16;

/// An item, from 1, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Item index.
    pub item: u32,
    /// Its score.
    pub score: f32,
}

/// A score that is no number, or an infinite one: no order can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

/// Higher scores first, then lower items.
fn order(a: &Entry, b: &Entry) -> Ordering {
    b.score.total_cmp(&a.score).then(a.item.cmp(&b.item))
}

/// The best entries of a row.
#[derive(Clone, Debug)]
pub struct Best {
    k: usize,
    /// No item at or below this can be among the best any more.
    bar: f32,
    entries: Vec<Entry>,
}

impl Best {
    /// None yet, of at most `k`.
    pub fn new(k: usize) -> Self {
        Best { k, bar: f32::NEG_INFINITY, entries: Vec::new() }
    }

    /// Takes in the scores of items from `first` on, negative infinity for those that are left out. To be
    /// called in ascending order of items: an item that equals the worst kept one then loses the tie.
    pub fn offer(&mut self, first: u32, scores: &[f32]) {
        for (index, chunk) in scores.chunks(LANES).enumerate() {
            // `|` instead of `any`: no branch within the chunk.
            if !chunk.iter().fold(false, |above, &score| above | (score > self.bar)) {
                continue;
            }
            let first = first + (index * LANES) as u32;
            for (item, &score) in (first..).zip(chunk) {
                if score > self.bar {
                    // Negative zero becomes zero: the two are equal, and the item decides.
                    self.entries.push(Entry { item, score: score + 0.0 });
                    if self.entries.len() >= self.k.saturating_mul(2) {
                        self.shrink();
                    }
                }
            }
        }
    }

    /// Takes in the best of other items, in whatever order.
    pub fn merge(&mut self, other: Best) {
        self.entries.extend(other.entries);
    }

    /// The best entries, best first.
    pub fn into_sorted(mut self) -> Vec<Entry> {
        self.shrink();
        self.entries.sort_unstable_by(order);
        self.entries
    }

    fn shrink(&mut self) {
        if self.k == 0 {
            self.entries.clear();
        } else if self.entries.len() > self.k {
            let (_, worst, _) = self.entries.select_nth_unstable_by(self.k - 1, order);
            self.bar = worst.score;
            self.entries.truncate(self.k);
        }
    }
}

/// The best of `items` (indices into the table, from 0) for each row of `problem`, those in the row's list of
/// `seen` (ascending, from 1) left out, and those whose bias is negative infinity. `scores` is room for a tile's.
///
/// # Errors
/// [`NotFinite`] where another item's score is not finite.
pub fn top_k(
    problem: &Problem,
    items: Range<usize>,
    seen: &[&[u32]],
    k: usize,
    scores: &mut Vec<f32>,
) -> Result<Vec<Best>, NotFinite> {
    let mut best = vec![Best::new(k); seen.len()];
    for start in items.clone().step_by(TILE_ITEMS) {
        let tile = start..(start + TILE_ITEMS).min(items.end);
        scores.resize(seen.len() * tile.len(), 0.0);
        offer_tile(problem, tile, seen, scores, &mut best)?;
    }
    Ok(best)
}

/// Shows each row the scores of a tile's items, for which there is room in `scores`.
fn offer_tile(
    problem: &Problem,
    items: Range<usize>,
    seen: &[&[u32]],
    scores: &mut [f32],
    best: &mut [Best],
) -> Result<(), NotFinite> {
    let (d, rows) = (problem.width(), seen.len());
    let bias = &problem.bias[items.clone()];
    let h = Matrix::new(problem.rows, rows, d);
    let table = Matrix::new(&problem.table[items.start * d..items.end * d], items.len(), d);
    multiply(MatrixMut::new(scores, rows, items.len()), Into::Assign, 1.0, h, table.t());
    for ((scores, seen), best) in scores.chunks_exact_mut(items.len()).zip(seen).zip(best) {
        if !add_bias(scores, bias) {
            return Err(NotFinite);
        }
        let below = |bound: usize| seen.partition_point(|&item| (item as usize) <= bound);
        for &item in &seen[below(items.start)..below(items.end)] {
            scores[item as usize - 1 - items.start] = f32::NEG_INFINITY;
        }
        vectorized(
            #[inline(always)]
            || best.offer(items.start as u32 + 1, scores),
        );
    }
    Ok(())
}

/// Adds `bias`; whether all sums are finite where it is. Elsewhere they become negative infinity.
fn add_bias(scores: &mut [f32], bias: &[f32]) -> bool {
    vectorized(
        #[inline(always)]
        || {
            scores.iter_mut().zip(bias).fold(true, |finite, (score, &bias)| {
                let out = bias == f32::NEG_INFINITY;
                // An overflow or NaN plus negative infinity would not be negative infinity.
                *score = if out { bias } else { *score + bias };
                finite & (score.is_finite() | out)
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(entries: &[Entry]) -> Vec<u32> {
        entries.iter().map(|entry| entry.item).collect()
    }

    #[test]
    fn ties_go_to_the_lower_item_across_parts() {
        let scores = [1.0, 2.0, 2.0, -0.0, 0.0, 2.0, 1.0, f32::NEG_INFINITY];
        for k in 0..10 {
            let mut whole = Best::new(k);
            whole.offer(1, &scores);
            let whole = whole.into_sorted();
            assert_eq!(items(&whole), [2, 3, 6, 1, 7, 4, 5][..k.min(7)], "k {k}");
            // Later parts first.
            let mut merged = Best::new(k);
            for start in [6, 3, 0] {
                let mut part = Best::new(k);
                part.offer(start as u32 + 1, &scores[start..scores.len().min(start + 3)]);
                merged.merge(part);
            }
            assert_eq!(merged.into_sorted(), whole);
        }
    }

    #[test]
    fn scores_that_are_not_finite_are_refused_unless_left_out() {
        let table = [1.0, f32::MAX, f32::NAN];
        let bias = [0.0, 0.0, f32::NEG_INFINITY];
        let best = |rows: &[f32]| {
            let problem = Problem { rows, targets: &[], table: &table, bias: &bias };
            top_k(&problem, 0..3, &[&[]], 2, &mut Vec::new())
                .map(|mut best| items(&best.remove(0).into_sorted()))
        };
        assert_eq!(best(&[1.0]).unwrap(), [2, 1]);
        assert_eq!(best(&[2.0]).unwrap_err(), NotFinite);
        assert_eq!(best(&[f32::NAN]).unwrap_err(), NotFinite);
    }
}
