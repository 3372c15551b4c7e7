//! [`Recommender`] against the engine that trained and judged the model.

use super::{ITEMS, interactions, run_dir};
use b4r::batch::evaluation;
use b4r::config::{ModelConfig, TrainConfig};
use b4r::cpu::{CpuEngine, Scorer};
use b4r::data::{self, EvalRow, Sequences};
use b4r::model::engine::{Engine, State};
use b4r::model::init::initial_parameters;
use b4r::model::params::ParameterTable;
use b4r::recommend::{Options, POPULARITY, Recommendation, Recommender, Request};
use b4r::train::model_file::read_model;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static RECOMMENDER: LazyLock<Recommender> =
    LazyLock::new(|| Recommender::open(run_dir(), 2).unwrap());

fn history(names: &[&str]) -> Request {
    Request { history: Some(names.iter().map(|name| name.to_string()).collect()), user: None }
}

fn user(name: &str) -> Request {
    Request { history: None, user: Some(name.to_string()) }
}

fn names(result: &Recommendation) -> Vec<&str> {
    result.items.iter().map(|scored| scored.item.as_str()).collect()
}

fn top_k(request: Request, options: &Options) -> Recommendation {
    RECOMMENDER.top_k(&[request], options).unwrap().remove(0)
}

/// All items by the rank that the training engine gives them after `history` (indices, from 1).
fn ranked_by_engine(history: &[u32], seen: &[u32]) -> Vec<String> {
    let model = &RECOMMENDER.config().model;
    let table = ParameterTable::new(model, ITEMS);
    let parameters = read_model(&run_dir().join("model.safetensors"), &table).unwrap();
    let moments = || vec![0.0; table.total];
    let mut engine = CpuEngine::new(model, &TrainConfig::default(), ITEMS, 1).unwrap();
    engine
        .load_state(&State { parameters, first_moment: moments(), second_moment: moments() })
        .unwrap();
    let items = [history, &[1]].concat();
    let sequences = Sequences { offsets: vec![0, items.len() as u64], items };
    let rows = [EvalRow { user: 0, position: history.len() as u32 }];
    let mut batch = evaluation::rows(&sequences, &rows, ITEMS, model);
    // The one row stands there once for each item as its target.
    batch.rows = vec![batch.rows[0]; ITEMS];
    batch.cu_rows = vec![0, ITEMS as u32];
    batch.targets = (1..=ITEMS as u32).collect();
    let ranks = engine.rank(&batch, &vec![seen; ITEMS]).unwrap();
    let left: BTreeMap<u32, usize> =
        (0..ITEMS).filter(|&item| ranks[item] != u32::MAX).map(|i| (ranks[i], i)).collect();
    left.values().map(|&item| RECOMMENDER.items().get(item).to_string()).collect()
}

#[test]
fn order_is_the_evaluations() {
    let (dataset, _) = data::load(&RECOMMENDER.config().data, false).expect("the data of the run");
    assert_eq!(dataset.users.len(), RECOMMENDER.users().len());
    for number in [0, 17, 89] {
        let own = dataset.sequences.get(number);
        let mut seen = own.to_vec();
        seen.sort_unstable();
        seen.dedup();
        let name = dataset.users.get(number);
        for (filter_seen, seen) in [(true, &seen[..]), (false, &[])] {
            let expected = ranked_by_engine(own, seen);
            let options = Options { k: ITEMS, filter_seen, ..Options::default() };
            let result = top_k(user(name), &options);
            assert_eq!(names(&result), expected, "{name}");
            assert!(result.items.is_sorted_by(|a, b| a.score >= b.score));
            // The same from the items themselves, with a smaller k.
            let own: Vec<&str> = own.iter().map(|&i| dataset.items.get(i as usize - 1)).collect();
            let few = top_k(history(&own), &Options { k: 4, ..options });
            assert_eq!(names(&few), expected[..4.min(expected.len())], "{name}");
        }
    }
}

