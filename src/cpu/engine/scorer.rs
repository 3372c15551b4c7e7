//! The model for answering only: weights, and no gradients or moments.

use super::idle::Idle;
use super::lanes::{Lanes, Network};
use super::{bias_rows, item_rows, thread_pool};
use crate::Result;
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::cpu::item_softmax::Problem;
use crate::cpu::lane::Purpose;
use crate::cpu::rank;
use crate::cpu::top_k::{Best, Entry, NotFinite, TILE_ITEMS, TILE_ROWS, top_k};
use crate::cpu::vector::{dot, vectorized};
use crate::model::engine::not_finite;
use crate::model::params::ParameterTable;
use rayon::prelude::*;
use std::sync::Arc;

/// Tasks to cut the search of the best items into where there are enough items.
const TASKS: usize = 32;
/// Most items of one.
const MOST_SPAN: usize = 64 * TILE_ITEMS;
/// Entries that rows may keep at once before they are merged: 32 MiB.
const ENTRIES: usize = 4 << 20;

/// Weights on the CPU, for any number of callers at once: each takes buffers of its own, and all share the
/// threads.
pub struct Scorer {
    model: ModelConfig,
    table: ParameterTable,
    items: usize,
    parameters: Vec<f32>,
    pool: rayon::ThreadPool,
    /// Buffers that no caller is using.
    idle: Idle<Lanes>,
}

/// Which items may be recommended, apart from what each user has seen.
pub struct Candidates {
    /// `[V]` output bias; negative infinity for items that are left out.
    bias: Arc<[f32]>,
    /// Number of items that are not.
    count: usize,
}

impl Candidates {
    /// `[V]` output bias with negative infinity for items that are left out; `None` where none is.
    pub fn limited(&self) -> Option<Arc<[f32]>> {
        (self.count < self.bias.len()).then(|| self.bias.clone())
    }

    /// Number of items.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether item `item`, from 1, is among them.
    pub fn contains(&self, item: u32) -> bool {
        self.bias[item as usize - 1] != f32::NEG_INFINITY
    }
}

impl Scorer {
    /// A model of `items` items with `parameters` laid out by its [`ParameterTable`]. `threads` 0 takes every
    /// core.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the threads cannot be started.
    pub fn new(
        model: &ModelConfig,
        items: usize,
        parameters: Vec<f32>,
        threads: usize,
    ) -> Result<Self> {
        let table = ParameterTable::new(model, items);
        assert_eq!(table.total, parameters.len(), "weights of another model");
        let (pool, idle) = (thread_pool(threads)?, Idle::default());
        Ok(Scorer { model: model.clone(), table, items, parameters, pool, idle })
    }

    /// The network's sizes and options.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// `[V, D]`: the vector of item `i`, from 1, that a row's output is multiplied by, at row `i - 1`.
    pub fn output_vectors(&self) -> &[f32] {
        let d = self.model.hidden_size;
        &self.parameters[item_rows(&self.table.output_table(), d, self.items)]
    }

    /// `[V]`: what is added to that product.
    pub fn output_bias(&self) -> &[f32] {
        &self.parameters[bias_rows(&self.table)]
    }

    /// All items, or those of `allow`, without those of `deny`; indices from 1 to `V`.
    pub fn candidates(&self, allow: Option<&[u32]>, deny: &[u32]) -> Candidates {
        let own = self.output_bias();
        let mut bias = match allow {
            None => own.to_vec(),
            Some(allow) => {
                let mut bias = vec![f32::NEG_INFINITY; self.items];
                for &item in allow {
                    bias[item as usize - 1] = own[item as usize - 1];
                }
                bias
            }
        };
        for &item in deny {
            bias[item as usize - 1] = f32::NEG_INFINITY;
        }
        let count = bias.iter().filter(|&&bias| bias != f32::NEG_INFINITY).count();
        Candidates { bias: bias.into(), count }
    }

    /// The head's output `[P, D]` at the rows of `batch`.
    pub fn vectors(&self, batch: &Batch) -> Vec<f32> {
        self.with_rows(batch, <[f32]>::to_vec)
    }

    /// The best `k` of `candidates` for each row of `batch`, best first; items in the row's list of `seen`
    /// (ascending) are left out.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a score is not finite.
    pub fn top_k(
        &self,
        batch: &Batch,
        seen: &[&[u32]],
        candidates: &Candidates,
        k: usize,
    ) -> Result<Vec<Vec<Entry>>> {
        self.with_rows(batch, |rows| self.top_k_of_rows(rows, seen, candidates, k))
    }

