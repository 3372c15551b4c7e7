//! Ranking every row's target among all items, and the metrics of the ranks.

pub mod metrics;

pub use metrics::Metrics;

use crate::Result;
use crate::batch::{Batch, evaluation};
use crate::config::{EvalConfig, ModelConfig};
use crate::data::{EvalRow, Sequences};
use crate::model::engine::{Engine, Ranker};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt;

/// Rank of a target that was filtered out as seen.
pub const FILTERED: u32 = u32::MAX;

/// Metrics of `rows` under full ranking, with `eval.filter_seen` as configured.
///
/// # Errors
/// Those of [`Engine::rank`].
pub fn evaluate(
    engine: &mut dyn Engine,
    sequences: &Sequences,
    rows: &[EvalRow],
    item_count: usize,
    model: &ModelConfig,
    eval: &EvalConfig,
    progress: bool,
) -> Result<Metrics> {
    let filters = [eval.filter_seen];
    let data = RankedData { sequences, rows, item_count };
    let ranks = ranks(engine, &data, model, eval.batch_size, &filters, progress)?;
    Ok(Metrics::from_ranks(&ranks[0], &eval.metrics, &eval.topk))
}

/// What is ranked.
#[derive(Clone, Copy, Debug)]
pub struct RankedData<'a> {
    /// Whole histories.
    pub sequences: &'a Sequences,
    /// What to predict.
    pub rows: &'a [EvalRow],
    /// `V`.
    pub item_count: usize,
}

/// The rank of each row's target, from 1, once for each entry of `filters`: `true` leaves out the items of
/// the row's whole history (a target among them gets [`FILTERED`]), `false` ranks all items.
///
/// All entries share one pass of the model: its rows stand in the batch once for each. Rows are worked
/// through `batch_size` at a time, which changes no rank beyond the rounding of scores.
///
/// # Errors
/// Those of [`Ranker::rank`].
pub fn ranks(
    ranker: &mut (impl Ranker + ?Sized),
    data: &RankedData<'_>,
    model: &ModelConfig,
    batch_size: usize,
    filters: &[bool],
    progress: bool,
) -> Result<Vec<Vec<u32>>> {
    let mut ranks = vec![Vec::with_capacity(data.rows.len()); filters.len()];
    if filters.is_empty() {
        return Ok(ranks);
    }
    let bar = if progress { progress_bar(data.rows.len()) } else { ProgressBar::hidden() };
    let mut seen = SeenLists::default();
    for rows in data.rows.chunks(batch_size.max(1)) {
        let mut batch = evaluation::rows(data.sequences, rows, data.item_count, model);
        repeat_rows(&mut batch, filters.len());
        seen.fill(data.sequences, rows, filters.contains(&true));
        let lists: Vec<&[u32]> = (0..rows.len())
            .flat_map(|row| filters.iter().map(move |&filter| (row, filter)))
            .map(|(row, filter)| if filter { seen.get(row) } else { &[] })
            .collect();
        let found = ranker.rank(&batch, &lists)?;
        for of_row in found.chunks_exact(filters.len()) {
            for (list, &rank) in ranks.iter_mut().zip(of_row) {
                list.push(rank);
            }
        }
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    Ok(ranks)
}

/// Makes every row of the head stand `times` times in succession, so that each can have its own list of
/// seen items; the layers below the head run over the tokens only once.
fn repeat_rows(batch: &mut Batch, times: usize) {
    let repeat = |list: &[u32]| -> Vec<u32> {
        list.iter().flat_map(|&entry| std::iter::repeat_n(entry, times)).collect()
    };
    batch.rows = repeat(&batch.rows);
    batch.targets = repeat(&batch.targets);
    for end in &mut batch.cu_rows {
        *end *= times as u32;
    }
}

/// For each row of a batch, the distinct items before its target, ascending.
#[derive(Default)]
struct SeenLists {
    items: Vec<u32>,
    /// Where each list ends in `items`.
    ends: Vec<usize>,
    /// One history at a time, sorted.
    sorted: Vec<u32>,
}

impl SeenLists {
    /// Replaces the lists by those of `rows`; by none when they are not `wanted`.
    fn fill(&mut self, sequences: &Sequences, rows: &[EvalRow], wanted: bool) {
        self.items.clear();
        self.ends.clear();
        for row in rows.iter().filter(|_| wanted) {
            self.sorted.clear();
            let history = sequences.get(row.user as usize);
            self.sorted.extend_from_slice(&history[..row.position as usize]);
            self.sorted.sort_unstable();
            self.sorted.dedup();
            self.items.extend_from_slice(&self.sorted);
            self.ends.push(self.items.len());
        }
    }

    fn get(&self, row: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        &self.items[start..self.ends[row]]
    }
}

fn progress_bar(rows: usize) -> ProgressBar {
    let template = "evaluating {wide_bar} {pos}/{len} rows, {rate}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A bar that cannot be written is no reason to end a run.
            let _ = write!(out, "{:.0} rows/s", state.per_sec());
        });
    ProgressBar::new(rows as u64).with_style(style)
}
