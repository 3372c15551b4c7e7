//! Ranking and metrics against an independent implementation (tests/fixtures/make_metrics.py).

use b4r::batch::Batch;
use b4r::config::{EvalConfig, Metric, ModelConfig, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::data::{EvalRow, Sequences};
use b4r::eval::{FILTERED, Metrics, RankedData, evaluate, ranks};
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
        serde_json::from_str(include_str!("fixtures/metrics.json")).expect("the fixture")
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
            calls: 0,
        }
    }
}

/// Serves stored scores, one list for each sequence in the order of evaluation.
struct StoredScores {
    scores: Vec<Vec<f32>>,
    table: ParameterTable,
    sequences_ranked: usize,
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

fn assert_expected(found: &Metrics, expected: &Expected) {
    assert_eq!(found.iter().count(), expected.metrics.len());
    for (key, value) in found.iter() {
        let expected = expected.metrics[key];
        assert!((value - expected).abs() < 1e-12, "{key}: {value}, not {expected}");
    }
    assert_eq!(found.rows, expected.ranks.len());
    assert_eq!(found.seen_targets, expected.ranks.iter().filter(|rank| rank.is_none()).count());
}

/// Windows of 4 items, histories of up to 24: the seen items are those of the whole history.
fn short_model() -> ModelConfig {
    ModelConfig { max_len: 4, ..ModelConfig::default() }
}

#[test]
fn metrics_equal_the_independent_ones() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    for batch_size in [0, 1, 7, 1000] {
        for (filter_seen, expected) in [(false, &fixture.seen_kept), (true, &fixture.seen_filtered)]
        {
            let topk = fixture.topk.clone();
            let eval = EvalConfig { topk, batch_size, filter_seen, ..EvalConfig::default() };
            let found = evaluate(
                &mut fixture.engine(),
                &sequences,
                &rows,
                fixture.items,
                &short_model(),
                &eval,
                batch_size == 7,
            );
            assert_expected(&found.expect("stored scores"), expected);
        }
    }
}

#[test]
fn one_pass_gives_both_protocols() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    let data = RankedData { sequences: &sequences, rows: &rows, item_count: fixture.items };
    let mut engine = fixture.engine();
    let both = ranks(&mut engine, &data, &short_model(), 9, &[true, false], false);
    let both = both.expect("stored scores");
    assert_eq!(engine.calls, rows.len().div_ceil(9));
    assert_eq!(both.len(), 2);
    for (found, expected) in both.iter().zip([&fixture.seen_filtered, &fixture.seen_kept]) {
        let expected_ranks: Vec<u32> =
            expected.ranks.iter().map(|rank| rank.unwrap_or(FILTERED)).collect();
        assert_eq!(found, &expected_ranks);
        assert_expected(&Metrics::from_ranks(found, &Metric::ALL, &fixture.topk), expected);
    }
}

/// Both protocols in one pass let the head read one token twice; so an engine may get more rows than tokens.
#[test]
fn the_processor_ranks_both_protocols_at_once() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    let data = RankedData { sequences: &sequences, rows: &rows, item_count: fixture.items };
    for max_len in [1, 4] {
        let model = ModelConfig { max_len, initializer_range: 0.5, ..ModelConfig::default() };
        let mut engine = CpuEngine::new(&model, &TrainConfig::default(), fixture.items, 2)
            .expect("little memory");
        let mut found = |batch_size, filters: &[bool]| {
            ranks(&mut engine, &data, &model, batch_size, filters, false).expect("ranks")
        };
        let both = found(16, &[true, false]);
        assert_eq!(both[..1], found(1000, &[true]));
        assert_eq!(both[1..], found(3, &[false]));
        assert_ne!(both[0], both[1]);
    }
}

#[test]
fn no_rows_give_no_values() {
    let fixture = Fixture::load();
    let mut engine = fixture.engine();
    let eval = EvalConfig::default();
    let found = evaluate(
        &mut engine,
        &fixture.sequences(),
        &[],
        fixture.items,
        &short_model(),
        &eval,
        false,
    );
    let found = found.expect("nothing can fail");
    assert_eq!((found.rows, found.iter().count(), found.get("ndcg@10")), (0, 0, None));
    assert_eq!(engine.calls, 0);
}

#[test]
fn an_error_of_the_engine_ends_evaluation() {
    let fixture = Fixture::load();
    let mut engine = fixture.engine();
    engine.scores.truncate(20);
    let found = evaluate(
        &mut engine,
        &fixture.sequences(),
        &fixture.rows(),
        fixture.items,
        &short_model(),
        &EvalConfig { batch_size: 8, ..EvalConfig::default() },
        false,
    );
    assert!(matches!(found, Err(Error::Config { .. })));
}

#[test]
fn values_of_single_ranks() {
    let value =
        |rank, key: &str| Metrics::from_ranks(&[rank], &Metric::ALL, &[1, 3, usize::MAX]).get(key);
    assert_eq!(value(3, "recall@3"), Some(1.0));
    assert_eq!(value(3, "ndcg@3"), Some(0.5));
    assert_eq!(value(3, "precision@3"), Some(1.0 / 3.0));
    assert_eq!(value(3, "hit@1"), Some(0.0));
    assert_eq!(value(4, "mrr@18446744073709551615"), Some(0.25));
    assert_eq!(value(FILTERED, "mrr@18446744073709551615"), Some(0.0), "always a miss");
    assert_eq!(value(3, "ndcg@10"), None);
}

#[test]
fn metrics_are_written_in_the_order_asked_for() {
    let metrics = Metrics::from_ranks(&[1, 2], &[Metric::Ndcg, Metric::Hit], &[10, 1]);
    let json = serde_json::to_string(&metrics).expect("plain numbers");
    let ndcg = (1.0 + 1.0 / 3f64.log2()) / 2.0;
    assert_eq!(json, format!(r#"{{"ndcg@10":{ndcg},"ndcg@1":0.5,"hit@10":1.0,"hit@1":0.5}}"#));
}