    /// [`Self::top_k`] for rows `[P, D]` that have been through the network.
    ///
    /// # Errors
    /// As [`Self::top_k`].
    pub fn top_k_of_rows(
        &self,
        rows: &[f32],
        seen: &[&[u32]],
        candidates: &Candidates,
        k: usize,
    ) -> Result<Vec<Vec<Entry>>> {
        let k = k.min(candidates.count);
        let (table, bias) = (self.output_vectors(), &candidates.bias);
        let d = self.model.hidden_size;
        let spans = self.items.div_ceil(span(1, self.items));
        let entries = self.items.min(spans.saturating_mul(2 * k));
        let tiles = (ENTRIES / entries.max(1) / TILE_ROWS).max(1);
        let mut best = Vec::with_capacity(seen.len());
        let groups = rows.chunks(tiles * TILE_ROWS * d).zip(seen.chunks(tiles * TILE_ROWS));
        for (rows, seen) in groups {
            let problem = Problem { rows, targets: &[], table, bias };
            let group = self.pool.install(|| top_k_of(&problem, seen, k));
            best.extend(group.map_err(|NotFinite| not_finite())?);
        }
        Ok(best)
    }

    /// The scores of each row's list of items, from 1.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a score is not finite.
    pub fn score(&self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        self.with_rows(batch, |rows| self.score_rows(rows, items))
    }

    /// [`Self::score`] for rows `[P, D]` that have been through the network.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn score_rows(&self, rows: &[f32], items: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let (table, bias) = (self.output_vectors(), self.output_bias());
        let problem = Problem { rows, targets: &[], table, bias };
        let scores = self.pool.install(|| self::scores(&problem, items));
        let finite = scores.iter().flatten().all(|score| score.is_finite());
        if finite { Ok(scores) } else { Err(not_finite()) }
    }

    /// The `k` items whose embeddings have the largest cosine with that of `item`, from 1, which is left out.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a cosine is not finite.
    pub fn similar(&self, item: u32, k: usize) -> Result<Vec<Entry>> {
        let d = self.model.hidden_size;
        let vectors = &self.parameters[item_rows(&self.table.item_embedding, d, self.items)];
        let own = &vectors[(item as usize - 1) * d..][..d];
        let of_block = |(block, vectors): (usize, &[f32])| {
            let first = (block * TILE_ITEMS) as u32 + 1;
            let mut cosines: Vec<f32> = vectorized(
                #[inline(always)]
                || vectors.chunks_exact(d).map(|vector| cosine(own, vector)).collect(),
            );
            if !cosines.iter().all(|cosine| cosine.is_finite()) {
                return Err(not_finite());
            }
            if let Some(own) = item.checked_sub(first).and_then(|i| cosines.get_mut(i as usize)) {
                *own = f32::NEG_INFINITY;
            }
            let mut best = Best::new(k);
            best.offer(first, &cosines);
            Ok(best)
        };
        let blocks: Result<Vec<Best>> = self
            .pool
            .install(|| vectors.par_chunks(TILE_ITEMS * d).enumerate().map(of_block).collect());
        Ok(merged(blocks?, k))
    }

    /// Runs the network and hands its rows to `use_rows`; the buffers go back whatever comes of it.
    fn with_rows<T>(&self, batch: &Batch, use_rows: impl FnOnce(&[f32]) -> T) -> T {
        let network =
            Network { model: &self.model, table: &self.table, parameters: &self.parameters };
        self.idle.lend(
            || Lanes::new(self.model.n_layers),
            |lanes| {
                lanes.forward(&self.pool, network, batch, Purpose::Answer);
                use_rows(&lanes.head_rows)
            },
        )
    }
}

/// The scores of each row's list of items, from 1; within the thread pool.
fn scores(problem: &Problem, items: &[&[u32]]) -> Vec<Vec<f32>> {
    let of_row = |(row, items): (&[f32], &&[u32])| {
        let mut scores = vec![0.0; items.len()];
        scores_of_list(problem, row, items, &mut scores);
        scores
    };
    problem.rows.par_chunks_exact(problem.width()).zip(items).map(of_row).collect()
}

/// Writes the scores of one row's list, by a dot product each.
fn scores_of_list(problem: &Problem, row: &[f32], items: &[u32], scores: &mut [f32]) {
    let d = problem.width();
    vectorized(
        #[inline(always)]
        || {
            for (score, &item) in scores.iter_mut().zip(items) {
                let item = item as usize - 1;
                *score = problem.bias[item] + dot(row, &problem.table[item * d..][..d]);
            }
        },
    );
}

/// The share of all items from which on the product with the whole table costs less than as many dot products.
const MOST_LISTED: usize = 4;