#[test]
fn many_requests_at_once_get_what_each_gets_alone() {
    let users: Vec<Request> = RECOMMENDER.users().iter().map(user).collect();
    // Far more tokens than go through the network at once.
    let requests: Vec<Request> = users.iter().cycle().take(1500).cloned().collect();
    let options = Options { k: 5, ..Options::default() };
    let together = RECOMMENDER.top_k(&requests, &options).unwrap();
    assert_eq!(together.len(), requests.len());
    for (request, together) in requests.iter().zip(&together).step_by(37) {
        let alone = top_k(request.clone(), &options);
        assert_eq!(together.user, request.user);
        assert_eq!(names(together), names(&alone));
        for (a, b) in together.items.iter().zip(&alone.items) {
            assert!((a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
        }
    }
}

#[test]
fn callers_on_several_threads_do_not_disturb_each_other() {
    let requests: Vec<Request> = RECOMMENDER.users().iter().map(user).collect();
    let expected = RECOMMENDER.top_k(&requests, &Options::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let again = RECOMMENDER.top_k(&requests, &Options::default()).unwrap();
                    assert!(again == expected);
                }
            });
        }
    });
    let single = Recommender::open(run_dir(), 1).unwrap();
    assert!(single.top_k(&requests, &Options::default()).unwrap() == expected);
}

#[test]
fn lists_allow_and_deny() {
    let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let options = Options { k: ITEMS, filter_seen: false, ..Options::default() };
    let all = top_k(history(&["i3", "i24"]), &options);
    assert_eq!(all.items.len(), ITEMS);
    let allowed = list(&["i7", "i3", "unheard of", "i9"]);
    let some = Options { allow: Some(allowed.clone()), ..options.clone() };
    let result = top_k(history(&["i3", "i24"]), &some);
    let expected: Vec<&str> =
        names(&all).into_iter().filter(|name| allowed.iter().any(|a| a == name)).collect();
    assert_eq!(names(&result), expected);
    assert_eq!(RECOMMENDER.select(&some).unwrap().unknown, ["unheard of"]);
    let fewer = Options { deny: list(&["i7"]), ..some.clone() };
    assert_eq!(names(&top_k(history(&["i3"]), &fewer)).len(), 2);
    let unseen = Options { filter_seen: true, ..fewer };
    assert_eq!(names(&top_k(history(&["i3"]), &unseen)), ["i9"]);
    for (options, words) in [
        (Options { allow: Some(list(&["x"])), ..options.clone() }, "allow"),
        (Options { allow: Some(Vec::new()), ..options.clone() }, "allow"),
        (
            Options { deny: RECOMMENDER.items().iter().map(String::from).collect(), ..options },
            "deny",
        ),
        (Options { k: 0, ..Options::default() }, "k: is 0"),
    ] {
        let error = RECOMMENDER.top_k(&[history(&["i3"])], &options).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn unknown_items_are_told_and_unknown_users_refused() {
    let with = top_k(history(&["x", "i3", "y", "i24"]), &Options::default());
    let without = top_k(history(&["i3", "i24"]), &Options::default());
    assert_eq!(with.items, without.items);
    assert_eq!(with.unknown, ["x", "y"]);
    assert_eq!(with.fallback, None);
    let error = RECOMMENDER.top_k(&[user("nobody")], &Options::default()).unwrap_err();
    assert!(error.to_string().contains("`nobody`"), "{error}");
}

#[test]
fn nothing_to_go_by_is_answered_by_popularity() {
    let text = std::fs::read_to_string(interactions()).unwrap();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in text.lines().skip(1) {
        *counts.entry(line.split('\t').nth(1).unwrap()).or_default() += 1;
    }
    for request in [history(&[]), history(&["x"])] {
        let options = Options { k: 5, deny: vec!["i3".to_string()], ..Options::default() };
        let between = [history(&["i3"]), request, history(&["i4"])];
        let result = RECOMMENDER.top_k(&between, &options).unwrap().remove(1);
        assert_eq!(result.fallback, Some(POPULARITY));
        let scores: Vec<f32> = result.items.iter().map(|scored| scored.score).collect();
        let own: Vec<f32> = names(&result).iter().map(|name| counts[name] as f32).collect();
        assert_eq!(scores, own);
        let mut best: Vec<u32> =
            counts.iter().filter(|(name, _)| **name != "i3").map(|(_, count)| *count).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(scores, best[..5].iter().map(|&count| count as f32).collect::<Vec<_>>());
    }
}

#[test]
fn scores_and_vectors_agree_with_the_lists() {
    let requests = [history(&["i3", "i24"]), user("u5"), history(&[])];
    let options = Options { k: 8, ..Options::default() };
    let lists = RECOMMENDER.top_k(&requests, &options).unwrap();
    let asked: Vec<(Request, Vec<String>)> = requests
        .iter()
        .zip(&lists)
        .map(|(request, list)| {
            let mut items: Vec<String> = names(list).into_iter().map(String::from).collect();
            items.insert(2, "unheard of".to_string());
            (request.clone(), items)
        })
        .collect();
    let scores = RECOMMENDER.score(&asked).unwrap();
    let queries: Vec<_> = requests.iter().map(|r| RECOMMENDER.query(r).unwrap()).collect();
    let users = RECOMMENDER.user_vectors(&queries).unwrap();
    let (vectors, bias) = RECOMMENDER.item_vectors();
    let d = RECOMMENDER.config().model.hidden_size;
    for (row, (list, mut scores)) in lists.iter().zip(scores).enumerate() {
        assert_eq!(scores.remove(2), None);
        for (scored, score) in list.items.iter().zip(scores) {
            assert!((scored.score - score.unwrap()).abs() < 1e-4, "{scored:?} {score:?}");
            if list.fallback.is_none() {
                let item = RECOMMENDER.items().iter().position(|id| id == scored.item).unwrap();
                let pairs = users[row * d..][..d].iter().zip(&vectors[item * d..][..d]);
                let product: f32 = pairs.map(|(a, b)| a * b).sum();
                assert!((product + bias[item] - scored.score).abs() < 1e-4, "{scored:?}");
            }
        }
    }
}

#[test]
fn similar_items_are_those_with_the_nearest_embeddings() {
    let model = &RECOMMENDER.config().model;
    let (table, d) = (ParameterTable::new(model, ITEMS), model.hidden_size);
    let weights = read_model(&run_dir().join("model.safetensors"), &table).unwrap();
    let vector = |item: usize| &weights[table.item_embedding.start + (item + 1) * d..][..d];
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let of = RECOMMENDER.items().iter().position(|id| id == "i3").unwrap();
    let mut expected: Vec<(f32, &str)> = (0..ITEMS)
        .filter(|&item| item != of)
        .map(|item| (cosine(vector(of), vector(item)), RECOMMENDER.items().get(item)))
        .collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0));
    let found = RECOMMENDER.similar("i3", 200).unwrap();
    assert_eq!(found.len(), ITEMS - 1);
    for (found, (cosine, name)) in found.iter().zip(expected) {
        assert_eq!(found.item, name);
        assert!((found.score - cosine).abs() < 1e-5);
    }
    assert!(RECOMMENDER.similar("x", 3).unwrap_err().to_string().contains("`x`"));
    assert!(RECOMMENDER.similar("i3", 0).unwrap_err().to_string().contains("k: is 0"));
}

