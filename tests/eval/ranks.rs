//! One target a row, ranked among all items.

use super::{Expected, Fixture, metrics, procedure};
use b4r::Error;
use b4r::config::{Metric, ModelConfig, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::eval::{FILTERED, Metrics, Procedure, RankedData, Ranking, rank};
use b4r::model::engine::Engine;

fn assert_expected(found: &Metrics, expected: &Expected) {
    assert_eq!(found.iter().count(), expected.metrics.len());
    for (key, value) in found.iter() {
        let expected = expected.metrics[key];
        assert!((value - expected).abs() < 1e-12, "{key}: {value}, not {expected}");
    }
    assert_eq!(found.lists, expected.ranks.len());
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
    let data = data(&fixture, &sequences, &rows);
    let model = short_model();
    for batch_size in [0, 1, 7, 1000] {
        for (filter_seen, expected) in [(false, &fixture.seen_kept), (true, &fixture.seen_filtered)]
        {
            let filters = [filter_seen];
            let procedure =
                Procedure { progress: batch_size == 7, ..procedure(&model, batch_size, &filters) };
            let found = rank(&mut fixture.engine(), &data, &procedure).expect("stored scores");
            assert_expected(&metrics(&found[0], &Metric::DEFAULT, &fixture.topk), expected);
        }
    }
}

fn data<'a>(
    fixture: &Fixture,
    sequences: &'a b4r::data::Sequences,
    rows: &'a [b4r::data::EvalRow],
) -> RankedData<'a> {
    RankedData { sequences, rows, item_count: fixture.items, candidates: None }
}

#[test]
fn one_pass_gives_both_protocols() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    let mut engine = fixture.engine();
    let model = short_model();
    let both = rank(
        &mut engine,
        &data(&fixture, &sequences, &rows),
        &procedure(&model, 9, &[true, false]),
    );
    let both = both.expect("stored scores");
    assert_eq!(engine.calls, rows.len().div_ceil(9));
    assert_eq!(both.len(), 2);
    for (found, expected) in both.iter().zip([&fixture.seen_filtered, &fixture.seen_kept]) {
        let expected_ranks: Vec<u32> =
            expected.ranks.iter().map(|rank| rank.unwrap_or(FILTERED)).collect();
        assert_eq!(found.places(), &expected_ranks);
        assert_expected(&metrics(found, &Metric::DEFAULT, &fixture.topk), expected);
    }
}

/// Both protocols in one pass let the head read one token twice; so an engine may get more rows than tokens.
#[test]
fn the_processor_ranks_both_protocols_at_once() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    let data = data(&fixture, &sequences, &rows);
    for max_len in [1, 4] {
        let model = ModelConfig { max_len, initializer_range: 0.5, ..ModelConfig::default() };
        let mut engine = CpuEngine::new(&model, &TrainConfig::default(), fixture.items, 2)
            .expect("little memory");
        let mut found = |batch_size, filters: &[bool]| {
            let procedure =
                Procedure { list_length: Some(7), ..procedure(&model, batch_size, filters) };
            rank(&mut engine, &data, &procedure).expect("ranks")
        };
        let both = found(16, &[true, false]);
        assert_eq!(both[..1], found(1000, &[true]));
        assert_eq!(both[1..], found(3, &[false]));
        assert_ne!(both[0], both[1]);
        for (ranking, seen_left_out) in both.iter().zip([true, false]) {
            assert_eq!(ranking.items(7).count(), rows.len());
            for ((row, items), &place) in rows.iter().zip(ranking.items(7)).zip(ranking.places()) {
                let history = &sequences.get(row.user as usize)[..row.position as usize];
                let target = sequences.get(row.user as usize)[row.position as usize];
                assert!(!(seen_left_out && items.iter().any(|item| history.contains(item))));
                // Without ties the list and the rank say the same.
                let found = items.iter().position(|&item| item == target);
                assert_eq!(found.map(|at| at as u32 + 1), Some(place).filter(|&place| place <= 7));
            }
        }
    }
}

