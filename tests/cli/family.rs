//! The other members of the model family, as whole runs: they learn, and neither threads nor a stop on the way change
//! a bit.

use super::{Artifacts, Sandbox, assert_equal_runs, stderr};
use serde_json::Value;
use std::fs;

fn learns_and_resumes(settings: &[&str]) {
    let sandbox = Sandbox::new();
    let settings =
        [settings, &["--epochs=25", "--hidden_size=32", "--learning_rate=0.003"]].concat();
    let reference = sandbox.reference(&[&settings[..], &["--threads=1"]].concat());
    let text = fs::read_to_string(sandbox.path("reference/results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    // The next item mostly follows from the last; ten of fifty by chance would be 0.2.
    assert!(results["test_seen_kept"]["hit@10"].as_f64().unwrap() > 0.5, "{settings:?}: {text}");
    let causal = settings.contains(&"--objective=causal");
    assert_eq!(results["model"] == "SASRec-style (causal)", causal, "{text}");
    let report = fs::read_to_string(sandbox.path("reference/report.html")).unwrap();
    assert_eq!(report.contains("BERT4Rec"), !causal, "the report calls the model what it is");
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &[&settings[..], &["--threads=5", "--max_steps=13"]].concat());
    let output = sandbox.finish(&run_dir, &[&settings[..], &["--threads=2", "--resume"]].concat());
    assert!(stderr(&output).contains("resuming after"), "{}", stderr(&output));
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

#[test]
fn causal() {
    learns_and_resumes(&["--objective=causal"]);
}

#[test]
fn sampled_softmax() {
    learns_and_resumes(&["--loss_type=sampled_softmax", "--n_negatives=12", "--objective=causal"]);
}

#[test]
fn gbce() {
    learns_and_resumes(&["--loss_type=gBCE", "--n_negatives=12", "--objective=causal"]);
}
