//! Lists of several targets and metrics of items, against RecBole's own evaluator (make_lists.py).

use super::{StoredScores, procedure};
use b4r::config::{EvalUnit, Metric, Mode, ModelConfig, Negatives};
use b4r::data::{EvalRow, Sequences};
use b4r::eval::ranking::UserList;
use b4r::eval::{Candidates, Catalogue, Draw, Metrics, Procedure, RankedData, Ranking, draw, rank};
use b4r::model::params::ParameterTable;
use serde::Deserialize;
use std::collections::HashMap;

type Values = HashMap<String, f64>;

#[derive(Deserialize)]
struct Fixture {
    items: usize,
    topk: Vec<usize>,
    /// `[items]` training interactions.
    counts: Vec<u32>,
    full: Full,
    sampled: Sampled,
}

#[derive(Deserialize)]
struct Full {
    /// `[rows, items]`.
    scores: Vec<Vec<f32>>,
    targets: Vec<u32>,
    /// By `tail_ratio`.
    recbole: HashMap<String, Values>,
    defined: HashMap<String, Values>,
}

#[derive(Deserialize)]
struct Sampled {
    users: Vec<User>,
    recbole: Values,
}

#[derive(Deserialize)]
struct User {
    /// `[rows, candidates]`, the target first.
    candidates: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
}

impl Fixture {
    fn load() -> Self {
        serde_json::from_str(include_str!("../fixtures/lists.json")).expect("the fixture")
    }

    fn metrics(&self, ranking: &Ranking, tail_ratio: f64, unit: EvalUnit) -> Metrics {
        let catalogue = Catalogue { counts: &self.counts, tail_ratio, unit };
        Metrics::new(ranking, &Metric::ALL, &self.topk, &catalogue)
    }

    /// Users with an unused item, then their target.
    fn sequences(&self) -> Sequences {
        let items = self.full.targets.iter().flat_map(|&target| [1 + target % 2, target]);
        let offsets = (0..=self.full.targets.len() as u64).map(|user| 2 * user);
        Sequences { offsets: offsets.collect(), items: items.collect() }
    }

    fn engine(&self) -> StoredScores {
        StoredScores {
            scores: self.full.scores.clone(),
            table: ParameterTable::new(&ModelConfig::default(), self.items),
            sequences_ranked: 0,
            sequences_scored: 0,
            calls: 0,
        }
    }
}

/// GAUC is an f32 in RecBole.
fn assert_close(found: &Metrics, expected: &Values) {
    for (key, expected) in expected {
        let value = found.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        let tolerance = if key == "gauc" { 1e-6 } else { 1e-12 };
        assert!((value - expected).abs() < tolerance, "{key}: {value}, not {expected}");
    }
}

fn rows(users: usize) -> Vec<EvalRow> {
    (0..users as u32).map(|user| EvalRow { user, position: 1 }).collect()
}

#[test]
fn full_rankings_give_the_values_of_recbole_and_of_the_definitions() {
    let fixture = Fixture::load();
    let (sequences, model) = (fixture.sequences(), ModelConfig::default());
    let rows = rows(sequences.len());
    let data = RankedData {
        sequences: &sequences,
        rows: &rows,
        item_count: fixture.items,
        candidates: None,
    };
    let procedure = Procedure { list_length: Some(10), ..procedure(&model, 4, &[false]) };
    let ranking = rank(&mut fixture.engine(), &data, &procedure).expect("stored scores").remove(0);
    assert_eq!(fixture.full.recbole.len(), 2);
    for (tail_ratio, values) in &fixture.full.recbole {
        let tail_ratio: f64 = tail_ratio.parse().unwrap();
        let found = fixture.metrics(&ranking, tail_ratio, EvalUnit::RecBole);
        assert_eq!(found.iter().count(), values.len());
        assert_close(&found, values);
    }
    for (tail_ratio, values) in &fixture.full.defined {
        let tail_ratio: f64 = tail_ratio.parse().unwrap();
        assert_close(&fixture.metrics(&ranking, tail_ratio, EvalUnit::Row), values);
    }
}

