//! Beginning with the weights of an earlier run, on newer data.

use crate::cli::{Artifacts, Sandbox, assert_equal_runs, assert_fails, interactions, stderr};
use b4r::config::{Config, read};
use b4r::data::Vocabulary;
use b4r::model::params::ParameterTable;
use b4r::train::id_file;
use b4r::train::init_from::{Counts, Source};
use b4r::train::model_file::{read_model, write_model};
use b4r::train::rundir::items_sha256;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// An earlier run `old` on the sandbox's data, and newer data in `new.inter`.
struct Nightly {
    sandbox: Sandbox,
    old: PathBuf,
    dataset: String,
}

impl Nightly {
    fn new(more: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let old = sandbox.path("old");
        sandbox.finish(&old, more);
        let new = sandbox.path("new.inter");
        fs::write(&new, newer()).unwrap();
        let dataset = format!("--dataset={}", new.display());
        Nightly { sandbox, old, dataset }
    }

    /// Flags that begin with the earlier run.
    fn flags<'a>(&'a self, more: &[&'a str], init_from: &'a str) -> Vec<&'a str> {
        [&[self.dataset.as_str(), init_from], more].concat()
    }

    fn init_from(&self) -> String {
        format!("--init_from={}", self.old.display())
    }
}

/// Other interactions, lines in another order, five items gone and others in their place.
fn newer() -> String {
    let text = interactions(2);
    let (header, rows) = text.split_once('\n').unwrap();
    let mut rows: Vec<String> = (0..5)
        .fold(rows.to_string(), |rows, i| rows.replace(&format!("\ti{i}\t"), &format!("\tn{i}\t")))
        .lines()
        .map(str::to_string)
        .collect();
    rows.reverse();
    format!("{header}\n{}\n", rows.join("\n"))
}

fn items(run_dir: &Path) -> Vocabulary {
    id_file::read(&run_dir.join("items.tsv"), "item", 1).unwrap()
}

fn numbers(items: &Vocabulary) -> HashMap<&str, usize> {
    items.iter().zip(1..).collect()
}

/// All tensors of a run, by name.
fn tensors(run_dir: &Path) -> HashMap<String, Vec<f32>> {
    let config = read(&run_dir.join("config.yaml")).unwrap();
    let table = ParameterTable::new(&config.model, items(run_dir).len());
    let weights = read_model(&run_dir.join("model.safetensors"), &table).unwrap();
    by_name(&table, &weights)
}

fn by_name(table: &ParameterTable, weights: &[f32]) -> HashMap<String, Vec<f32>> {
    let of = |tensor: &b4r::model::params::Tensor| weights[tensor.range()].to_vec();
    table.tensors.iter().map(|tensor| (tensor.name.clone(), of(tensor))).collect()
}

/// The weights a run of the model in `old` would begin with for a catalogue of `items`.
fn begun(old: &Path, items: &Vocabulary) -> (HashMap<String, Vec<f32>>, Counts) {
    let mut config =
        Config { model: read(&old.join("config.yaml")).unwrap().model, ..Config::default() };
    config.train.init_from = Some(old.to_path_buf());
    let table = ParameterTable::new(&config.model, items.len());
    let source = Source::open(&config).unwrap().unwrap();
    let (weights, counts) = source.weights(&config, items, 0, &table).unwrap();
    (by_name(&table, &weights), counts)
}

