//! What a user should compare a model with: recommenders that count and learn nothing.
//!
//! - **popularity**: how often an item occurs in the training interactions;
//! - **markov**: how often an item followed the history's last item in training; items that never did come
//!   after those that did. Popularity decides between equals.
//!
//! Both rank a row's target as an engine does: the same rows, the same items left out, ties against the
//! target. A rank costs the number of successors of one item, not `V`, and memory is what the data has:
//! 8 bytes for each distinct pair of successive items.

mod evaluate;
mod transitions;

use crate::Result;
use crate::batch::Batch;
use crate::data::{Sequences, Split};
use crate::eval::FILTERED;
use crate::model::engine::Ranker;
use std::cmp::Reverse;
use transitions::Transitions;

pub use evaluate::{Evaluation, evaluate};

/// A recommender that counts.
#[derive(Debug)]
pub struct Baseline {
    /// Name in results.
    pub name: &'static str,
    /// `[V + 1]` training interactions of each item, from 1.
    popularity: Vec<u32>,
    /// `[V]` items by falling count, then by index.
    by_count: Vec<u32>,
    transitions: Option<Transitions>,
}

/// What orders items: how often it followed the last item, then how often it occurs.
type Key = (u32, u32);

impl Baseline {
    /// Ranks by the number of training interactions.
    pub fn popularity(sequences: &Sequences, split: &Split, items: usize) -> Self {
        let mut popularity = vec![0; items + 1];
        for history in training(sequences, split) {
            history.iter().for_each(|&item| popularity[item as usize] += 1);
        }
        let mut by_count: Vec<u32> = (1..=items as u32).collect();
        by_count.sort_by_key(|&item| Reverse(popularity[item as usize]));
        Baseline { name: "popularity", popularity, by_count, transitions: None }
    }

    /// Ranks by what followed the last item in training.
    pub fn markov(sequences: &Sequences, split: &Split, items: usize) -> Self {
        let transitions = Transitions::count(|| training(sequences, split), items);
        let popularity = Self::popularity(sequences, split, items);
        Baseline { name: "markov", transitions: Some(transitions), ..popularity }
    }

    /// All of them, in the order of the result table.
    pub fn all(sequences: &Sequences, split: &Split, items: usize) -> [Self; 2] {
        [Self::popularity(sequences, split, items), Self::markov(sequences, split, items)]
    }

    /// Orders `item` among all items after a history that ends with `last` (0: with none): more is better,
    /// and equal keys are ties.
    pub fn key(&self, last: u32, item: u32) -> Key {
        let transitions = self.transitions.as_ref();
        let followed = transitions.map_or(0, |transitions| transitions.get(last, item));
        (followed, self.popularity[item as usize])
    }

    /// Rank of `target`, from 1, after `last`, among all items but those of `seen`; [`FILTERED`] where it is
    /// one of these.
    pub fn rank_after(&self, last: u32, target: u32, seen: &[u32]) -> u32 {
        if seen.binary_search(&target).is_ok() {
            return FILTERED;
        }
        let bar = self.key(last, target);
        let seen = seen.iter().filter(|&&item| self.key(last, item) >= bar).count();
        // The target itself is among those that are no worse, which makes the rank count from 1.
        (self.no_worse(last, bar) - seen) as u32
    }

    /// A score for `item` after `last` that orders items as [`Self::key`] does and is as equal: whole numbers,
    /// exact up to 16 million items.
    pub fn score_after(&self, last: u32, item: u32) -> f32 {
        let worse = self.by_count.len() - self.no_worse(last, self.key(last, item));
        worse as f32
    }

    /// The `k` best items after `last` that are not in `seen` (ascending), best first, equals by index.
    pub fn best(&self, last: u32, seen: &[u32], k: usize) -> Vec<u32> {
        let free = |item: &u32| seen.binary_search(item).is_err();
        let next = self.transitions.as_ref().map_or(&[][..], |transitions| transitions.after(last));
        let mut followed: Vec<u32> = next.iter().map(|next| next.item).filter(free).collect();
        followed.sort_by_key(|&item| (Reverse(self.key(last, item)), item));
        let others = self.by_count.iter().copied().filter(free);
        let others = others.filter(|&item| self.key(last, item).0 == 0);
        followed.into_iter().chain(others).take(k).collect()
    }

    /// How many of all items have a key of at least `bar`.
    fn no_worse(&self, last: u32, bar: Key) -> usize {
        let popular = |count: u32| {
            self.by_count.partition_point(|&item| self.popularity[item as usize] >= count)
        };
        let Some(transitions) = &self.transitions else { return popular(bar.1) };
        let keys = transitions.after(last).iter();
        let keys = keys.map(|next| (next.count, self.popularity[next.item as usize]));
        match bar.0 {
            // All that ever followed, and of the others those that are as popular.
            0 => popular(bar.1) + keys.filter(|&(_, popularity)| popularity < bar.1).count(),
            _ => keys.filter(|&key| key >= bar).count(),
        }
    }
}

impl Baseline {
    /// The last item of each row's history (0: none), and its target.
    fn rows(&self, batch: &Batch) -> Vec<(u32, u32)> {
        let mask = self.popularity.len() as u32;
        let mut found = Vec::with_capacity(batch.row_count());
        for (ends, rows) in batch.cu_seqlens.windows(2).zip(batch.cu_rows.windows(2)) {
            for row in rows[0] as usize..rows[1] as usize {
                let history = &batch.ids[ends[0] as usize..=batch.rows[row] as usize];
                let last = history.iter().rev().find(|&&item| item != mask).copied().unwrap_or(0);
                found.push((last, batch.targets[row]));
            }
        }
        found
    }
}

impl Ranker for Baseline {
    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        let rows = self.rows(batch).into_iter().zip(seen);
        Ok(rows.map(|((last, target), seen)| self.rank_after(last, target, seen)).collect())
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        let rows = self.rows(batch).into_iter().zip(items);
        let scores =
            rows.flat_map(|((last, _), items)| items.iter().map(move |&item| (last, item)));
        Ok(scores.map(|(last, item)| self.score_after(last, item)).collect())
    }

    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        let rows = self.rows(batch).into_iter().zip(seen);
        Ok(rows.map(|((last, _), seen)| self.best(last, seen, k)).collect())
    }
}

/// The part of each history that trains.
fn training<'a>(sequences: &'a Sequences, split: &'a Split) -> impl Iterator<Item = &'a [u32]> {
    let lengths = split.train_lengths.iter().enumerate();
    lengths.map(|(user, &length)| &sequences.get(user)[..length as usize])
}
