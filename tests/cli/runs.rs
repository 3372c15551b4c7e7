//! Whole runs: what they leave, that threads do not matter, ends other than the last epoch.

use super::{Artifacts, Sandbox, assert_equal_runs, files_in, stderr};
use b4r::config::ModelConfig;
use b4r::model::params::ParameterTable;
use b4r::train::model_file::read_model;
use serde_json::Value;
use std::fs;

#[test]
fn leaves_a_complete_run_directory() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("deep/er/run");
    // Without early stopping: the first epochs of so small a model may be better by luck than twenty that follow.
    let longer = ["--epochs=50", "--stopping_step=50", "--hidden_size=32", "--learning_rate=0.003"];
    let output = sandbox.finish(&run_dir, &longer);
    let expected = [
        ".lock",
        "checkpoint",
        "config.yaml",
        "events.out.tfevents.0.b4r",
        "histories.safetensors",
        "items.tsv",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "results.json",
        "users.tsv",
    ];
    assert_eq!(files_in(&run_dir), expected);
    assert_eq!(files_in(&run_dir.join("checkpoint")), ["state.safetensors"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let text = fs::read_to_string(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(last, results["test"]);
    assert_eq!(results["protocol"]["filter_seen"], true);
    for key in ["valid", "test", "test_seen_kept"] {
        let value = results[key]["ndcg@10"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{key}: {value}");
    }
    for key in ["train_seconds", "eval_seconds", "tokens_per_second", "peak_rss_bytes"] {
        assert!(results[key].as_f64().unwrap() > 0.0, "{key}");
    }
    // The next item mostly follows from the last: what was learnt must show.
    assert!(results["test_seen_kept"]["hit@10"].as_f64().unwrap() > 0.5, "{text}");
    let mut model = ModelConfig { hidden_size: 32, inner_size: 32, ..ModelConfig::default() };
    model.max_len = 16;
    let table = ParameterTable::new(&model, 50);
    assert_eq!(results["parameters"], table.total);
    read_model(&run_dir.join("model.safetensors"), &table).unwrap();
    assert!(stderr(&output).contains("ndcg"), "a table for people");
}

#[test]
fn threads_do_not_change_a_bit() {
    let sandbox = Sandbox::new();
    let one = sandbox.reference(&["--threads=1"]);
    for threads in ["--threads=2", "--threads=5"] {
        let run_dir = sandbox.path(threads);
        sandbox.finish(&run_dir, &[threads]);
        assert_equal_runs(&one, &Artifacts::of(&run_dir));
    }
}

#[test]
fn another_seed_changes_the_model() {
    let sandbox = Sandbox::new();
    let one = sandbox.reference(&["--epochs=1"]);
    let run_dir = sandbox.path("other");
    sandbox.finish(&run_dir, &["--epochs=1", "--seed=8"]);
    assert!(one != Artifacts::of(&run_dir));
}

#[test]
fn max_steps_ends_within_an_epoch_and_finishes() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--max_steps=3"]);
    let text = fs::read_to_string(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(results["steps"], 3);
    assert_eq!(results["ended_by"], "max_steps");
    assert!(results["test"]["ndcg@10"].is_f64());
    assert_eq!(Artifacts::of(&run_dir).metrics.len(), 1);
}

#[test]
fn early_stopping_keeps_the_best_epoch() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=200", "--stopping_step=1", "--learning_rate=0.01"]);
    let text = fs::read_to_string(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(results["ended_by"], "early stopping");
    let epochs = results["epochs"].as_u64().unwrap();
    assert_eq!(results["best_epoch"].as_u64().unwrap() + 2, epochs);
    let metrics = Artifacts::of(&run_dir).metrics;
    assert_eq!(metrics.len() as u64, epochs);
    let best = &metrics[epochs as usize - 3];
    assert_eq!(best["valid"], results["valid"]);
    let value = |line: &Value| line["valid"]["ndcg@10"].as_f64().unwrap();
    assert!(metrics.iter().all(|line| value(line) <= value(best)));
}

#[test]
fn a_finished_run_is_told_again_or_prolonged() {
    let sandbox = Sandbox::new();
    let long = sandbox.reference(&["--epochs=5"]);
    let run_dir = sandbox.path("run");
    let first = sandbox.finish(&run_dir, &["--epochs=3"]);
    let before = fs::read(run_dir.join("results.json")).unwrap();
    let again = sandbox.finish(&run_dir, &["--epochs=3", "--resume"]);
    assert!(stderr(&again).contains("is finished"), "{}", stderr(&again));
    assert_eq!(first.stdout, again.stdout);
    assert_eq!(fs::read(run_dir.join("results.json")).unwrap(), before);
    let longer = sandbox.finish(&run_dir, &["--epochs=5", "--resume", "--threads=1"]);
    assert!(stderr(&longer).contains("resuming after 3 epochs"), "{}", stderr(&longer));
    assert_equal_runs(&long, &Artifacts::of(&run_dir));
}

#[test]
fn an_unplanned_last_evaluation_does_not_change_what_follows() {
    let sandbox = Sandbox::new();
    let long = sandbox.reference(&["--epochs=5", "--eval_step=2"]);
    let lines: Vec<_> = long.metrics.iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 4, 5]);
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=3", "--eval_step=2"]);
    sandbox.finish(&run_dir, &["--epochs=5", "--eval_step=2", "--resume"]);
    assert_equal_runs(&long, &Artifacts::of(&run_dir));
}

#[test]
fn default_directories_are_numbered() {
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_b4r-train"));
        command.current_dir(sandbox.path("")).arg("--dataset=clicks.inter").args(more);
        command.args(["--hidden_size=16", "--max_steps=1", "--seed=3", "--show_progress=false"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    run(&[]);
    run(&[]);
    assert_eq!(files_in(&sandbox.path("runs")), ["clicks-seed3", "clicks-seed3-2"]);
    let again = run(&["--resume"]);
    assert!(stderr(&again).contains("clicks-seed3-2 is finished"), "{}", stderr(&again));
    assert_eq!(files_in(&sandbox.path("runs")).len(), 2);
}
