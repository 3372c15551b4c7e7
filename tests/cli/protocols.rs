//! Splits, sampled rankings and protocols as whole runs, and what `results.json` says about them.

use super::{Artifacts, Sandbox, assert_equal_runs, assert_fails, files_in, stderr};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What a finished run came to, which has to be as the schema says.
fn results(run_dir: &Path) -> Value {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/results.schema.json")).unwrap();
    let results = super::results(run_dir);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&results).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {results}");
    results
}

fn negatives(run_dir: &Path) -> Vec<u8> {
    fs::read(run_dir.join("negatives.safetensors")).unwrap()
}

const SAMPLED: [&str; 2] = [
    "--eval_args={split: {RS: [4, 1, 1]}, group_by: None, mode: {valid: uni20, test: pop15}}",
    "--topk=5",
];

#[test]
fn sampled_runs_are_the_same_for_any_threads_and_after_a_kill() {
    let sandbox = Sandbox::new();
    let more =
        [&SAMPLED[..], &["--valid_metric=map@5", "--metrics=[map, gauc, itemcoverage, giniindex]"]]
            .concat();
    let one = sandbox.reference(&[&more[..], &["--threads=1"]].concat());
    let drawn = negatives(&sandbox.path("reference"));
    let run_dir = sandbox.path("run");
    let mut running = sandbox.start(&run_dir, &[&more[..], &["--threads=2"]].concat());
    assert!(running.wait_for_lines(2));
    running.signal("KILL");
    running.output();
    assert_eq!(negatives(&run_dir), drawn);
    sandbox.finish(&run_dir, &["--resume", "--threads=5"]);
    assert_equal_runs(&one, &Artifacts::of(&run_dir));
    assert_eq!(negatives(&run_dir), drawn);
    let output = sandbox.run(&run_dir, &["--resume", "--eval_seed=1"]);
    assert_fails(&output, 1, &["another configuration", "eval_seed"]);
}

#[test]
fn results_say_how_they_came_about() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let more = ["--eval_seed=99", "--topk=[5,16]"];
    let output = sandbox.finish(&run_dir, &[&SAMPLED[..], &more].concat());
    let results = results(&run_dir);
    let protocol = &results["protocol"];
    assert_eq!(protocol["split"], "ratio_global");
    assert_eq!(protocol["shares"], json!([4.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0]));
    assert_eq!((&protocol["valid_mode"], &protocol["mode"]), (&json!("uni20"), &json!("pop15")));
    assert_eq!((&protocol["unit"], &protocol["negatives_seed"]), (&json!("row"), &json!(99)));
    let rows = |part: &str| protocol[format!("{part}_rows")].as_u64().unwrap();
    let lines = fs::read_to_string(sandbox.data()).unwrap().lines().count() as u64 - 1;
    // Each user's first interaction is no row.
    assert_eq!(rows("train") + rows("valid") + rows("test"), lines - 90);
    assert_eq!(rows("test"), (lines - 90) / 6);
    assert!(results.get("test_seen_kept").is_none(), "negatives are never seen items");
    for baseline in results["baselines"].as_array().unwrap() {
        assert_eq!(hit(baseline, 16), hit(&results, 16), "the same rows and negatives");
    }
    assert!(stderr(&output).contains("test: ratio_global, pop15"), "{}", stderr(&output));
    // Every target is among the first 16 of 16 candidates, unless it was left out as seen.
    let (tested, seen) = (rows("test") as f64, results["seen_targets"].as_f64().unwrap());
    assert!(seen > 0.0 && seen < tested);
    assert!((hit(&results, 16) - (1.0 - seen / tested)).abs() < 1e-12, "{}", results["test"]);
}

fn hit(results: &Value, k: usize) -> f64 {
    results["test"][format!("hit@{k}")].as_f64().unwrap()
}

