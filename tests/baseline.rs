//! Popularity and Markov against their definition, worked out item by item.

use crate::cli::Sandbox;
use b4r::Config;
use b4r::baseline::{Baseline, evaluate};
use b4r::config::{EvalUnit, Mode, Negatives};
use b4r::data::{EvalRow, Sequences, Split, split};
use b4r::eval::{Draw, FILTERED, Procedure, RankedData, draw, rank};
use b4r::train::judge::{Judge, Judged};
use serde_json::Value;
use std::fs;

const ITEMS: usize = 30;

/// 60 users with 1 to 12 items; the low numbers are the popular ones, and much is seen again.
fn sequences() -> Sequences {
    let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
    let mut state = 5u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
        (state >> 33) % below
    };
    for _ in 0..60 {
        for _ in 0..1 + random(12) {
            let limit = 1 + random(ITEMS as u64 - 4);
            sequences.items.push(1 + random(limit) as u32);
        }
        sequences.offsets.push(sequences.items.len() as u64);
    }
    sequences
}

/// How often each item occurs and, with `last`, how often it came right after that, in what trains.
fn scores(sequences: &Sequences, split: &Split, last: Option<u32>) -> Vec<(usize, usize)> {
    let training: Vec<&[u32]> = (0..sequences.len())
        .map(|user| &sequences.get(user)[..split.train_lengths[user] as usize])
        .collect();
    let count = |item: u32| training.iter().flat_map(|h| h.iter()).filter(|&&i| i == item).count();
    let pairs = |item: u32| {
        let pairs = training.iter().flat_map(|history| history.windows(2));
        pairs.filter(|pair| Some(pair[0]) == last && pair[1] == item).count()
    };
    (1..=ITEMS as u32).map(|item| (pairs(item), count(item))).collect()
}

fn expected(sequences: &Sequences, split: &Split, row: &EvalRow, markov: bool, seen: bool) -> u32 {
    let history = sequences.get(row.user as usize);
    let (before, target) = (&history[..row.position as usize], history[row.position as usize]);
    let left_out = |item: u32| seen && before.contains(&item);
    if left_out(target) {
        return FILTERED;
    }
    let scores = scores(sequences, split, markov.then(|| before[before.len() - 1]));
    let own = scores[target as usize - 1];
    let better = (1..)
        .zip(&scores)
        .filter(|&(item, &score)| item != target && score >= own && !left_out(item));
    better.count() as u32 + 1
}

#[test]
fn ranks_follow_the_definition() {
    let sequences = sequences();
    let mut config = Config::default();
    // Windows cut the history; the last item is still there.
    config.model.max_len = 4;
    let split = split(&sequences, None, &config.eval, 0).unwrap();
    let rows: Vec<EvalRow> = split.valid.iter().chain(&split.test).copied().collect();
    assert!(rows.len() > 60);
    let data =
        RankedData { sequences: &sequences, rows: &rows, item_count: ITEMS, candidates: None };
    for mut baseline in Baseline::all(&sequences, &split, ITEMS) {
        let procedure = procedure(&config, &[true, false]);
        let found = rank(&mut baseline, &data, &procedure).unwrap();
        let markov = baseline.name == "markov";
        for (found, seen) in found.iter().zip([true, false]) {
            let expected: Vec<u32> =
                rows.iter().map(|row| expected(&sequences, &split, row, markov, seen)).collect();
            assert_eq!(found.places(), expected, "{} {seen}", baseline.name);
            let filtered = expected.iter().filter(|&&rank| rank == FILTERED).count();
            assert_eq!(filtered > 0, seen, "some targets are seen again");
        }
    }
}

fn procedure<'a>(config: &'a Config, filters: &'a [bool]) -> Procedure<'a> {
    Procedure {
        model: &config.model,
        batch_size: 7,
        filters,
        list_length: None,
        unit: EvalUnit::Row,
        progress: false,
    }
}

/// Among negatives, the rank is that among them by the same counts.
#[test]
fn ranks_among_negatives_follow_the_definition() {
    let sequences = sequences();
    let mut config = Config::default();
    config.model.max_len = 4;
    let split = split(&sequences, None, &config.eval, 0).unwrap();
    let (rows, counts) = (&split.test, [1; ITEMS]);
    let (mode, unit, seed) = (Mode::Uniform(9), EvalUnit::Row, 3);
    let drawn = draw(&Draw {
        sequences: &sequences,
        rows,
        counts: &counts,
        mode,
        unit,
        negatives: Negatives::Unseen,
        seed,
    });
    let drawn = drawn.unwrap().unwrap();
    let candidates = Some(&drawn);
    let data = RankedData { sequences: &sequences, rows, item_count: ITEMS, candidates };
    for mut baseline in Baseline::all(&sequences, &split, ITEMS) {
        let markov = baseline.name == "markov";
        let expected: Vec<u32> = rows
            .iter()
            .enumerate()
            .map(|(row, EvalRow { user, position })| {
                let last = sequences.get(*user as usize)[*position as usize - 1];
                let scores = scores(&sequences, &split, markov.then_some(last));
                let score = |item: &u32| scores[*item as usize - 1];
                let list = drawn.get(row);
                list.iter().filter(|item| score(item) >= score(&list[0])).count() as u32
            })
            .collect();
        let found = rank(&mut baseline, &data, &procedure(&config, &[false])).unwrap();
        assert_eq!(found[0].places(), expected, "{}", baseline.name);
        assert!(expected.contains(&1) && expected.iter().any(|&rank| rank > 5));
    }
}

