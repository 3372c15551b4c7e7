//! `b4r-bench`: tiny measurements, whose reports have to be whole. What they measure is nobody's business here.

use crate::cli::{Sandbox, assert_fails};
use crate::util::cuda::real_driver;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};

/// A model and data that are measured in no time.
const TINY: [&str; 6] =
    ["--configs=A", "--users=40", "--items=30", "--max-len=12", "--hidden-size=8", "--batch=8"];

fn bench(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-bench"));
    command.current_dir(sandbox.path("")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The report of a measurement, which has the documented form.
fn report(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let text = stdout(&bench(sandbox, &[arguments, &["--json=-"]].concat()));
    let report: Value = serde_json::from_str(&text).unwrap();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench.schema.json");
    let schema = serde_json::from_slice(&fs::read(schema).unwrap()).unwrap();
    jsonschema::validate(&schema, &report).unwrap_or_else(|error| panic!("{error}: {report}"));
    assert_eq!(report["benchmark"], arguments[0]);
    let command = report["command"].as_str().unwrap();
    assert!(arguments.iter().all(|word| command.contains(word)), "{command}");
    report
}

/// All rows of a table have positive numbers in these columns.
fn assert_positive(report: &Value, table: &str, columns: &[&str]) {
    let rows = report["tables"][table].as_array().unwrap();
    assert!(!rows.is_empty(), "{report}");
    for row in rows {
        for &column in columns {
            assert!(row[column].as_f64().is_some_and(|number| number > 0.0), "{column}: {row}");
        }
    }
}

#[test]
fn train_reports_speed_memory_and_utilisation() {
    let sandbox = Sandbox::new();
    let more = [
        "--steps=3",
        "--rounds=2",
        "--attention-dropout=0,0.1",
        "--svg=bars.svg",
        "--csv=rows.csv",
    ];
    let report = report(&sandbox, &[&["train"], &TINY[..], &more].concat());
    let columns = ["tokens_a_second", "ms_a_step", "gflops", "utilisation", "peak_mib", "loss"];
    assert_positive(&report, "train", &columns);
    assert_positive(&report, "rates", &["gemm_gflops", "memory_gbs"]);
    let rows = report["tables"]["train"].as_array().unwrap();
    let dropouts: Vec<&Value> = rows.iter().map(|row| &row["attention_dropout"]).collect();
    assert_eq!(dropouts, [&json!(0.0), &json!(0.1)]);
    assert_eq!(
        (&rows[0]["items"], &rows[0]["users"], &rows[0]["batch"]),
        (&json!(30), &json!(40), &json!(8))
    );
    let svg = fs::read_to_string(sandbox.path("bars.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("A, attention dropout 0.1"), "{svg}");
    let mut csv = csv::Reader::from_path(sandbox.path("rows.csv")).unwrap();
    let at = csv.headers().unwrap().iter().position(|name| name == "tokens_a_second").unwrap();
    let records: Vec<_> = csv.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 3, "two cases and the rates");
    assert_eq!(records[1][at].parse::<f64>().ok(), rows[1]["tokens_a_second"].as_f64());
    assert_eq!(&records[2][0], "rates");
}

#[test]
fn kernels_cover_every_operation() {
    let sandbox = Sandbox::new();
    let report = report(&sandbox, &[&["kernels"], &TINY[..], &["--steps=2", "--chip=L4"]].concat());
    assert_positive(&report, "kernels", &["milliseconds", "megabytes", "gbs", "roofline_share"]);
    let measured = report["tables"]["kernels"].as_array().unwrap();
    let has = |name: &str| measured.iter().any(|row| row["operation"] == name);
    for name in ["embedding", "qkv", "attention", "projection", "ffn", "head", "layernorm"] {
        assert!(has(name) && has(&format!("{name}_backward")), "{name}");
    }
    for name in ["item_softmax", "embedding_scatter", "adamw", "gradient_norm", "rank", "top_k"] {
        assert!(has(name), "{name}");
    }
    let products = measured.iter().filter(|row| row["gflop"].as_f64() > Some(0.0));
    assert!(products.clone().count() > 10 && products.clone().all(|row| row["gflops"].is_number()));
    assert_positive(&report, "cuda", &["launches", "least_microseconds"]);
    let is_model = |row: &Value| {
        row["from"] == "model" && row["microseconds"].is_null() && row["chip"] == "L4"
    };
    assert!(report["tables"]["cuda"].as_array().unwrap().iter().all(is_model));
}

/// On a GPU, or on the software GPU, whose times say nothing but that events and replays work.
#[test]
fn kernels_are_timed_on_a_gpu() {
    let sandbox = Sandbox::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-bench"));
    command.current_dir(sandbox.path("")).args(["kernels", "--gpu=0", "--steps=1", "--json=-"]);
    // The kernels want a width that is a multiple of 16.
    command.args(&TINY[..4]).args(["--hidden-size=16", "--batch=4", "--layers=1"]);
    if !real_driver() {
        command.env("LD_LIBRARY_PATH", softgpu::library().parent().expect("a folder"));
    }
    let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
    assert_positive(&report, "cuda", &["launches", "least_microseconds", "microseconds"]);
    let rows = report["tables"]["cuda"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["from"] != "model"), "{rows:?}");
    assert_eq!(rows.last().unwrap()["kernel"], "whole step");
    if !real_driver() {
        assert!(rows[0]["from"].as_str().unwrap().starts_with("b4r software GPU"), "{}", rows[0]);
    }
}

#[test]
fn eval_and_scaling_report_every_case() {
    let sandbox = Sandbox::new();
    let eval = report(
        &sandbox,
        &[&["eval"], &TINY[..], &["--steps=2", "--modes=full,uni5,pop5", "--most-users=25"]]
            .concat(),
    );
    assert_positive(&eval, "eval", &["users_a_second", "microseconds_a_user"]);
    let rows = eval["tables"]["eval"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| &row["mode"]).collect::<Vec<_>>(), ["full", "uni5", "pop5"]);
    assert!(rows.iter().all(|row| row["users"] == 25));
    let scaling = report(&sandbox, &["scaling", "--over=users", "--largest=1000", "--steps=1"]);
    assert_positive(&scaling, "scaling", &["microseconds_a_token", "peak_mib", "parameters"]);
    assert_eq!(scaling["tables"]["scaling"][0]["users"], 1000);
}

#[test]
fn prepare_reports_rows_a_second() {
    let sandbox = Sandbox::new();
    let drawn = report(&sandbox, &[&["prepare"], &TINY[..], &["--steps=2"]].concat());
    assert_positive(
        &drawn,
        "prepare",
        &["rows", "rows_a_second", "seconds_to_first_batch", "seconds_to_first_step"],
    );
    let data = sandbox.data().display().to_string();
    let given = report(&sandbox, &["prepare", "--steps=2", "--dataset", &data]);
    assert_positive(
        &given,
        "prepare",
        &["rows", "rows_a_second", "seconds_to_first_batch", "seconds_to_first_step"],
    );
    // The same file is what the other measurements can take their histories from.
    let trained = report(
        &sandbox,
        &["train", "--configs=A", "--steps=1", "--hidden-size=8", "--data", &data],
    );
    assert_eq!(trained["tables"]["train"][0]["items"], given["tables"]["prepare"][0]["items"]);
}

/// With the real script, where there is a Python that can run it.
#[test]
fn compare_puts_pytorch_beside() {
    let sandbox = Sandbox::new();
    let python = std::env::var("B4R_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let probe = Command::new(&python).args(["-c", "import numpy, torch"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: B4R_PYTHON names no Python with PyTorch and NumPy");
        return;
    }
    let more = [
        "--python",
        &python,
        "--steps=2",
        "--rounds=1",
        "--attention-dropout=0",
        "--variants=padded,bucketed",
        "--eval",
    ];
    let report = report(&sandbox, &[&["compare"], &TINY[..], &more].concat());
    let columns = [
        "b4r_tokens_a_second",
        "padded_tokens_a_second",
        "bucketed_tokens_a_second",
        "times_padded",
        "times_bucketed",
        "memory_share",
    ];
    assert_positive(&report, "training", &columns);
    assert_positive(
        &report,
        "evaluation",
        &["b4r_users_a_second", "pytorch_users_a_second", "times"],
    );
    assert_positive(&report, "products", &["gemm_gflops", "pytorch_gflops"]);
    assert_eq!(report["tables"]["measurements"].as_array().unwrap().len(), 3);
}

