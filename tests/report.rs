//! `report.html` of whole runs: what it shows, that names are no markup, that it never loses a run.

use crate::cli::{Sandbox, assert_fails, files_in, stderr};
use b4r::report;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn page(run_dir: &Path) -> String {
    fs::read_to_string(run_dir.join("report.html")).expect("a report")
}

/// One file that fetches and runs nothing.
fn assert_self_contained(page: &str) {
    for part in ["<script", "src=", "href=", "@import", "url(", "javascript:"] {
        assert!(!page.contains(part), "{part}");
    }
    let addresses = page.matches("http").count();
    let namespaces = page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
    // The other one is the policy's `http-equiv`.
    assert_eq!(addresses, namespaces + 1, "addresses other than SVG's namespace");
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn shows_what_the_run_came_to() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let output = sandbox.finish(&run_dir, &["--epochs=4", "--learning_rate=0.0123"]);
    assert!(stderr(&output).contains("report.html"));
    let page = page(&run_dir);
    assert_self_contained(&page);
    let results = fs::read(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    let shown = |value: &Value| format!("{:.4}", value.as_f64().unwrap());
    for metrics in [&results["test"], &results["test_seen_kept"], &results["baselines"][1]["test"]]
    {
        assert!(page.contains(&shown(&metrics["ndcg@10"])), "{metrics}");
    }
    for text in
        ["BERT4Rec", "popularity", "markov", "Seen items left out", "Seen items ranked", "clicks"]
    {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.contains("<td class=\"changed\">0.0123</td>"), "what was set stands out");
    // Validation, all metrics, loss, speed; the legend's lines are drawn as SVG, too.
    assert_eq!(page.matches("<svg width=\"680\"").count(), 4);
    // Of the model in each of them, recall and hit being one, as are mrr and map. Baselines are drawn dash by dash.
    let lines = page.matches("<polyline").count();
    assert!(lines >= 7, "{lines}");
    assert_eq!(page.matches("stroke-dasharray").count(), 2, "two baselines in one legend");
}

#[test]
fn names_are_no_markup() {
    let sandbox = Sandbox::new();
    let data = sandbox.path("<b>x&\"'.inter");
    fs::copy(sandbox.data(), &data).unwrap();
    let run_dir = sandbox.path("run");
    let dataset = format!("--dataset={}", data.display());
    sandbox.finish(&run_dir, &["--epochs=1", &dataset]);
    let page = page(&run_dir);
    assert_self_contained(&page);
    assert!(page.contains("<h1>&lt;b&gt;x&amp;&quot;'</h1>"), "{}", &page[..3000]);
    assert!(!page.contains("<b>x"));
}

#[test]
fn a_run_outlives_its_report() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=1"]);
    fs::remove_file(run_dir.join("report.html")).unwrap();
    fs::create_dir(run_dir.join("report.html")).unwrap();
    let output = sandbox.finish(&run_dir, &["--epochs=2", "--resume"]);
    assert!(stderr(&output).contains("the run is complete, but its report"), "{}", stderr(&output));
    assert!(run_dir.join("results.json").exists());
    assert!(!output.stdout.is_empty());
    fs::remove_dir(run_dir.join("report.html")).unwrap();
    // A finished run makes it again.
    sandbox.finish(&run_dir, &["--epochs=2", "--resume"]);
    assert!(page(&run_dir).contains("2 of 2") || page(&run_dir).contains("1 of 2"));
    assert!(files_in(&run_dir).iter().all(|name| !name.ends_with(".tmp")));
}

#[test]
fn a_run_without_test_has_its_loss() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=2", "--all-data"]);
    let page = page(&run_dir);
    assert_self_contained(&page);
    assert!(page.contains("nothing held out") && page.contains("Training loss"));
    assert!(!page.contains("Seen items"));
}

#[test]
fn an_unfinished_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = report::write(folder.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--resume"), "{error}");
    fs::write(folder.path().join("results.json"), "{}").unwrap();
    assert!(report::write(folder.path()).unwrap_err().to_string().contains("not the results"));
    let sandbox = Sandbox::new();
    assert_fails(&sandbox.run(&sandbox.path("no"), &["--epochs=0"]), 2, &["epochs", "init_from"]);
}
