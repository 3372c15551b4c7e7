//! Negatives: what a target is ranked among where not all items are.
//!
//! Drawn once, before training, by address (seed, user, position), so that every evaluation of a run and of
//! its continuation sees the same, whatever the threads.

use crate::config::{EvalUnit, Mode, Negatives};
use crate::data::{EvalRow, Sequences};
use crate::philox::{self, Stream};
use crate::{Result, memory};

/// Draws for each negative before the rest is chosen from what is left, item by item.
const DRAWS_PER_NEGATIVE: usize = 16;
/// Draws that even a few negatives get.
const LEAST_DRAWS: usize = 64;

/// For each row its target and, after it, its negatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    items: Vec<u32>,
    /// Where each row ends in `items`.
    ends: Vec<usize>,
    /// Whether no negative is of its user's history.
    unseen: bool,
}

impl Candidates {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Target and negatives of a row, the target first.
    pub fn get(&self, row: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        &self.items[start..self.ends[row]]
    }

    /// How many items of a row's list, from the first on, its history may have: the target alone, or all.
    pub fn perhaps_seen(&self, list: &[u32]) -> usize {
        if self.unseen { list.len().min(1) } else { list.len() }
    }

    /// Rows with fewer than `negatives`, because there are no more items to draw.
    pub fn short_rows(&self, negatives: usize) -> usize {
        (0..self.len()).filter(|&row| self.get(row).len() <= negatives).count()
    }
}

/// What negatives are drawn for and from.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Whole histories.
    pub sequences: &'a Sequences,
    /// The rows.
    pub rows: &'a [EvalRow],
    /// `[V]` how often each item occurs, for [`Mode::Popular`].
    pub counts: &'a [u32],
    /// How many, and how.
    pub mode: Mode,
    /// Whose rules: distinct, or RecBole's.
    pub unit: EvalUnit,
    /// Which items distinct ones are drawn from.
    pub negatives: Negatives,
    /// Seed.
    pub seed: u64,
}

/// Draws the negatives of all rows; `None` where all items are ranked.
///
/// [`EvalUnit::Row`]: distinct, none of the user's whole history or only not the target ([`Negatives`]), one after
/// the other with the chances of what is left; fewer where there are no more. [`EvalUnit::RecBole`]: with replacement, anything but the
/// row's own target.
///
/// # Errors
/// [`crate::Error::Memory`].
pub fn draw(draw: &Draw<'_>) -> Result<Option<Candidates>> {
    let Some(number) = draw.mode.negatives() else { return Ok(None) };
    let weights = Weights::new(draw.counts, draw.mode);
    let unseen = draw.unit == EvalUnit::Row && draw.negatives == Negatives::Unseen;
    let mut candidates = Candidates { unseen, ..Candidates::default() };
    // There are no more distinct ones than items.
    let number = match draw.unit {
        EvalUnit::Row => number.min(draw.counts.len()),
        EvalUnit::RecBole => number,
    };
    let wanted = draw.rows.len().saturating_mul(number.saturating_add(1));
    memory::require("the negatives", 4 * wanted as u128, "lower N in eval_args.mode")?;
    let mut drawer = Drawer::new(draw, weights);
    for row in draw.rows {
        candidates.items.push(draw.sequences.get(row.user as usize)[row.position as usize]);
        match draw.unit {
            EvalUnit::Row => drawer.distinct(row, number, &mut candidates.items),
            EvalUnit::RecBole => drawer.repeated(row, number, &mut candidates.items),
        }
        candidates.ends.push(candidates.items.len());
    }
    Ok(Some(candidates))
}

/// The chances of items.
enum Weights<'a> {
    /// All the same.
    Uniform(usize),
    /// In proportion to `counts`; `sums [V + 1]` are their running sums.
    Counts { counts: &'a [u32], sums: Vec<u64> },
}

impl<'a> Weights<'a> {
    fn new(counts: &'a [u32], mode: Mode) -> Self {
        if !matches!(mode, Mode::Popular(_)) {
            return Weights::Uniform(counts.len());
        }
        let mut sums = vec![0; counts.len() + 1];
        for (i, &count) in counts.iter().enumerate() {
            sums[i + 1] = sums[i] + u64::from(count);
        }
        Weights::Counts { counts, sums }
    }

    /// Weight of an item, from 1.
    fn of(&self, item: u32) -> u64 {
        match self {
            Weights::Uniform(_) => 1,
            Weights::Counts { counts, .. } => u64::from(counts[item as usize - 1]),
        }
    }