#[test]
fn scores_and_lists_are_in_the_order_of_the_ranks() {
    let sequences = sequences();
    let split = split(&sequences, None, &Config::default().eval, 0).unwrap();
    for baseline in Baseline::all(&sequences, &split, ITEMS) {
        for last in 0..=ITEMS as u32 {
            let items = || 1..=ITEMS as u32;
            let seen = [2, last.max(3)];
            for (one, other) in items().flat_map(|one| items().map(move |other| (one, other))) {
                let keys = baseline.key(last, one).cmp(&baseline.key(last, other));
                let scores = [one, other].map(|item| baseline.score_after(last, item));
                assert_eq!(
                    scores[0].total_cmp(&scores[1]),
                    keys,
                    "{} {one} {other}",
                    baseline.name
                );
            }
            let mut expected: Vec<u32> = items().filter(|item| !seen.contains(item)).collect();
            expected.sort_by(|&a, &b| {
                baseline
                    .score_after(last, b)
                    .total_cmp(&baseline.score_after(last, a))
                    .then(a.cmp(&b))
            });
            expected.truncate(7);
            assert_eq!(baseline.best(last, &seen, 7), expected, "{} {last}", baseline.name);
        }
    }
}

#[test]
fn what_was_never_trained_on_ties_at_the_end() {
    let sequences = Sequences { offsets: vec![0, 4], items: vec![1, 1, 2, 3] };
    let split = split(&sequences, None, &Config::default().eval, 0).unwrap();
    let [popularity, markov] = Baseline::all(&sequences, &split, 5);
    // Items 2 to 5 do not train: all of them stand before each other.
    assert_eq!([1, 2, 5].map(|item| popularity.rank_after(2, item, &[])), [1, 5, 5]);
    assert_eq!([1, 2].map(|item| markov.rank_after(1, item, &[])), [1, 5]);
    assert_eq!(markov.rank_after(0, 4, &[1, 2]), 3, "no history at all");
    assert_eq!(markov.rank_after(1, 4, &[4]), FILTERED);
}

#[test]
fn a_million_items_cost_what_the_interactions_cost() {
    let items = 1_000_000;
    // Users go round one circle of 997 items, each from another place.
    let history = |user: u32| (0..20).map(move |step| 1 + (user * 7 + step) % 997 * 1000);
    let histories = (0..1000u32).map(history);
    let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
    for history in histories {
        sequences.items.extend(history);
        sequences.offsets.push(sequences.items.len() as u64);
    }
    let config = Config::default();
    let split = split(&sequences, None, &config.eval, 0).unwrap();
    let judge = Judge::new(&config, &sequences, &split, items).unwrap();
    let judged =
        Judged { config: &config, sequences: &sequences, split: &split, items, judge: &judge };
    let evaluations = evaluate(&judged, &|| Ok(())).unwrap();
    let names: Vec<_> = evaluations.iter().map(|evaluation| evaluation.name).collect();
    assert_eq!(names, ["popularity", "markov"]);
    for evaluation in &evaluations {
        let tested = &evaluation.tested;
        assert_eq!((tested.test.lists, tested.other.as_ref().unwrap().lists), (1000, 1000));
        assert_eq!(evaluation.valid.lists, 1000);
    }
    let hit = |i: usize| evaluations[i].tested.other.as_ref().unwrap().get("hit@10").unwrap();
    assert!(hit(1) > hit(0), "what comes next follows from the last: {} {}", hit(1), hit(0));
}

#[test]
fn every_run_reports_them() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let output = sandbox.finish(&run_dir, &["--epochs=1", "--metrics=ndcg", "--topk=10"]);
    let text = fs::read_to_string(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    let baselines = results["baselines"].as_array().unwrap();
    assert_eq!(baselines.len(), 2);
    for (baseline, name) in baselines.iter().zip(["popularity", "markov"]) {
        assert_eq!(baseline["name"], name);
        for key in ["valid", "test", "test_seen_kept"] {
            assert!(baseline[key]["ndcg@10"].as_f64().unwrap() > 0.0, "{baseline}");
        }
        assert!(crate::cli::stderr(&output).contains(name), "the table has it");
    }
    // The last item decides most of the next in this data.
    let kept = |i: usize| baselines[i]["test_seen_kept"]["ndcg@10"].as_f64().unwrap();
    assert!(kept(1) > 2.0 * kept(0), "{text}");
}