/// The scores of each row's list of items, one list after another, as [`scores`] has them up to rounding, by whichever
/// way costs less for the lists as a whole; within the thread pool.
pub(super) fn scores_of_lists(problem: &Problem, items: &[&[u32]]) -> Vec<f32> {
    let listed: usize = items.iter().map(|items| items.len()).sum();
    let mut all = vec![0.0; listed];
    let mut rest = &mut all[..];
    let mut lists = Vec::with_capacity(items.len());
    for items in items {
        let (list, others) = rest.split_at_mut(items.len());
        rest = others;
        lists.push(list);
    }
    let d = problem.width();
    if listed.saturating_mul(MOST_LISTED) < items.len().saturating_mul(problem.items()) {
        let rows = problem.rows.par_chunks_exact(d).zip(items).zip(lists);
        rows.for_each(|((row, items), list)| scores_of_list(problem, row, items, list));
        return all;
    }
    let at_once = rank::rows_at_once(problem.items());
    let blocks = problem.rows.par_chunks(at_once * d).zip(items.par_chunks(at_once));
    blocks.zip(lists.par_chunks_mut(at_once)).for_each_init(
        Vec::new,
        |products, ((rows, items), lists)| {
            scores_of_block(&Problem { rows, ..*problem }, items, products, lists);
        },
    );
    all
}

/// Writes the scores of the lists of all rows of `problem`, by the product with the whole table.
fn scores_of_block(
    problem: &Problem,
    items: &[&[u32]],
    products: &mut Vec<f32>,
    lists: &mut [&mut [f32]],
) {
    rank::products(problem, products);
    let rows = items.len();
    for (row, (items, list)) in items.iter().zip(lists).enumerate() {
        for (score, &item) in list.iter_mut().zip(*items) {
            let item = item as usize - 1;
            *score = products[item * rows + row] + problem.bias[item];
        }
    }
}

/// Tiles of rows and spans of items side by side, then the rows' parts put together; within the thread pool.
pub(super) fn top_k_of(
    problem: &Problem,
    seen: &[&[u32]],
    k: usize,
) -> std::result::Result<Vec<Vec<Entry>>, NotFinite> {
    let (d, items) = (problem.width(), problem.items());
    let tiles = seen.len().div_ceil(TILE_ROWS).max(1);
    // No tile is left with a few rows while others are full.
    let tile_rows = seen.len().div_ceil(tiles);
    let span = span(tiles, items);
    let blocks = items.div_ceil(span);
    let of_tile = |scores: &mut Vec<f32>, number: usize| {
        let (tile, block) = (number / blocks, number % blocks);
        let first = (tile * tile_rows).min(seen.len());
        let end = (first + tile_rows).min(seen.len());
        let rows = &problem.rows[first * d..end * d];
        let range = block * span..((block + 1) * span).min(items);
        top_k(&Problem { rows, ..*problem }, range, &seen[first..end], k, scores)
    };
    let parts: Vec<Vec<Best>> = (0..tiles * blocks)
        .into_par_iter()
        .with_max_len(1)
        .map_init(Vec::new, of_tile)
        .collect::<std::result::Result<_, NotFinite>>()?;
    let mut rows: Vec<Vec<Best>> = Vec::with_capacity(seen.len());
    let mut parts = parts.into_iter();
    for _ in 0..tiles {
        let mut of_rows: Vec<_> = parts.by_ref().take(blocks).map(Vec::into_iter).collect();
        while let Some(row) = of_rows.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>() {
            rows.push(row);
        }
    }
    Ok(rows.into_par_iter().map(|parts| merged(parts, k)).collect())
}

/// Items that one task scores, tile after tile, for each of `tiles` tiles of rows: many, so that the bar that an item must
/// exceed is high for most, but not so many that threads lack tasks. It may not depend on the number of threads.
pub(crate) fn span(tiles: usize, items: usize) -> usize {
    let fair = (items * tiles).div_ceil(TASKS).next_multiple_of(TILE_ITEMS);
    fair.clamp(TILE_ITEMS, MOST_SPAN)
}

fn merged(parts: Vec<Best>, k: usize) -> Vec<Entry> {
    let mut best = Best::new(k);
    parts.into_iter().for_each(|part| best.merge(part));
    best.into_sorted()
}

#[inline(always)]
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    // A vector without length is like no other.
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short lists and long ones, for more rows than a block has.
    #[test]
    fn lists_are_scored_alike_either_way() {
        let numbers = |count: usize, by: usize| -> Vec<f32> {
            (0..count).map(|i| (i * by % 101) as f32 / 101.0 - 0.5).collect()
        };
        let (d, items, count) = (16, 90, 70);
        let (rows, table, bias) =
            (numbers(count * d, 37), numbers(items * d, 53), numbers(items, 11));
        let problem = Problem { rows: &rows, targets: &[], table: &table, bias: &bias };
        for length in [3, 60] {
            let lists: Vec<Vec<u32>> = (0..count)
                .map(|row| (0..length).map(|i| ((row * 7 + i) % items) as u32 + 1).collect())
                .collect();
            let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
            let (one_by_one, found) = (scores(&problem, &lists), scores_of_lists(&problem, &lists));
            assert_eq!(found.len(), count * length);
            for (found, expected) in found.iter().zip(one_by_one.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
            }
        }
    }
}
