//! Weights to and from RecBole's own BERT4Rec (tests/fixtures/make_recbole.py).

use crate::cli::{Sandbox, assert_fails, stderr};
use b4r::config::read;
use b4r::recommend::{Recommender, Request};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

#[derive(Deserialize)]
struct Fixture {
    interactions: Vec<(String, String, u32)>,
    items: Vec<String>,
    histories: Vec<Vec<String>>,
    /// `[histories, items]`.
    scores: Vec<Vec<f32>>,
}

fn fixture() -> Fixture {
    serde_json::from_slice(&fs::read(format!("{FOLDER}/recbole.json")).unwrap()).unwrap()
}

fn state_dict() -> PathBuf {
    PathBuf::from(format!("{FOLDER}/recbole.safetensors"))
}

/// Writes the interactions, in RecBole's order or from the end, which numbers the items otherwise.
fn write_data(path: &Path, reversed: bool) {
    let mut rows = fixture().interactions;
    if reversed {
        rows.reverse();
    }
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    rows.iter().for_each(|(user, item, time)| writeln!(text, "{user}\t{item}\t{time}").unwrap());
    fs::write(path, text).unwrap();
}

/// A run with RecBole's weights, which trains nothing.
fn taken_over(sandbox: &Sandbox, name: &str, reversed: bool) -> PathBuf {
    let (data, run_dir) = (sandbox.path("tiny.inter"), sandbox.path(name));
    write_data(&data, reversed);
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-train"));
    command
        .arg(format!("--dataset={}", data.display()))
        .arg(format!("--run-dir={}", run_dir.display()));
    command.arg(format!("--init-from={}", state_dict().display())).arg("--epochs=0");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("23 items keep their vectors"), "{}", stderr(&output));
    run_dir
}

fn assert_scores(recommender: &Recommender, fixture: &Fixture) {
    let requests: Vec<_> = fixture
        .histories
        .iter()
        .map(|history| {
            (Request { history: Some(history.clone()), user: None }, fixture.items.clone())
        })
        .collect();
    let found = recommender.score(&requests).unwrap();
    for (found, expected) in found.iter().zip(&fixture.scores) {
        let largest = expected.iter().fold(0f32, |most, score| most.max(score.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let found = found.unwrap();
            assert!((found - expected).abs() <= 1e-5 * largest.max(1.0), "{found} {expected}");
        }
    }
}

#[test]
fn recboles_weights_score_as_in_recbole() {
    let (sandbox, fixture) = (Sandbox::new(), fixture());
    for reversed in [false, true] {
        let run_dir = taken_over(&sandbox, if reversed { "reversed" } else { "same" }, reversed);
        let recommender = Recommender::open(&run_dir, 1).unwrap();
        let order: Vec<&str> = recommender.items().iter().collect();
        assert_eq!(order == fixture.items, !reversed, "numbered otherwise");
        assert_scores(&recommender, &fixture);
        let model = read(&run_dir.join("config.yaml")).unwrap().model;
        assert_eq!((model.hidden_size, model.inner_size, model.n_layers), (16, 24, 2));
        assert_eq!((model.n_heads, model.max_len), (4, 6));
    }
}

/// Names, types, shapes and bytes, without PAD's and MASK's rows being told apart from the others.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        (tensor.shape().to_vec(), tensor.data().to_vec())
    };
    file.names().into_iter().map(|name| (name.to_string(), of(name))).collect()
}

#[test]
fn our_file_is_recboles_state_dict() {
    let sandbox = Sandbox::new();
    let run_dir = taken_over(&sandbox, "run", false);
    let (ours, theirs) = (tensors(&run_dir.join("model.safetensors")), tensors(&state_dict()));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert!(ours == theirs, "bit for bit, where the items are numbered alike");
}

/// `B4R_RECBOLE` names a Python with RecBole 1.2.1.
#[test]
fn recbole_loads_what_was_trained_here() {
    let Ok(python) = std::env::var("B4R_RECBOLE") else {
        eprintln!("skipped: B4R_RECBOLE names no Python with recbole 1.2.1");
        return;
    };
    let (sandbox, fixture) = (Sandbox::new(), fixture());
    let (data, run_dir) = (sandbox.path("tiny.inter"), sandbox.path("run"));
    write_data(&data, false);
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-train"));
    command
        .arg(format!("--dataset={}", data.display()))
        .arg(format!("--run-dir={}", run_dir.display()));
    let network =
        "--hidden_size=16 --inner_size=24 --n_layers=2 --n_heads=4 --max_len=6 --epochs=3";
    assert!(command.args(network.split(' ')).output().unwrap().status.success());
    let mut check = Command::new(python);
    check
        .arg(format!("{FOLDER}/make_recbole.py"))
        .arg("--check")
        .arg(run_dir.join("model.safetensors"));
    let mut child = check.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let histories = serde_json::to_vec(&fixture.histories).unwrap();
    child.stdin.take().unwrap().write_all(&histories).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let scores = serde_json::from_str(said.lines().last().unwrap()).expect("scores");
    assert_scores(&Recommender::open(&run_dir, 1).unwrap(), &Fixture { scores, ..fixture });
}

/// The state dict with other metadata.
fn with_metadata(path: &Path, change: impl Fn(&mut BTreeMap<String, String>)) {
    let bytes = fs::read(state_dict()).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut metadata = serde_json::from_value(header["__metadata__"].clone()).unwrap();
    change(&mut metadata);
    header["__metadata__"] = serde_json::to_value(metadata).unwrap();
    let header = serde_json::to_vec(&header).unwrap();
    let parts = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]];
    fs::write(path, parts.concat()).unwrap();
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("weights.safetensors");
    write_data(&sandbox.path("tiny.inter"), false);
    let refused = |code: i32, more: &[&str], words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-train"));
        command.current_dir(sandbox.path("")).args(["--dataset=tiny.inter", "--epochs=1"]);
        command.arg("--init-from=weights.safetensors").args(more);
        assert_fails(&command.output().unwrap(), code, words);
        assert!(!sandbox.path("runs").exists());
    };
    fs::write(&file, "no tensors").unwrap();
    refused(1, &[], &["weights.safetensors", "docs/weights.md"]);
    with_metadata(&file, |facts| drop(facts.remove("field2id_token")));
    refused(1, &[], &["field2id_token"]);
    with_metadata(&file, |facts| {
        drop(facts.insert("field2id_token".into(), "[\"[PAD]\", \"a\"]".into()))
    });
    refused(1, &[], &["2 entries", "23 items"]);
    with_metadata(&file, |facts| drop(facts.insert("field2id_token".into(), "{}".into())));
    refused(1, &[], &["no JSON list"]);
    with_metadata(&file, |facts| drop(facts.insert("hidden_act".into(), "\"swish\"".into())));
    refused(2, &[], &["hidden_act", "swish"]);
    with_metadata(&file, |facts| drop(facts.insert("n_heads".into(), "[2".into())));
    refused(1, &[], &["n_heads", "[2"]);
    fs::copy(state_dict(), &file).unwrap();
    refused(2, &["--hidden_size=32"], &["hidden_size", "16", "32"]);
    refused(2, &["--n_heads=2"], &["n_heads", "4"]);
    refused(2, &["--init-from=nowhere.safetensors"], &["neither a directory nor a file"]);
}