/// More items and rows than a tile holds, whatever the number of threads.
#[test]
fn large_catalogues_are_worked_through_in_tiles() {
    let model = ModelConfig { max_len: 8, initializer_range: 0.3, ..ModelConfig::default() };
    let (items, rows, k) = (20_000, 40, 7);
    let table = ParameterTable::new(&model, items);
    let weights = initial_parameters(&table, model.initializer_range, 3);
    let scorer = |threads| Scorer::new(&model, items, weights.clone(), threads).unwrap();
    let sequences = Sequences {
        offsets: (0..=rows).map(|row| row * 5).collect(),
        items: (0..rows as u32 * 5).map(|token| token * 97 % items as u32 + 1).collect(),
    };
    let targets: Vec<EvalRow> =
        (0..rows as u32).map(|user| EvalRow { user, position: 4 }).collect();
    let batch = evaluation::rows(&sequences, &targets, items, &model);
    let seen: Vec<Vec<u32>> = (1..=rows as u32).map(|row| (row..row + 9000).collect()).collect();
    let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
    let one = scorer(1);
    let candidates = one.candidates(None, &[19_999]);
    let found = one.top_k(&batch, &seen, &candidates, k).unwrap();
    assert!(found == scorer(5).top_k(&batch, &seen, &candidates, k).unwrap());
    let all: Vec<u32> = (1..=items as u32).collect();
    let scores = one.score(&batch, &vec![&all[..]; rows as usize]).unwrap();
    for ((found, mut scores), seen) in found.into_iter().zip(scores).zip(seen) {
        for &left_out in seen.iter().chain(&[19_999]) {
            scores[left_out as usize - 1] = f32::NEG_INFINITY;
        }
        assert_eq!(found.len(), k);
        let of_found: Vec<f32> = found.iter().map(|e| scores[e.item as usize - 1]).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        // Two ways to sum a product differ by rounding, and so may the order of near ties.
        for ((own, best), entry) in of_found.iter().zip(&scores).zip(&found) {
            assert!((own - best).abs() < 1e-3 && (own - entry.score).abs() < 1e-3);
        }
    }
}
