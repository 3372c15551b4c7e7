//! Generalised binary cross-entropy at the `P` rows (gBCE: Petrov and Macdonald, "gSASRec: reducing overconfidence in
//! sequential recommendation trained with negative sampling", RecSys 2023).
//!
//! A row with target y and m negatives N, which its target is left out of, has the loss
//! `(β softplus(-s_y) + Σ softplus(s_j)) / (m + 1)`, s the logits, softplus(x) = log(1 + eˣ): minus the logarithms of
//! σ(s_y)^β and 1 - σ(s_j). With α = m / (V - 1), the share of all possible negatives, and t from 0 (plain binary
//! cross-entropy) to 1 (probabilities as without sampling), β = α (t (1 - 1/α) + 1/α) = 1 - t (1 - α).
//!
//! The gradient of a logit is its own sigmoid, so tiles hold σ(s_j) with one factor a row, 1 / ((m + 1) P), and
//! [`super::item_softmax`] makes the gradients of table and rows of them, as it does for the softmax.

use super::item_softmax::Problem;
use super::math::exp;
use super::tiles::EVEN_COLUMNS;
use super::vector::vectorized;
use std::ops::Range;

/// Which items of a [`Problem`] are negatives, and how targets weigh.
#[derive(Clone, Copy)]
pub struct Negatives<'a> {
    /// `[C]` 1 for negatives, 0 for items that are targets alone.
    pub sampled: &'a [f32],
    /// How many there are, `n`.
    pub drawn: usize,
    /// `V`, of which the sample was drawn.
    pub catalogue: usize,
    /// Calibration, t.
    pub calibration: f64,
}

impl Negatives<'_> {
    /// Of a row whose target stands at `target`, from 0.
    fn of_row(&self, target: usize) -> Weighting {
        let negatives = self.drawn as f64 - f64::from(self.sampled[target]);
        Weighting::new(negatives, self.catalogue, self.calibration)
    }
}

/// What the sums of a row's loss are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Weighting {
    /// 1 / (m + 1), of the loss as a whole.
    pub weight: f64,
    /// β, of the target.
    pub beta: f64,
}

impl Weighting {
    /// Of a row with `negatives` negatives out of `catalogue` items, at calibration t.
    pub fn new(negatives: f64, catalogue: usize, calibration: f64) -> Self {
        let share = negatives / (catalogue.max(2) - 1) as f64;
        Weighting { weight: 1.0 / (negatives + 1.0), beta: 1.0 - calibration * (1.0 - share) }
    }
}

/// log(1 + eˣ)
fn softplus(x: f32) -> f64 {
    f64::from(x).max(0.0) + f64::from(-x.abs()).exp().ln_1p()
}

/// Turns a tile's products `[items, columns]` into σ(logit), 0 where an item is not a negative of the row, and writes
/// each column's sum of softplus(logit) over its negatives.
pub fn sigmoids(
    problem: &Problem,
    negatives: &Negatives,
    rows: &Range<usize>,
    items: &Range<usize>,
    tile: &mut [f32],
    sums: &mut [f32],
) {
    let columns = sums.len();
    let listed = problem.bias[items.clone()].iter().zip(&negatives.sampled[items.clone()]);
    let targets = &problem.targets[rows.clone()];
    vectorized(
        #[inline(always)]
        || {
            for (row, (&bias, &sampled)) in tile.chunks_exact_mut(columns).zip(listed) {
                match sampled > 0.0 {
                    true => row.iter_mut().for_each(|x| *x += bias),
                    false => row.fill(f32::NEG_INFINITY),
                }
            }
            for (column, &target) in targets.iter().enumerate() {
                let own = (target as usize - 1).wrapping_sub(items.start);
                if own < items.len() {
                    tile[own * columns + column] = f32::NEG_INFINITY;
                }
            }
            for (strip, sums) in sums.as_chunks_mut::<EVEN_COLUMNS>().0.iter_mut().enumerate() {
                *sums = sigmoids_of_strip(tile[strip * EVEN_COLUMNS..].chunks_mut(columns));
            }
        },
    );
}

/// Replaces logits by their sigmoids, of negative infinity by 0, in the first [`EVEN_COLUMNS`] columns of `rows`; returns the
/// columns' sums of softplus. The logarithms of a sum are one: that of the product of all 1 + e^-|x|, which f64 holds
/// for up to 1,000 items.
#[inline(always)]
fn sigmoids_of_strip<'a>(rows: impl Iterator<Item = &'a mut [f32]>) -> [f32; EVEN_COLUMNS] {
    let (mut sums, mut products) = ([0.0f64; EVEN_COLUMNS], [1.0f64; EVEN_COLUMNS]);
    for row in rows {
        for ((x, sum), product) in row[..EVEN_COLUMNS].iter_mut().zip(&mut sums).zip(&mut products)
        {
            let small = exp(-x.abs());
            *sum += f64::from(if *x > 0.0 { *x } else { 0.0 });
            *product *= 1.0 + f64::from(small);
            let sigmoid = (if *x > 0.0 { 1.0 } else { small }) / (1.0 + small);
            *x = if *x == f32::NEG_INFINITY { 0.0 } else { sigmoid };
        }
    }
    std::array::from_fn(|column| (sums[column] + products[column].ln()) as f32)
}

/// From the sums of one row block's tiles to its rows' losses, of which it returns the sum. Writes how much each
/// row pulls at its target (minus the gradient of that logit), and the factor of its tiles into all of `factors`.
pub fn combine(
    problem: &Problem,
    negatives: &Negatives,
    tile_rows: usize,
    rows: Range<usize>,
    factors: &mut [f32],
    sums: &[f32],
    pulls: &mut [f32],
) -> f64 {
    let mut loss = 0.0;
    vectorized(
        #[inline(always)]
        || {
            for ((local, row), pull) in rows.enumerate().zip(pulls) {
                let logit = problem.target_logit(row);
                let Weighting { weight, beta } =
                    negatives.of_row(problem.targets[row] as usize - 1);
                let entries = (local..sums.len()).step_by(tile_rows);
                let of_negatives: f64 = entries.clone().map(|i| f64::from(sums[i])).sum();
                loss += weight * (beta * softplus(-logit) + of_negatives);
                let scale = weight * f64::from(problem.weight());
                entries.for_each(|i| factors[i] = scale as f32);
                *pull = (scale * beta / (1.0 + f64::from(logit).exp())) as f32;
            }
        },
    );
    loss
}
