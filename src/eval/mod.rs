//! Ranking every row's target among all items or among its negatives, and the metrics of the outcome.

mod items; // metrics of which items are recommended
pub mod metrics;
pub mod negatives;
pub mod ranking;

pub use metrics::Metrics;
pub use negatives::{Candidates, Draw, draw};
pub use ranking::{Catalogue, FILTERED, Ranking};

use crate::Result;
use crate::batch::{Batch, evaluation};
use crate::config::{EvalUnit, ModelConfig};
use crate::data::{EvalRow, Sequences};
use crate::model::engine::Ranker;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use ranking::{Scored, UserList, order};
use std::fmt;

/// Most tokens of a batch: more only take memory.
const MOST_TOKENS: usize = 1 << 15;

/// Rows to rank at once: `eval_batch_size`, or fewer where sequences are long.
pub fn rows_at_once(batch_size: usize, max_len: usize) -> usize {
    batch_size.min(MOST_TOKENS / max_len.max(1)).max(1)
}

/// What is ranked.
#[derive(Clone, Copy, Debug)]
pub struct RankedData<'a> {
    /// Whole histories.
    pub sequences: &'a Sequences,
    /// What to predict, by user.
    pub rows: &'a [EvalRow],
    /// `V`.
    pub item_count: usize,
    /// What each row's target is ranked among; `None`: all items.
    pub candidates: Option<&'a Candidates>,
}

/// How it is ranked.
#[derive(Clone, Copy, Debug)]
pub struct Procedure<'a> {
    /// Sizes of the network.
    pub model: &'a ModelConfig,
    /// Most rows at once, see [`rows_at_once`]; changes nothing beyond the rounding of scores.
    pub batch_size: usize,
    /// One [`Ranking`] for each: `true` leaves out the items of the row's history (a target among them gets
    /// [`FILTERED`]), `false` ranks them too.
    pub filters: &'a [bool],
    /// Keep the best so many items of each list.
    pub list_length: Option<usize>,
    /// What one list is.
    pub unit: EvalUnit,
    /// Whether to draw a bar.
    pub progress: bool,
}

/// Ranks all rows, once for each of the filters, in one pass of the model (in two where items of full
/// rankings are kept).
///
/// # Errors
/// Those of [`Ranker::rank`], [`Ranker::score`] and [`Ranker::top_k`].
pub fn rank(
    ranker: &mut (impl Ranker + ?Sized),
    data: &RankedData<'_>,
    procedure: &Procedure<'_>,
) -> Result<Vec<Ranking>> {
    // No list has more items than there are.
    let list_length = procedure.list_length.map(|length| length.min(data.item_count));
    let procedure = &Procedure { list_length, ..*procedure };
    let mut rankings = vec![Ranking::new(list_length.unwrap_or(0)); procedure.filters.len()];
    if rankings.is_empty() {
        return Ok(rankings);
    }
    let bar =
        if procedure.progress { progress_bar(data.rows.len()) } else { ProgressBar::hidden() };
    let mut seen = SeenLists::default();
    let mut merged = Merged::default();
    let mut marks = Vec::new();
    let size = rows_at_once(procedure.batch_size, procedure.model.max_len);
    for (chunk, rows) in data.rows.chunks(size).enumerate() {
        let mut batch = evaluation::rows(data.sequences, rows, data.item_count, procedure.model);
        seen.fill(data.sequences, rows, procedure.filters.contains(&true));
        match data.candidates {
            None => {
                repeat_rows(&mut batch, procedure.filters.len());
                rank_all(ranker, &batch, &seen, data.item_count, procedure, &mut rankings)?;
            }
            Some(candidates) => {
                let lists: Vec<&[u32]> =
                    (0..rows.len()).map(|row| candidates.get(chunk * size + row)).collect();
                let scores = ranker.score(&batch, &lists)?;
                match procedure.unit {
                    EvalUnit::Row => {
                        marks.resize(data.item_count + 1, false);
                        let scored = Scores { candidates, lists: &lists, scores: &scores };
                        rank_sampled(scored, &seen, procedure, &mut marks, &mut rankings);
                    }
                    EvalUnit::RecBole => merged.add(rows, &lists, &scores, &mut rankings),
                }
            }
        }
        bar.inc(rows.len() as u64);
    }
    merged.finish(&mut rankings);
    bar.finish_and_clear();
    Ok(rankings)
}