/// Five places of 16: a model that knows nothing has the target in five sixteenths of the lists.
#[test]
fn what_is_learned_shows_among_negatives() {
    let sandbox = Sandbox::new();
    let of = |name: &str, more: &[&str]| {
        let run_dir = sandbox.path(name);
        let all = ["--filter_seen=false", "--topk=[5,16]", "--learning_rate=0.01", "--epochs=40"];
        sandbox.finish(&run_dir, &[&SAMPLED[..], &all, more].concat());
        let results = results(&run_dir);
        assert_eq!((hit(&results, 16), &results["seen_targets"]), (1.0, &json!(0)));
        hit(&results, 5)
    };
    let ignorant = of("ignorant", &["--max_steps=1", "--learning_rate=1e-6"]);
    assert!((ignorant - 5.0 / 16.0).abs() < 0.08, "{ignorant}");
    let trained = of("trained", &[]);
    assert!(trained > ignorant + 0.1, "{trained} after training, {ignorant} before");
}

#[test]
fn each_protocol_runs_and_is_named() {
    let sandbox = Sandbox::new();
    for (name, split, rows) in [
        ("petrov2022", "leave_one_out", 90),
        ("klenitskiy2023", "leave_one_out", 90),
        ("recbole", "leave_one_out", 90),
        ("sun2019", "leave_one_out_test_only", 0),
    ] {
        let run_dir = sandbox.path(name);
        sandbox.finish(&run_dir, &["--epochs=2", &format!("--protocol={name}")]);
        let results = results(&run_dir);
        let protocol = &results["protocol"];
        assert_eq!((&protocol["name"], &protocol["split"]), (&json!(name), &json!(split)));
        assert_eq!(protocol["valid_rows"], rows, "{name}");
        assert_eq!((&protocol["test_rows"], &protocol["changed"]), (&json!(90), &json!([])));
        assert_eq!(protocol["filter_seen"], name != "recbole");
    }
    let sun = results(&sandbox.path("sun2019"));
    assert_eq!((&sun["valid"], &sun["best_epoch"]), (&json!({}), &json!(2)));
    let fewer = sandbox.path("fewer");
    sandbox.finish(&fewer, &["--epochs=1", "--protocol=petrov2022", "--valid_users=30"]);
    let protocol = results(&fewer)["protocol"].clone();
    assert_eq!(
        (&protocol["valid_rows"], &protocol["changed"]),
        (&json!(30), &json!(["valid_users"]))
    );
}

#[test]
fn what_is_not_held_out_is_not_evaluated() {
    let sandbox = Sandbox::new();
    let valid_only = ["--eval_args.split={LS: valid_only}", "--epochs=2"];
    let run_dir = sandbox.path("valid");
    let output = sandbox.finish(&run_dir, &valid_only);
    assert!(stderr(&output).contains("no test metrics"), "{}", stderr(&output));
    let results = results(&run_dir);
    assert_eq!((&results["test"], &results["protocol"]["test_rows"]), (&json!({}), &json!(0)));
    assert!(results["valid"]["ndcg@10"].is_f64());
    assert!(!files_in(&run_dir).contains(&"negatives.safetensors".to_string()));
    let output = sandbox.run(&sandbox.path("none"), &["--eval_args.split={RS: [1, 0, 0]}"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// RecBole's lists of a user have several targets; everything else of the run is the same.
#[test]
fn recboles_lists_are_another_unit_of_the_same_run() {
    let sandbox = Sandbox::new();
    let [rows, lists] = ["rows", "lists"].map(|name| sandbox.path(name));
    let more = [
        "--eval_args={split: {RS: [4, 1, 1]}, mode: uni20}",
        "--epochs=40",
        "--learning_rate=0.01",
        "--filter_seen=false",
    ];
    sandbox.finish(&rows, &more);
    sandbox.finish(&lists, &[&more[..], &["--eval_unit=recbole"]].concat());
    let [rows, lists] = [rows, lists].map(|run_dir| results(&run_dir));
    assert_eq!(lists["protocol"]["unit"], "recbole");
    let negatives = [&rows, &lists].map(|results| &results["protocol"]["negatives"]);
    assert_eq!(negatives, [&json!("unseen"), &json!(null)]);
    assert_eq!(rows["protocol"]["test_users"], lists["protocol"]["test_users"]);
    // Several targets a list: more of the first ten are targets.
    let precision = |results: &Value| results["test"]["precision@10"].as_f64().unwrap();
    assert!(precision(&lists) > precision(&rows), "{} and {}", precision(&lists), precision(&rows));
}