#[test]
fn wrong_arguments_are_refused_with_the_remedy() {
    let sandbox = Sandbox::new();
    for (arguments, words) in [
        (&["train", "--configs=E"][..], &["configs", "use A, B, C or D"][..]),
        (&["train", "--heads=3"], &["heads", "divide"]),
        (&["train", "--law=uniform:1:2"], &["law", "lognormal:MEDIAN:MEAN:LEAST"]),
        (&["train", "--steps=0"], &["--steps"]),
        (&["train", "--attention-dropout=1"], &["from 0 to below 1"]),
        (&["train", "--data=missing.inter", "--steps=1"], &["missing.inter"]),
        (&["kernels", "--chip=H900"], &["A100"]),
        (&["eval", "--modes=full,some"], &["modes", "pop100"]),
        (&["prepare", "--dataset=missing.inter"], &["missing.inter", "remedy"]),
        (&["scaling", "--over=layers"], &["users"]),
        (&["compare"], &["--python"]),
        (&["compare", "--python=/nowhere/python"], &["/nowhere/python", "pip install torch"]),
        (&["case", "{}"], &["case", "remedy"]),
    ] {
        assert_fails(&bench(&sandbox, arguments), 2, words);
    }
}

#[test]
fn recipes_are_trained_once_and_tabled() {
    let sandbox = Sandbox::new();
    let common = format!("dataset: {}\nhidden_size: 16\nmax_len: 16\n", sandbox.data().display());
    fs::write(sandbox.path("short.yaml"), format!("{common}epochs: 1\n")).unwrap();
    fs::write(sandbox.path("long.yaml"), format!("{common}epochs: 6\n")).unwrap();
    let arguments = ["recipes", "short.yaml", "long.yaml", "--seeds=4,5,6", "--metrics=MRR@5"];
    let flags = ["--", "--show_progress=false", "--train_batch_size=64", "--inner_size=32"];
    let output = bench(&sandbox, &[&arguments[..], &["--json=first.json"], &flags].concat());
    assert!(stdout(&output).contains("mrr@5 deviation"));
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(sandbox.path(name)).unwrap()).unwrap()
    };
    let first = read("first.json");
    let results =
        |recipe: &str, seed: u64| read(&format!("runs/recipes/{recipe}-seed{seed}/results.json"));
    for (at, recipe) in ["short", "long"].into_iter().enumerate() {
        let runs = [4, 5, 6].map(|seed| results(recipe, seed));
        let values = runs.each_ref().map(|run| run["test"]["mrr@5"].as_f64().unwrap());
        let mean = values.iter().sum::<f64>() / 3.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2.0;
        assert!(variance > 0.0, "seeds differ: {values:?}");
        let row = &first["tables"]["recipes"][at];
        assert_eq!((&row["recipe"], &row["seeds"]), (&json!(recipe), &json!(3)));
        let is_close = |column: &str, expected: f64| {
            let found = row[column].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-12, "{column}: {found}, not {expected}");
        };
        is_close("mrr@5", mean);
        is_close("mrr@5 deviation", variance.sqrt());
        is_close("markov mrr@5", runs[0]["baselines"][1]["test"]["mrr@5"].as_f64().unwrap());
    }
    // Finished runs are read, not repeated: their times are those of before.
    let again = bench(&sandbox, &[&arguments[..], &["--json=second.json"], &flags].concat());
    stdout(&again);
    let [first, second] = ["first.json", "second.json"].map(|name| read(name)["tables"].clone());
    assert_eq!(first, second);
    let wrong = [&arguments[..4], &["--metrics=ndcg@7"], &flags].concat();
    assert_fails(&bench(&sandbox, &wrong), 2, &["ndcg@7", "ndcg@5"]);
}