/// Every target among all items; each row of `batch` stands once for each filter.
fn rank_all(
    ranker: &mut (impl Ranker + ?Sized),
    batch: &Batch,
    seen: &SeenLists,
    item_count: usize,
    procedure: &Procedure<'_>,
    rankings: &mut [Ranking],
) -> Result<()> {
    let filters = procedure.filters;
    let lists: Vec<&[u32]> = (0..batch.row_count())
        .map(|row| if filters[row % filters.len()] { seen.get(row / filters.len()) } else { &[] })
        .collect();
    let ranks = ranker.rank(batch, &lists)?;
    let mut best = match procedure.list_length {
        Some(k) => ranker.top_k(batch, &lists, k)?,
        None => vec![Vec::new(); ranks.len()],
    }
    .into_iter();
    for (row, (&rank, seen)) in ranks.iter().zip(&lists).enumerate() {
        let length = (item_count - seen.len()) as u32;
        rankings[row % filters.len()].push(&[rank], length, best.next().unwrap_or_default());
    }
    Ok(())
}

/// A batch's lists of candidates, and their scores one after another.
struct Scores<'a> {
    candidates: &'a Candidates,
    lists: &'a [&'a [u32]],
    scores: &'a [f32],
}

/// Every target among its own candidates, of which it is the first. `marks`, one for each item and all off, are
/// scratch: to look an item of a long list up in the history would take longer than to score it.
fn rank_sampled(
    scored: Scores,
    seen: &SeenLists,
    procedure: &Procedure<'_>,
    marks: &mut [bool],
    rankings: &mut [Ranking],
) {
    let mut rest = scored.scores;
    for (row, items) in scored.lists.iter().enumerate() {
        let (scores, others) = rest.split_at(items.len());
        rest = others;
        let seen = if procedure.filters.contains(&true) { seen.get(row) } else { &[] };
        seen.iter().for_each(|&item| marks[item as usize] = true);
        let target = scores[0];
        // What does not score less than the target, NaN included, stands before it.
        let is_before = |score: f32| 1 - u32::from(score < target);
        let before: u32 = scores.iter().map(|&score| is_before(score)).sum();
        let mut list: Vec<Scored> = Vec::new();
        if procedure.list_length.is_some() {
            let entries = items.iter().zip(scores).enumerate();
            list.extend(entries.map(|(i, (&item, &score))| Scored { item, score, target: i == 0 }));
            order(&mut list);
        }
        for (ranking, &filter) in rankings.iter_mut().zip(procedure.filters) {
            let left_out = |item: u32| filter && marks[item as usize];
            let (mut length, mut rank) = (items.len() as u32, before);
            // Without a branch, which the processor would guess wrong for every other item.
            for (&item, &score) in
                items.iter().zip(scores).take(scored.candidates.perhaps_seen(items))
            {
                let leaves = u32::from(left_out(item));
                length -= leaves;
                rank -= leaves * is_before(score);
            }
            let place = if left_out(items[0]) { FILTERED } else { rank };
            let best = list.iter().map(|entry| entry.item).filter(|&item| !left_out(item));
            ranking.push(&[place], length, best);
        }
        seen.iter().for_each(|&item| marks[item as usize] = false);
    }
}

/// Rows gathered until their user is complete, whatever the batches.
#[derive(Default)]
struct Merged {
    user: Option<u32>,
    list: UserList,
}

impl Merged {
    fn add(
        &mut self,
        rows: &[EvalRow],
        lists: &[&[u32]],
        scores: &[f32],
        rankings: &mut [Ranking],
    ) {
        let mut rest = scores;
        for (row, items) in rows.iter().zip(lists) {
            let (scores, others) = rest.split_at(items.len());
            rest = others;
            if self.user != Some(row.user) {
                self.finish(rankings);
                self.user = Some(row.user);
            }
            self.list.add(items, scores);
        }
    }

    /// Closes the list of the last user. RecBole filters nothing, so all rankings are the same.
    fn finish(&mut self, rankings: &mut [Ranking]) {
        if !self.list.is_empty() {
            self.list.finish(rankings);
        }
    }
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
