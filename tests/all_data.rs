//! Training on everything, for deployment.

use crate::cli::{Artifacts, Sandbox, assert_equal_runs, assert_fails, results, stderr};
use b4r::config::{Config, read};
use b4r::model::params::ParameterTable;
use b4r::train::checkpoint::Checkpoint;
use b4r::train::model_file::read_model;
use b4r::train::prepare::prepare;
use serde_json::json;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

#[test]
fn everything_trains_and_nothing_is_evaluated() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let output = sandbox.finish(&run_dir, &["--all_data", "--epochs=3"]);
    let rows = fs::read_to_string(sandbox.data()).unwrap().lines().count() - 1;
    let text = stderr(&output);
    assert!(text.contains(&format!(" {rows} training interactions")), "{text}");
    assert!(text.contains("nothing was held out"), "{text}");
    assert_eq!(output.stdout, b"{}\n");
    let results = results(&run_dir);
    assert_eq!(results["protocol"]["split"], "all_data");
    assert_eq!(results["protocol"]["test_rows"], 0);
    assert_eq!((&results["valid"], &results["test"]), (&json!({}), &json!({})));
    assert!(results.get("test_seen_kept").is_none());
    assert_eq!((&results["best_epoch"], &results["epochs"]), (&json!(3), &json!(3)));
    assert_eq!(results["ended_by"], "epochs");
    let lines = Artifacts::of(&run_dir).metrics;
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["valid"] == json!({}) && line["train_loss"].is_f64()));
    let config = read(&run_dir.join("config.yaml")).unwrap();
    let table = ParameterTable::new(&config.model, 50);
    let model = read_model(&run_dir.join("model.safetensors"), &table).unwrap();
    let checkpoint = Checkpoint::open(&run_dir.join("checkpoint/state.safetensors")).unwrap();
    assert!(checkpoint.read(&table).unwrap().0.parameters == model, "the last weights are kept");
}

#[test]
fn short_histories_are_enough() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.data(), "user_id:token\titem_id:token\nu\ta\nu\tb\nv\ta\n").unwrap();
    let mut config = Config::default();
    config.data.dataset = sandbox.data().to_str().unwrap().to_string();
    config.data.all_data = true;
    let prepared = prepare(&config).unwrap();
    assert_eq!(prepared.split.train_lengths, [2, 1]);
    assert_eq!(prepared.plan.interactions, 3);
    sandbox.finish(&sandbox.path("run"), &["--all_data", "--epochs=1"]);
    let output = sandbox.run(&sandbox.path("other"), &["--epochs=1"]);
    assert_fails(&output, 2, &["none of the 2 users has 3 interactions"]);
}

#[test]
fn epochs_have_to_be_given() {
    let resolve =
        |flags: &[&str]| b4r::config::resolve(flags.iter().map(OsString::from)).map(|r| r.config);
    for flags in [&["--all_data"][..], &["--all_data", "--max_steps=5"]] {
        let error = resolve(flags).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("epochs: has to be given with all_data"), "{error}");
    }
    assert_eq!(resolve(&["--all_data", "--epochs=2"]).unwrap().train.epochs, 2);
    assert!(resolve(&["--all_data=false"]).is_ok());
}

#[test]
fn killed_and_resumed_it_ends_in_the_same_bits() {
    let sandbox = Sandbox::new();
    let settings = ["--all_data", "--epochs=20", "--eval_step=3"];
    let one = sandbox.reference(&[&settings[..], &["--threads=1"]].concat());
    let run_dir = sandbox.path("run");
    for (lines, more) in [(1, "--threads=2"), (3, "--resume")] {
        let mut running = sandbox.start(&run_dir, &[&settings[..], &[more]].concat());
        assert!(running.wait_for_lines(lines));
        running.signal("KILL");
        assert_eq!(running.output().status.code(), None, "it came too late");
    }
    // Told nothing but where: epochs are known from the first start.
    sandbox.finish(&run_dir, &["--resume", "--epochs=20", "--threads=2"]);
    assert_equal_runs(&one, &Artifacts::of(&run_dir));
    let output = sandbox.run(&run_dir, &["--resume", "--epochs=21", "--all_data=false"]);
    assert_fails(&output, 1, &["another configuration", "all_data: true became false"]);
}

#[test]
fn a_finished_run_is_told_again_or_prolonged() {
    let sandbox = Sandbox::new();
    let long = sandbox.reference(&["--all_data", "--epochs=5"]);
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--all_data", "--epochs=3"]);
    let before = fs::read(run_dir.join("model.safetensors")).unwrap();
    let again = sandbox.finish(&run_dir, &["--resume", "--epochs=3"]);
    assert!(stderr(&again).contains("is finished"), "{}", stderr(&again));
    assert_eq!(fs::read(run_dir.join("model.safetensors")).unwrap(), before);
    sandbox.finish(&run_dir, &["--resume", "--epochs=5"]);
    assert_equal_runs(&long, &Artifacts::of(&run_dir));
}

#[test]
fn the_nightly_update() {
    let sandbox = Sandbox::new();
    let [first, second] = ["first", "second"].map(|name| sandbox.path(name));
    sandbox.finish(&first, &["--epochs=4"]);
    let init_from = format!("--init_from={}", first.display());
    let output = sandbox.finish(&second, &["--all_data", "--epochs=1", &init_from]);
    assert!(
        stderr(&output).contains("50 items keep their vectors, 0 are new"),
        "{}",
        stderr(&output)
    );
    // It goes on where the first run was, well below what an epoch from nothing reaches.
    let loss = |run: &Path| Artifacts::of(run).metrics[0]["train_loss"].as_f64().unwrap();
    assert!(loss(&second) < loss(&first), "{} and {}", loss(&second), loss(&first));
}
