//! Ranking and metrics against independent implementations (tests/fixtures/make_metrics.py, make_lists.py).

mod lists; // lists of several targets, metrics of items, RecBole's merged lists
mod negatives; // what is drawn
mod ranks; // one target a row, among all items

use b4r::batch::Batch;
use b4r::config::{EvalUnit, Metric, ModelConfig};
use b4r::data::{EvalRow, Sequences};
use b4r::eval::{Catalogue, FILTERED, Metrics, Procedure, Ranking};
use b4r::model::engine::{Engine, State, Step, StepOutcome};
use b4r::model::params::ParameterTable;
use b4r::{Error, Result};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Fixture {
    items: usize,
    topk: Vec<usize>,
    histories: Vec<Vec<u32>>,
    /// User and position of the target.
    rows: Vec<(u32, u32)>,
    /// `[rows, items]`.
    scores: Vec<Vec<f32>>,
    seen_kept: Expected,
    seen_filtered: Expected,
}

#[derive(Deserialize)]
struct Expected {
    /// `None` where the target was filtered out.
    ranks: Vec<Option<u32>>,
    metrics: HashMap<String, f64>,
}

impl Fixture {
    fn load() -> Self {
        serde_json::from_str(include_str!("../fixtures/metrics.json")).expect("the fixture")
    }

    fn sequences(&self) -> Sequences {
        let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
        for history in &self.histories {
            sequences.items.extend(history);
            sequences.offsets.push(sequences.items.len() as u64);
        }
        sequences
    }

    fn rows(&self) -> Vec<EvalRow> {
        self.rows.iter().map(|&(user, position)| EvalRow { user, position }).collect()
    }

    fn engine(&self) -> StoredScores {
        StoredScores {
            scores: self.scores.clone(),
            table: ParameterTable::new(&ModelConfig::default(), self.items),
            sequences_ranked: 0,
            sequences_scored: 0,
            calls: 0,
        }
    }
}

/// A procedure without lists of items.
fn procedure<'a>(model: &'a ModelConfig, batch_size: usize, filters: &'a [bool]) -> Procedure<'a> {
    let (list_length, unit) = (None, EvalUnit::Row);
    Procedure { model, batch_size, filters, list_length, unit, progress: false }
}

/// The metrics that need no catalogue.
fn metrics(ranking: &Ranking, metrics: &[Metric], topk: &[usize]) -> Metrics {
    let catalogue = Catalogue { counts: &[], tail_ratio: 0.1, unit: EvalUnit::Row };
    Metrics::new(ranking, metrics, topk, &catalogue)
}

/// Serves stored scores, one list for each sequence in the order of evaluation.
struct StoredScores {
    scores: Vec<Vec<f32>>,
    table: ParameterTable,
    sequences_ranked: usize,
    sequences_scored: usize,
    calls: usize,
}

impl Engine for StoredScores {
    fn table(&self) -> &ParameterTable {
        &self.table
    }

    fn train_step(&mut self, _: &Batch, _: &Step) -> Result<()> {
        unreachable!("evaluation does not train")
    }

    fn outcomes(&mut self, _: bool) -> Result<Vec<StepOutcome>> {
        unreachable!("evaluation does not train")
    }

    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        assert_eq!(seen.len(), batch.row_count());
        assert_eq!(batch.cu_rows.last(), Some(&(batch.row_count() as u32)));
        let mut ranks = Vec::new();
        for (sequence, rows) in batch.cu_rows.windows(2).enumerate() {
            let scores = self.scores.get(self.sequences_ranked + sequence).ok_or_else(|| {
                Error::config("scores", "there are none for this row", "store more")
            })?;
            let rows = rows[0] as usize..rows[1] as usize;
            for (row, seen) in rows.clone().zip(&seen[rows]) {
                assert_eq!(batch.rows[row] + 1, batch.cu_seqlens[sequence + 1], "the MASK token");
                assert!(seen.is_sorted_by(|a, b| a < b), "ascending and distinct");
                ranks.push(rank(scores, batch.targets[row], seen));
            }
        }
        self.sequences_ranked += batch.sequence_count();
        self.calls += 1;
        Ok(ranks)
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        assert_eq!(items.len(), batch.row_count());
        let mut found = Vec::new();
        for (row, items) in items.iter().enumerate() {
            // Rows that stand several times in a batch share the scores of their sequence.
            let sequence = batch.cu_rows.partition_point(|&end| end as usize <= row) - 1;
            let scores = &self.scores[self.sequences_scored + sequence];
            found.extend(items.iter().map(|&item| scores[item as usize - 1]));
        }
        self.sequences_scored += batch.sequence_count();
        Ok(found)
    }

    fn state(&self) -> Result<Cow<'_, State>> {
        unreachable!("evaluation does not train")
    }

    fn parameters(&self) -> Result<Cow<'_, [f32]>> {
        unreachable!("evaluation does not train")
    }

    fn load_state(&mut self, _: &State) -> Result<()> {
        unreachable!("evaluation does not train")
    }

    fn load_parameters(&mut self, _: &[f32]) -> Result<()> {
        unreachable!("evaluation does not train")
    }
}

fn rank(scores: &[f32], target: u32, seen: &[u32]) -> u32 {
    if seen.contains(&target) {
        return FILTERED;
    }
    let own = scores[target as usize - 1];
    let before = (1..)
        .zip(scores)
        .filter(|(item, score)| *item != target && **score >= own && !seen.contains(item));
    1 + before.count() as u32
}