#[test]
fn rows_follow_their_ids() {
    for tied in ["--tie_embeddings=true", "--tie_embeddings=false"] {
        let nightly = Nightly::new(&[tied]);
        let (old, before) = (tensors(&nightly.old), items(&nightly.old));
        let mut after = Vocabulary::default();
        // Backwards, every third gone, and two that are new.
        after.push("new 1");
        let kept = (0..before.len()).rev().filter(|i| i % 3 != 0);
        kept.clone().for_each(|i| after.push(before.get(i)));
        after.push("new 2");
        let (new, counts) = begun(&nightly.old, &after);
        let kept = kept.count();
        assert_eq!((counts.kept, counts.new, counts.expired), (kept, 2, before.len() - kept));
        let numbers = numbers(&before);
        for (name, values) in &new {
            let width = match name.as_str() {
                "item_embedding.weight" | "output_weight" => 16,
                "output_bias" => 1,
                _ => {
                    assert_eq!(values, &old[name], "{name}");
                    continue;
                }
            };
            let row = |values: &[f32], row: usize| values[row * width..(row + 1) * width].to_vec();
            assert_eq!(row(values, 0), row(&old[name], 0), "{name}: PAD");
            if width > 1 {
                let masks = [(values, after.len()), (&old[name], before.len())];
                let [new, old] = masks.map(|(values, items)| row(values, items + 1));
                assert_eq!(new, old, "{name}: MASK");
            }
            for (id, number) in after.iter().zip(1..) {
                match numbers.get(id) {
                    Some(&origin) => {
                        assert_eq!(row(values, number), row(&old[name], origin), "{name}: {id}")
                    }
                    None => check_new(&row(values, number), &old[name], before.len(), width),
                }
            }
        }
        let first = &new["item_embedding.weight"][16..32];
        let last = &new["item_embedding.weight"][after.len() * 16..(after.len() + 1) * 16];
        assert_ne!(first, last, "new items differ from each other");
        assert_eq!(begun(&nightly.old, &after), (new, counts), "twice the same");
    }
}

/// A new row lies within five deviations of the mean of the earlier ones; a bias is their mean.
fn check_new(row: &[f32], old: &[f32], items: usize, width: usize) {
    for (channel, &value) in row.iter().enumerate() {
        let column: Vec<f64> =
            (1..=items).map(|item| f64::from(old[item * width + channel])).collect();
        let mean = column.iter().sum::<f64>() / items as f64;
        let square = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / items as f64;
        let distance = (f64::from(value) - mean).abs();
        if width == 1 {
            assert!(distance < 1e-6, "{value} is not {mean}");
        } else {
            assert!(distance < 5.0 * square.sqrt(), "{value} is far from {mean}");
            assert!(distance > 0.0);
        }
    }
}

#[test]
fn a_run_keeps_known_items_and_takes_up_new_ones() {
    let nightly = Nightly::new(&[]);
    let (old, before) = (tensors(&nightly.old), items(&nightly.old));
    let init_from = nightly.init_from();
    // So small that no weight changes.
    let still = ["--learning_rate=1e-30", "--epochs=1"];
    for (flag, expired) in [("--keep_expired=false", 0), ("--keep_expired", 5)] {
        let run_dir = nightly.sandbox.path(flag);
        let more = [&still[..], &[flag]].concat();
        let output = nightly.sandbox.finish(&run_dir, &nightly.flags(&more, &init_from));
        let words = "45 items keep their vectors, 5 are new, 5 that the data no longer has";
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
        let (new, after) = (tensors(&run_dir), items(&run_dir));
        assert_eq!(after.len(), 50 + expired);
        let ids: Vec<&str> = after.iter().collect();
        let tail: Vec<&str> = before.iter().filter(|id| !ids[..50].contains(id)).collect();
        assert_eq!(ids[50..], tail[..expired], "the expired stand last, in their old order");
        let numbers = numbers(&before);
        for (id, number) in after.iter().zip(1..) {
            let row = |table: &[f32], row: usize| table[row * 16..(row + 1) * 16].to_vec();
            let row_now = row(&new["item_embedding.weight"], number);
            match numbers.get(id) {
                Some(&origin) => {
                    assert_eq!(row_now, row(&old["item_embedding.weight"], origin), "{id}")
                }
                None => assert!(id.starts_with('n') && row_now.iter().any(|&x| x != 0.0), "{id}"),
            }
        }
        let text = fs::read_to_string(run_dir.join("items.tsv")).unwrap();
        let unused = text.lines().skip(51).filter(|line| line.ends_with("\t0")).count();
        assert_eq!(unused, expired);
    }
}