#[test]
fn rows_merged_by_user_give_the_values_of_recbole() {
    let fixture = Fixture::load();
    let mut rankings = [Ranking::new(10)];
    for user in &fixture.sampled.users {
        let mut list = UserList::default();
        for (candidates, scores) in user.candidates.iter().zip(&user.scores) {
            list.add(candidates, scores);
        }
        list.finish(&mut rankings);
        assert!(list.is_empty());
    }
    let found = fixture.metrics(&rankings[0], 0.2, EvalUnit::RecBole);
    assert_eq!(found.iter().count(), fixture.sampled.recbole.len());
    assert_close(&found, &fixture.sampled.recbole);
}

/// As many negatives as may be drawn.
fn everything(
    fixture: &Fixture,
    sequences: &Sequences,
    rows: &[EvalRow],
    negatives: Negatives,
) -> Option<Candidates> {
    let (mode, unit) = (Mode::Uniform(1000), EvalUnit::Row);
    let counts = &fixture.counts;
    draw(&Draw { sequences, rows, counts, mode, unit, negatives, seed: 1 }).expect("little memory")
}

/// As many negatives as there are other items: the sampled ranking is the full one, with the target, which alone has
/// been seen, left out or ranked.
#[test]
fn all_items_as_negatives_are_the_full_ranking() {
    let fixture = Fixture::load();
    // A history of the target alone, repeated, leaves every other item to be drawn.
    let mut sequences = fixture.sequences();
    for pair in sequences.items.chunks_exact_mut(2) {
        pair[0] = pair[1];
    }
    let (rows, model) = (rows(sequences.len()), ModelConfig::default());
    let candidates = everything(&fixture, &sequences, &rows, Negatives::Unseen);
    for (batch_size, filters) in
        [(3, &[false][..]), (100, &[false]), (7, &[true]), (9, &[true, false])]
    {
        let of = |candidates| {
            let procedure =
                Procedure { list_length: Some(10), ..procedure(&model, batch_size, filters) };
            let item_count = fixture.items;
            let data = RankedData { sequences: &sequences, rows: &rows, item_count, candidates };
            rank(&mut fixture.engine(), &data, &procedure).expect("stored scores")
        };
        assert_eq!(of(candidates.as_ref()), of(None), "{filters:?}");
    }
}

/// The same where negatives may have been seen, whether those are left out or ranked.
#[test]
fn any_items_as_negatives_are_the_full_ranking_too() {
    let fixture = Fixture::load();
    let sequences = fixture.sequences();
    let (rows, model) = (rows(sequences.len()), ModelConfig::default());
    let candidates = everything(&fixture, &sequences, &rows, Negatives::Any);
    for filters in [&[true, false][..], &[true], &[false]] {
        let procedure = Procedure { list_length: Some(10), ..procedure(&model, 7, filters) };
        let of = |candidates| {
            let item_count = fixture.items;
            let data = RankedData { sequences: &sequences, rows: &rows, item_count, candidates };
            rank(&mut fixture.engine(), &data, &procedure).expect("stored scores")
        };
        assert_eq!(of(candidates.as_ref()), of(None), "{filters:?}");
    }
}

/// The rows of a user make one list even where a batch ends between them.
#[test]
fn batches_do_not_cut_a_users_list() {
    let fixture = Fixture::load();
    let sequences = Sequences { offsets: vec![0, 9, 14], items: (1..=14).collect() };
    let positions = [(0, 1), (0, 2), (0, 5), (0, 8), (1, 1), (1, 3)];
    let rows = positions.map(|(user, position)| EvalRow { user, position });
    let drawn = draw(&Draw {
        sequences: &sequences,
        rows: &rows,
        counts: &fixture.counts,
        mode: Mode::Popular(6),
        unit: EvalUnit::RecBole,
        negatives: Negatives::Unseen,
        seed: 5,
    });
    let candidates = drawn.expect("little memory");
    let data = RankedData {
        sequences: &sequences,
        rows: &rows,
        item_count: fixture.items,
        candidates: candidates.as_ref(),
    };
    let model = ModelConfig::default();
    let of = |batch_size| {
        let unit = EvalUnit::RecBole;
        let procedure = Procedure { unit, ..procedure(&model, batch_size, &[false]) };
        rank(&mut fixture.engine(), &data, &procedure).expect("stored scores").remove(0)
    };
    let whole = of(100);
    assert_eq!(whole.len(), 2);
    assert_eq!(whole.places().len(), 6);
    for batch_size in 1..6 {
        assert_eq!(of(batch_size), whole, "{batch_size} rows at once");
    }
}