    /// The sum of the weights of all items before `item`.
    fn before(&self, item: u32) -> u64 {
        match self {
            Weights::Uniform(_) => u64::from(item) - 1,
            Weights::Counts { sums, .. } => sums[item as usize - 1],
        }
    }

    fn total(&self) -> u64 {
        match self {
            Weights::Uniform(items) => *items as u64,
            Weights::Counts { sums, .. } => sums.last().copied().unwrap_or(0),
        }
    }

    /// The item in whose stretch of `0..total` the number lies.
    fn at(&self, place: u64) -> u32 {
        match self {
            Weights::Uniform(_) => place as u32 + 1,
            Weights::Counts { sums, .. } => sums.partition_point(|&sum| sum <= place) as u32,
        }
    }
}

/// Draws row by row, with marks on items that are reused.
struct Drawer<'a> {
    draw: &'a Draw<'a>,
    weights: Weights<'a>,
    /// `[V + 1]` the last user, plus 1, whose history keeps the item from being drawn.
    seen_by: Vec<u32>,
    /// `[V + 1]` the last row, from 1, that has the item: as its target or drawn.
    drawn_for: Vec<u32>,
    rows: u32,
    user: Option<u32>,
}

impl<'a> Drawer<'a> {
    fn new(draw: &'a Draw<'a>, weights: Weights<'a>) -> Self {
        let marks = || vec![0; draw.counts.len() + 1];
        Drawer { draw, weights, seen_by: marks(), drawn_for: marks(), rows: 0, user: None }
    }

    /// 64 bits at an address of the row.
    fn bits(&self, row: &EvalRow, number: u32, low: u32) -> u64 {
        let counter = [number, row.position, row.user, Stream::Negatives.word(low)];
        let words = philox::block(philox::key(self.draw.seed), counter);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    fn distinct(&mut self, row: &EvalRow, number: usize, out: &mut Vec<u32>) {
        self.rows += 1;
        let history = self.draw.sequences.get(row.user as usize);
        self.drawn_for[history[row.position as usize] as usize] = self.rows;
        if self.draw.negatives == Negatives::Unseen && self.user != Some(row.user) {
            self.user = Some(row.user);
            for &item in history {
                self.seen_by[item as usize] = row.user + 1;
            }
        }
        let total = self.weights.total();
        let draws = number.saturating_mul(DRAWS_PER_NEGATIVE).max(LEAST_DRAWS) as u32;
        let mut missing = number;
        for attempt in 0..if total == 0 { 0 } else { draws } {
            if missing == 0 {
                return;
            }
            let item = self.weights.at(below(self.bits(row, attempt, 0), total));
            if self.is_free(row, item) {
                self.drawn_for[item as usize] = self.rows;
                out.push(item);
                missing -= 1;
            }
        }
        self.rest(row, missing, out);
    }

    fn is_free(&self, row: &EvalRow, item: u32) -> bool {
        self.seen_by[item as usize] != row.user + 1 && self.drawn_for[item as usize] != self.rows
    }

    /// The last `missing` negatives, where little is left to hit: each free item waits a time drawn from the
    /// exponential distribution of its weight, and the first ones come, which gives them the same chances.
    fn rest(&self, row: &EvalRow, missing: usize, out: &mut Vec<u32>) {
        if missing == 0 {
            return;
        }
        let items = 1..=self.draw.counts.len() as u32;
        let free = items.filter(|&item| self.is_free(row, item) && self.weights.of(item) > 0);
        let mut waiting: Vec<(f64, u32)> = free
            .map(|item| {
                let unit = philox::unit((self.bits(row, item, 1) >> 32) as u32);
                (-unit.ln() / self.weights.of(item) as f64, item)
            })
            .collect();
        waiting.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        out.extend(waiting.into_iter().take(missing).map(|(_, item)| item));
    }

    fn repeated(&self, row: &EvalRow, number: usize, out: &mut Vec<u32>) {
        let target = self.draw.sequences.get(row.user as usize)[row.position as usize];
        let (own, before) = (self.weights.of(target), self.weights.before(target));
        let others = self.weights.total() - own;
        for attempt in 0..if others == 0 { 0 } else { number as u32 } {
            let place = below(self.bits(row, attempt, 0), others);
            // The target's stretch is stepped over.
            out.push(self.weights.at(if place < before { place } else { place + own }));
        }
    }
}

/// A number below `bound` from 64 uniform bits.
fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}
