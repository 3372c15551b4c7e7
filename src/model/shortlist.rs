//! The items that one training step looks at where its loss does not look at all of them: the targets of its
//! rows and a sample of the catalogue, the same for all rows.

use crate::batch::{Batch, Segments};
use crate::philox::{self, Stream};

/// `C` items, ascending, and the rows' targets among them.
#[derive(Clone, Debug, Default)]
pub struct Shortlist {
    /// `[C]` item indices, from 1.
    pub items: Vec<u32>,
    /// `[C]` 1 for items of the sample, 0 for those that are here only as targets.
    pub sampled: Vec<f32>,
    /// Items of the sample, `n`.
    pub drawn: usize,
    /// `[P]` place of each row's target among `items`, from 1.
    pub targets: Vec<u32>,
    /// Rows by the place of their target.
    pub target_segments: Segments,
    /// `[V]` which items the sample has, while it is drawn.
    taken: Vec<bool>,
}

impl Shortlist {
    /// Replaces the list by that of `batch` in step `step`: its targets, and `count` of the `catalogue` items
    /// (all of them, where there are no more), every such sample equally likely.
    pub fn draw(&mut self, batch: &Batch, catalogue: usize, count: usize, seed: u64, step: u64) {
        self.taken.resize(catalogue, false);
        self.items.clear();
        sample(&mut self.taken, &mut self.items, count.min(catalogue), seed, step);
        self.drawn = self.items.len();
        let targets = &batch.target_segments;
        self.items.extend(targets.keys.iter().filter(|&&key| !self.taken[key as usize - 1]));
        self.items.sort_unstable();
        self.sampled.clear();
        self.sampled.extend(self.items.iter().map(|&item| {
            let taken = std::mem::take(&mut self.taken[item as usize - 1]);
            f32::from(u8::from(taken))
        }));
        self.place_targets(targets, batch.row_count());
    }

    /// Targets and their segments, with places in this list in place of items.
    fn place_targets(&mut self, targets: &Segments, rows: usize) {
        let Segments { keys, offsets, indices } = &mut self.target_segments;
        keys.clear();
        keys.extend(
            targets.keys.iter().map(|key| self.items.partition_point(|item| item <= key) as u32),
        );
        offsets.clone_from(&targets.offsets);
        indices.clone_from(&targets.indices);
        self.targets.resize(rows, 0);
        for (key, ends) in keys.iter().zip(offsets.windows(2)) {
            for &row in &indices[ends[0] as usize..ends[1] as usize] {
                self.targets[row as usize] = *key;
            }
        }
    }

    /// What is added to the logits of items that are not targets, for the sum over the list to estimate that
    /// over the catalogue: the logarithm of how many such items each of them stands for.
    pub fn correction(&self, catalogue: usize) -> f32 {
        let others = catalogue - self.target_segments.keys.len();
        let present = self.items.len() - self.target_segments.keys.len();
        // Without any there is nothing to add to.
        (others.max(1) as f64 / present.max(1) as f64).ln() as f32
    }
}

/// Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 1987): as many draws as items.
fn sample(taken: &mut [bool], items: &mut Vec<u32>, count: usize, seed: u64, step: u64) {
    let key = philox::key(seed);
    let first = (taken.len() - count) as u32;
    let mut words = [0; 4];
    for (draw, last) in (0u32..).zip(first..taken.len() as u32) {
        if draw % 4 == 0 {
            let word = Stream::TrainingNegatives.word(0);
            words = philox::block(key, [draw / 4, 0, step as u32, word]);
        }
        // Uniform in 0..=last, but for 2⁻³² of it.
        let drawn = (u64::from(words[draw as usize % 4]) * (u64::from(last) + 1)) >> 32;
        let chosen = if taken[drawn as usize] { last } else { drawn as u32 };
        taken[chosen as usize] = true;
        items.push(chosen + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::segments::Scratch;

    fn batch(targets: &[u32]) -> Batch {
        let mut batch = Batch { targets: targets.to_vec(), ..Batch::default() };
        batch.rows = (0..targets.len() as u32).collect();
        batch.target_segments.group(targets, 1 << 20, &mut Scratch::default());
        batch
    }

    #[test]
    fn holds_targets_and_a_sample_without_repetition() {
        let batch = batch(&[7, 3, 7, 100, 1]);
        let mut list = Shortlist::default();
        for step in 1..50 {
            list.draw(&batch, 100, 20, 5, step);
            assert!(list.items.is_sorted_by(|a, b| a < b), "{:?}", list.items);
            assert!(list.items.iter().all(|item| (1..=100).contains(item)));
            assert_eq!(list.sampled.iter().sum::<f32>(), 20.0);
            assert_eq!(list.drawn, 20);
            for (row, &target) in batch.targets.iter().enumerate() {
                assert_eq!(list.items[list.targets[row] as usize - 1], target);
            }
            let outside = list.items.len() - 4;
            assert_eq!(list.correction(100), (96.0 / outside as f64).ln() as f32);
        }
        let mut all = Shortlist::default();
        all.draw(&batch, 100, 1000, 5, 1);
        assert_eq!((all.items.len(), all.drawn), (100, 100));
        assert_eq!(all.correction(100), 0.0);
    }

    /// Over many steps each item comes up as often as any other, and each pair too.
    #[test]
    fn every_sample_is_equally_likely() {
        let batch = batch(&[1]);
        let (catalogue, count, steps) = (10, 4, 20_000);
        let mut list = Shortlist::default();
        let mut pairs = [[0u32; 11]; 11];
        for step in 0..steps {
            list.draw(&batch, catalogue, count, 9, step);
            let sampled = list.items.iter().zip(&list.sampled).filter(|(_, in_it)| **in_it > 0.0);
            let sampled: Vec<usize> = sampled.map(|(&item, _)| item as usize).collect();
            for &a in &sampled {
                for &b in &sampled {
                    pairs[a][b] += 1;
                }
            }
        }
        for (a, row) in pairs.iter().enumerate().skip(1) {
            for (b, &count) in row.iter().enumerate().skip(1) {
                let chance = if a == b { 4.0 / 10.0 } else { 4.0 * 3.0 / (10.0 * 9.0) };
                let expected: f64 = chance * steps as f64;
                let error = (f64::from(count) - expected) / expected.sqrt();
                assert!(error.abs() < 4.5, "{a}, {b}: {count} of {expected}");
            }
        }
    }

    #[test]
    fn other_steps_and_seeds_draw_others() {
        let batch = batch(&[1]);
        let drawn = |seed, step| {
            let mut list = Shortlist::default();
            list.draw(&batch, 1000, 20, seed, step);
            list.items
        };
        assert_eq!(drawn(1, 1), drawn(1, 1));
        assert_ne!(drawn(1, 1), drawn(1, 2));
        assert_ne!(drawn(1, 1), drawn(2, 1));
    }
}
