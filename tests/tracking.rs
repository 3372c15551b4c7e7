//! TensorBoard's event file and Weights & Biases, read back by the real programs where they are installed:
//! `B4R_PYTHON` names a Python that has `tensorboard` and `wandb`.

use crate::cli::{Artifacts, Sandbox, assert_equal_runs, stderr};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

const EVENTS: &str = "events.out.tfevents.0.b4r";

/// A Python, if there is one, that can import `modules`.
fn python_with(modules: &str) -> Option<String> {
    let python = std::env::var("B4R_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let import = Command::new(&python).arg("-c").arg(format!("import {modules}")).output();
    let found = import.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {python} has no {modules}");
    }
    found.then_some(python)
}

/// What TensorBoard's own reader finds: tags to lists of step and value, and the hyperparameters.
const READER: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
found = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()['scalars']}
session = HParamsPluginData.FromString(events.PluginTagToContent('hparams')['_hparams_/session_start_info'])
rate = session.session_start_info.hparams['learning_rate'].number_value
ended = '_hparams_/session_end_info' in events.PluginTagToContent('hparams')
print(json.dumps({'scalars': found, 'rate': rate, 'ended': ended}))
";

fn read_by_tensorboard(python: &str, run_dir: &Path) -> Value {
    let output = Command::new(python).arg("-c").arg(READER).arg(run_dir).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_reads_what_the_log_has() {
    let Some(python) = python_with("tensorboard") else { return };
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=2", "--learning_rate=0.002"]);
    sandbox.finish(&run_dir, &["--epochs=4", "--resume"]);
    let found = read_by_tensorboard(&python, &run_dir);
    assert_eq!(found["rate"], 0.002);
    assert_eq!(found["ended"], true);
    let lines = Artifacts::of(&run_dir).metrics;
    assert_eq!(lines.len(), 4);
    let scalars = &found["scalars"];
    let single = |value: &Value| value.as_f64().unwrap() as f32;
    for (index, line) in lines.iter().enumerate() {
        let wanted = [
            ("train/loss", &line["train_loss"]),
            ("train/learning_rate", &line["learning_rate"]),
            ("valid/ndcg@10", &line["valid"]["ndcg@10"]),
        ];
        for (tag, value) in wanted {
            let event = &scalars[tag][index];
            assert_eq!(event[0], line["step"], "{tag}");
            assert_eq!(single(&event[1]), single(value), "{tag}");
        }
        assert!(scalars["train/tokens_per_second"][index][1].as_f64().unwrap() > 0.0);
    }
    assert_eq!(scalars["valid/ndcg@10"].as_array().unwrap().len(), 4, "no more than the log has");
    let results = fs::read(run_dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    for (tag, metrics) in
        [("test", &results["test"]), ("test_markov", &results["baselines"][1]["test"])]
    {
        let event = &scalars[format!("{tag}/hit@5")][0][1];
        assert_eq!(single(event), single(&metrics["hit@5"]), "{tag}");
    }
}

#[test]
fn a_resumed_run_has_the_events_of_one_that_was_not() {
    let sandbox = Sandbox::new();
    let reference = sandbox.path("reference");
    sandbox.finish(&reference, &["--epochs=5"]);
    let run_dir = sandbox.path("run");
    let mut running = sandbox.start(&run_dir, &["--epochs=5"]);
    assert!(running.wait_for_lines(2));
    drop(running);
    let log = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    // A line and an event that the checkpoint does not know of.
    fs::write(run_dir.join("metrics.jsonl"), log.clone() + log.lines().last().unwrap() + "\n")
        .unwrap();
    sandbox.finish(&run_dir, &["--epochs=5", "--resume"]);
    assert_equal_runs(&Artifacts::of(&reference), &Artifacts::of(&run_dir));
    // Times differ, lengths do not.
    let length = |folder: &Path| fs::metadata(folder.join(EVENTS)).unwrap().len();
    assert_eq!(length(&reference), length(&run_dir));
}

/// A module that writes down how it is used.
const FAKE: &str = "
import json, os
class Summary(dict):
    def __setitem__(self, key, value): note('summary', key, value)
class Run:
    resumed, step, id, url = False, 0, 'abc', 'https://wandb.example/run'
    summary = Summary()
    class settings: mode = 'online'
    dir = 'x/files'
    def log(self, metrics, step): note('log', step, metrics)
    def finish(self, exit_code): note('finish', exit_code)
def note(*what):
    with open(os.environ['NOTES'], 'a') as file: file.write(json.dumps(what) + '\\n')
def Settings(**options): return options
def init(**options):
    note('init', options)
    if os.environ.get('REFUSE'): raise RuntimeError('no <key>')
    return Run()
";

#[test]
fn wandb_gets_every_evaluation_and_the_outcome() {
    if python_with("json").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("wandb.py"), FAKE).unwrap();
    let notes = sandbox.path("notes");
    let run = |name: &str, more: &[&str], refuse: bool| {
        let _ = fs::remove_file(&notes);
        let flags = [&["--epochs=3", "--log_wandb=true", "--wandb_project=shop"], more].concat();
        let mut command = sandbox.command(&sandbox.path(name), &flags);
        command.env("PYTHONPATH", sandbox.path("")).env("NOTES", &notes);
        command.envs(refuse.then_some(("REFUSE", "1")));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let last = String::from_utf8(output.stdout.clone()).unwrap();
        let _: Value = serde_json::from_str(last.trim()).expect("stdout is the result alone");
        let noted = fs::read_to_string(&notes).unwrap();
        let noted = noted.lines().map(|line| serde_json::from_str(line).unwrap());
        (noted.collect::<Vec<Value>>(), stderr(&output))
    };
    let (noted, said) = run("run", &[], false);
    assert!(said.contains("log_wandb: logged to https://wandb.example/run"), "{said}");
    let of = |kind: &str| noted.iter().filter(|note| note[0] == kind).collect::<Vec<_>>();
    let init = &of("init")[0][1];
    assert_eq!((&init["project"], &init["name"]), (&"shop".into(), &"run".into()));
    assert_eq!(init["config"]["hidden_size"], 16);
    let lines = Artifacts::of(&sandbox.path("run")).metrics;
    assert_eq!(of("log").len(), lines.len());
    for (note, line) in of("log").iter().zip(&lines) {
        assert_eq!(note[1], line["step"]);
        assert_eq!(note[2]["valid/ndcg@10"], line["valid"]["ndcg@10"]);
        assert_eq!(note[2]["train/train_loss"], line["train_loss"]);
    }
    let summary = of("summary");
    assert!(summary.iter().any(|note| note[1] == "eval/ndcg@10"));
    assert!(summary.iter().any(|note| note[1] == "eval_markov/ndcg@10"));
    assert_eq!(of("finish"), [&serde_json::json!(["finish", 0])]);
    // Continued, it is the same run there.
    let (noted, _) = run("run", &["--resume"], false);
    assert_eq!(noted[0][1]["id"], "abc");

    let (_, said) = run("refused", &[], true);
    assert!(
        said.contains("would not start: no <key>") && said.contains("--resume --log-wandb"),
        "{said}"
    );
}

#[test]
fn without_wandb_a_run_says_what_to_do() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let said = |python: &Path| {
        let mut command =
            sandbox.command(&run_dir, &["--epochs=1", "--log_wandb=true", "--resume"]);
        let output = command.env("B4R_PYTHON", python).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let absent = said(&sandbox.path("no-python"));
    assert!(absent.contains("cannot be run") && absent.contains("pip install wandb"), "{absent}");
    let broken = said(Path::new("false"));
    assert!(broken.contains("wandb failed") && broken.contains("pip install wandb"), "{broken}");
}

#[test]
fn the_real_wandb_takes_it_offline() {
    let Some(python) = python_with("wandb") else { return };
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let mut command = sandbox.command(&run_dir, &["--epochs=2", "--log_wandb=true"]);
    let home = sandbox.path("home");
    fs::create_dir(&home).unwrap();
    command.env("WANDB_MODE", "offline").env("B4R_PYTHON", python).env("HOME", home);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("offline mode; upload it with `wandb sync"), "{said}");
    let folder = said.split("`wandb sync ").last().unwrap().split('`').next().unwrap();
    let stored =
        fs::read_dir(sandbox.path("").join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let stored: Vec<_> =
        stored.filter(|path| path.extension().is_some_and(|e| e == "wandb")).collect();
    let bytes = fs::read(&stored[0]).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("valid/ndcg@10") && has("eval/ndcg@10") && has("hidden_size"));
}