#[test]
fn the_network_is_that_of_the_earlier_run() {
    let nightly = Nightly::new(&["--n_heads=4", "--hidden_act=relu"]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_b4r-train"));
    let run_dir = nightly.sandbox.path("new");
    command.args([
        &nightly.dataset,
        &nightly.init_from(),
        "--max_steps=1",
        "--show_progress=false",
    ]);
    let output = command.arg("--run_dir").arg(&run_dir).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let [old, new] = [&nightly.old, &run_dir].map(|run| read(&run.join("config.yaml")).unwrap());
    assert_eq!(new.model, old.model);
    assert_eq!(new.train.init_from_sha256.map(|hash| hash.len()), Some(64));
    let init_from = nightly.init_from();
    // The sandbox gives hidden_size 16, 2 layers and 2 heads.
    let output = nightly
        .sandbox
        .run(&nightly.sandbox.path("two"), &nightly.flags(&["--hidden_act=gelu"], &init_from));
    assert_fails(
        &output,
        2,
        &["init_from", "n_heads: 4 became 2", "hidden_act: relu became gelu", "remedy"],
    );
    let more = ["--hidden_size=32", "--n_heads=4", "--hidden_act=relu", "--max_len=8"];
    let output =
        nightly.sandbox.run(&nightly.sandbox.path("two"), &nightly.flags(&more, &init_from));
    assert_fails(&output, 2, &["hidden_size: 16 became 32", "MAX_ITEM_LIST_LENGTH: 16 became 8"]);
    assert!(!nightly.sandbox.path("two").exists());
}

#[test]
fn runs_that_cannot_be_begun_from() {
    let nightly = Nightly::new(&["--epochs=1"]);
    let (sandbox, old, run_dir) = (&nightly.sandbox, &nightly.old, nightly.sandbox.path("new"));
    let init_from = nightly.init_from();
    let refused = |code: i32, words: &[&str]| {
        let output = sandbox.run(&run_dir, &nightly.flags(&[], &init_from));
        assert_fails(&output, code, words);
        assert!(!run_dir.exists(), "nothing is written");
    };
    for name in ["config.yaml", "items.tsv", "model.safetensors"] {
        let (path, away) = (old.join(name), sandbox.path("away"));
        fs::rename(&path, &away).unwrap();
        refused(2, &["init_from", name, "remedy"]);
        fs::rename(&away, &path).unwrap();
    }
    let replaced = |name: &str, content: &[u8], code: i32, words: &[&str]| {
        let path = old.join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        refused(code, words);
        fs::write(&path, whole).unwrap();
    };
    let text = fs::read_to_string(old.join("items.tsv")).unwrap();
    replaced("items.tsv", &text.as_bytes()[..text.len() - 9], 2, &["items.tsv:51", "remedy"]);
    let renamed = text.replace("\ti7\t", "\tother\t");
    replaced("items.tsv", renamed.as_bytes(), 1, &["model.safetensors", "another item vocabulary"]);
    replaced("config.yaml", b"hidden_size: x\n", 2, &["config.yaml:1", "hidden_size"]);
    let model = fs::read(old.join("model.safetensors")).unwrap();
    replaced(
        "model.safetensors",
        &model[..model.len() - 1],
        1,
        &["model.safetensors", "cut short"],
    );
    replaced("model.safetensors", b"junk", 1, &["model.safetensors", "remedy"]);
    let checkpoint = fs::read(old.join("checkpoint/state.safetensors")).unwrap();
    replaced("model.safetensors", &checkpoint, 1, &["belongs to no model"]);
    let unknown = String::from_utf8_lossy(&model[..]).contains("\\\"format\\\":1");
    assert!(unknown, "the note is where the next test changes it");
    let at = model.windows(12).position(|bytes| bytes == b"\\\"format\\\":1").unwrap();
    let mut later = model.clone();
    later[at + 11] = b'9';
    replaced("model.safetensors", &later, 1, &["model format 9"]);

    // A weight that is another, though as good a number.
    let mut changed = model.clone();
    let last = changed.len() - 2;
    changed[last] ^= 1;
    replaced("model.safetensors", &changed, 1, &["model.safetensors", "checksum"]);

    // A value that is not finite, and a tensor of another shape under an intact vocabulary.
    let config = read(&old.join("config.yaml")).unwrap();
    let hash = items_sha256(&items(old));
    let table = ParameterTable::new(&config.model, 50);
    let mut weights = read_model(&old.join("model.safetensors"), &table).unwrap();
    *weights.last_mut().unwrap() = f32::NAN;
    let path = sandbox.path("made");
    write_model(&path, &config.model, &table, &weights, &hash).unwrap();
    replaced("model.safetensors", &fs::read(&path).unwrap(), 1, &["output_ln.bias", "not finite"]);
    let table = ParameterTable::new(&config.model, 49);
    write_model(&path, &config.model, &table, &vec![0.0; table.total], &hash).unwrap();
    replaced(
        "model.safetensors",
        &fs::read(&path).unwrap(),
        1,
        &["item_embedding.weight", "[51, 16]"],
    );

    // The data has no item of it, there is no such folder, or it is the one to be written.
    let strange = interactions(2).replace("\ti", "\tstrange").replace("strangetem_id", "item_id");
    fs::write(sandbox.path("new.inter"), strange).unwrap();
    refused(2, &["none of its 50 items", "ITEM_ID_FIELD"]);
    let output = sandbox.run(&run_dir, &nightly.flags(&[], "--init_from=no/where"));
    assert_fails(&output, 2, &["init_from", "no/where is neither a directory nor a file"]);
    let output = sandbox.run(old, &nightly.flags(&["--overwrite"], &init_from));
    assert_fails(&output, 2, &["run_dir itself"]);
    assert!(old.join("model.safetensors").exists());
    assert_fails(&sandbox.run(&run_dir, &["--keep_expired"]), 2, &["keep_expired", "init_from"]);
}

#[test]
fn killed_and_resumed_it_ends_in_the_same_bits() {
    let nightly = Nightly::new(&["--epochs=2"]);
    let init_from = nightly.init_from();
    let settings = ["--epochs=12", "--stopping_step=100", "--keep_expired"];
    let flags = nightly.flags(&settings, &init_from);
    let one = nightly.sandbox.reference(&[&flags[..], &["--threads=1"]].concat());
    let two = nightly.sandbox.path("two");
    nightly.sandbox.finish(&two, &[&flags[..], &["--threads=2"]].concat());
    assert_equal_runs(&one, &Artifacts::of(&two));

    let run_dir = nightly.sandbox.path("run");
    for (lines, more) in [(1, "--threads=2"), (4, "--resume")] {
        let mut running = nightly.sandbox.start(&run_dir, &[&flags[..], &[more]].concat());
        assert!(running.wait_for_lines(lines));
        running.signal("KILL");
        assert_eq!(running.output().status.code(), None, "it came too late");
    }
    // The checkpoint has all that is needed.
    assert!(run_dir.join("checkpoint/state.safetensors").exists());
    fs::remove_dir_all(&nightly.old).unwrap();
    nightly.sandbox.finish(&run_dir, &[&nightly.dataset, "--resume", "--epochs=12"]);
    assert_equal_runs(&one, &Artifacts::of(&run_dir));
}

#[test]
fn a_start_from_another_model_than_before_is_refused() {
    let nightly = Nightly::new(&["--epochs=1"]);
    let (sandbox, init_from) = (&nightly.sandbox, nightly.init_from());
    let run_dir = sandbox.path("run");
    let flags = nightly.flags(&["--epochs=1"], &init_from);
    sandbox.finish(&run_dir, &flags);
    sandbox.finish(&nightly.old, &["--epochs=2", "--seed=9", "--overwrite"]);
    // With its checkpoint the run needs nothing from there; without, it would begin with other weights.
    sandbox.finish(&run_dir, &[&flags[..], &["--resume"]].concat());
    for name in ["checkpoint/state.safetensors", "model.safetensors", "results.json"] {
        fs::remove_file(run_dir.join(name)).unwrap();
    }
    let output = sandbox.run(&run_dir, &[&flags[..], &["--resume"]].concat());
    assert_fails(&output, 2, &["init_from", "another model than this run began with"]);
    // A run that began from nothing does not go on as one that did not.
    let plain = sandbox.path("plain");
    sandbox.finish(&plain, &[&nightly.dataset, "--epochs=1"]);
    let output = sandbox.run(&plain, &nightly.flags(&["--epochs=2", "--resume"], &init_from));
    assert_fails(&output, 1, &["another configuration", "init_from: null became"]);
}
