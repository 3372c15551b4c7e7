//! `b4r-bench runs`: finished runs side by side.

use crate::cli::{Sandbox, assert_fails};
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

fn compare(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-bench"));
    command.current_dir(sandbox.path("")).arg("runs").args(arguments);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn runs_stand_side_by_side() {
    let sandbox = Sandbox::new();
    sandbox.finish(&sandbox.path("weak"), &["--epochs=1", "--learning_rate=0.00001"]);
    sandbox.finish(&sandbox.path("strong"), &["--epochs=12", "--learning_rate=0.01"]);
    let svg = sandbox.path("curves.svg");
    let output = compare(&sandbox, &["weak", "strong", "--svg", "curves.svg", "--over", "seconds"]);
    let table = text(&output);
    let results = |run: &str| -> Value {
        serde_json::from_slice(&fs::read(sandbox.path(run).join("results.json")).unwrap()).unwrap()
    };
    let ndcg = |run: &str| results(run)["test"]["ndcg@10"].as_f64().unwrap();
    assert!(ndcg("strong") > ndcg("weak"));
    let line =
        |run: &str| table.lines().position(|line| line.contains(&format!("│ {run} "))).unwrap();
    assert!(line("strong") < line("weak"), "best first: {table}");
    assert!(table.lines().nth(line("weak")).unwrap().contains(&format!("{:.4}", ndcg("weak"))));
    assert!(table.contains("markov ndcg@10"), "{table}");
    let row =
        table.lines().find(|line| line.contains("│ learning_rate")).expect("a key that differs");
    assert!(row.contains("0.01") && row.contains("1e-5"), "{row}");
    assert!(!table.contains("│ seed "), "the same in both: {table}");
    assert!(!table.contains("cannot be compared"));
    let drawn = fs::read_to_string(svg).unwrap();
    assert!(
        drawn.starts_with("<svg")
            && drawn.contains("strong")
            && drawn.contains("validation ndcg@10")
    );

    let json: Value =
        serde_json::from_str(&text(&compare(&sandbox, &["weak", "strong", "--json"]))).unwrap();
    assert_eq!(json[0]["run"], "strong");
    assert_eq!(json[1]["results"], results("weak"));

    let csv = text(&compare(&sandbox, &["weak", "strong", "--csv", "--metric", "HIT@5"]));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let column = reader.headers().unwrap().iter().position(|name| name == "markov/hit@5").unwrap();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    let markov = results("weak")["baselines"][1]["test"]["hit@5"].as_f64().unwrap();
    assert_eq!(rows[0][column].parse::<f64>().unwrap(), markov);
}

#[test]
fn runs_that_cannot_be_compared_say_so() {
    let sandbox = Sandbox::new();
    sandbox.finish(&sandbox.path("a/run"), &["--epochs=1"]);
    sandbox.finish(&sandbox.path("b/run"), &["--epochs=1", "--filter_seen=false"]);
    let table = text(&compare(&sandbox, &["a/run", "b/run"]));
    assert!(table.contains("cannot be compared"), "{table}");
    assert!(table.contains("a/run") && table.contains("b/run"), "names that tell apart: {table}");
    assert_fails(&compare(&sandbox, &["a/run", "--metric=ndcg@7"]), 2, &["ndcg@7", "ndcg@10"]);
    assert_fails(&compare(&sandbox, &["a"]), 2, &["results.json", "--resume"]);
}