/// One product at a time or all of a row at once: the scores are the same but for rounding.
#[test]
fn scores_of_listed_items_are_those_that_are_ranked() {
    let fixture = Fixture::load();
    let (sequences, rows) = (fixture.sequences(), fixture.rows());
    let model = ModelConfig { max_len: 8, initializer_range: 0.5, ..ModelConfig::default() };
    let mut engine =
        CpuEngine::new(&model, &TrainConfig::default(), fixture.items, 2).expect("little memory");
    let batch = b4r::batch::evaluation::rows(&sequences, &rows, fixture.items, &model);
    let all: Vec<u32> = (1..=fixture.items as u32).collect();
    let mut items = vec![&all[..]; rows.len()];
    items[3] = &[7, 7, 1];
    let scores = engine.score(&batch, &items).expect("scores");
    let ranks = engine.rank(&batch, &vec![&[][..]; rows.len()]).expect("ranks");
    let mut rest = &scores[..];
    for (row, items) in items.iter().enumerate() {
        let (scores, others) = rest.split_at(items.len());
        rest = others;
        if row == 3 {
            assert!(scores[0] == scores[1] && scores[0] != scores[2]);
            continue;
        }
        let own = scores[batch.targets[row] as usize - 1];
        let rank = scores.iter().filter(|&&score| score >= own).count() as u32;
        assert!(rank.abs_diff(ranks[row]) <= 1, "row {row}: {rank} and {}", ranks[row]);
    }
    assert!(rest.is_empty());
}

#[test]
fn no_rows_give_no_values() {
    let fixture = Fixture::load();
    let mut engine = fixture.engine();
    let (sequences, model) = (fixture.sequences(), short_model());
    let found = rank(&mut engine, &data(&fixture, &sequences, &[]), &procedure(&model, 9, &[true]));
    let found = metrics(&found.expect("nothing can fail")[0], &Metric::ALL, &[10]);
    assert_eq!((found.lists, found.iter().count(), found.get("ndcg@10")), (0, 0, None));
    assert_eq!(engine.calls, 0);
}

#[test]
fn an_error_of_the_engine_ends_evaluation() {
    let fixture = Fixture::load();
    let mut engine = fixture.engine();
    engine.scores.truncate(20);
    let (sequences, rows, model) = (fixture.sequences(), fixture.rows(), short_model());
    let found =
        rank(&mut engine, &data(&fixture, &sequences, &rows), &procedure(&model, 8, &[true]));
    assert!(matches!(found, Err(Error::Config { .. })));
}

#[test]
fn values_of_single_ranks() {
    let value = |rank, key: &str| {
        let ranking = Ranking::from_ranks(&[rank], 9);
        metrics(&ranking, &Metric::DEFAULT, &[1, 3, usize::MAX]).get(key)
    };
    assert_eq!(value(3, "recall@3"), Some(1.0));
    assert_eq!(value(3, "ndcg@3"), Some(0.5));
    assert_eq!(value(3, "precision@3"), Some(1.0 / 3.0));
    assert_eq!(value(3, "hit@1"), Some(0.0));
    assert_eq!(value(4, "mrr@18446744073709551615"), Some(0.25));
    assert_eq!(value(FILTERED, "mrr@18446744073709551615"), Some(0.0), "always a miss");
    assert_eq!(value(3, "ndcg@10"), None);
    let auc =
        |ranks: &[u32]| metrics(&Ranking::from_ranks(ranks, 9), &[Metric::Gauc], &[10]).get("gauc");
    assert_eq!(auc(&[1]), Some(1.0));
    assert_eq!(auc(&[9]), Some(0.0));
    assert_eq!(auc(&[3, FILTERED]), Some(0.375), "a target that was left out is behind everything");
}

#[test]
fn metrics_are_written_in_the_order_asked_for() {
    let ranking = Ranking::from_ranks(&[1, 2], 9);
    let metrics = metrics(&ranking, &[Metric::Ndcg, Metric::Hit], &[10, 1]);
    let json = serde_json::to_string(&metrics).expect("plain numbers");
    let ndcg = (1.0 + 1.0 / 3f64.log2()) / 2.0;
    assert_eq!(json, format!(r#"{{"ndcg@10":{ndcg},"ndcg@1":0.5,"hit@10":1.0,"hit@1":0.5}}"#));
}
