//! What is shown, written down and compared.

use b4r::config::{CONFIG_FILE, Config, differences, explain, to_yaml};
use b4r::train::rundir::locate;

use super::{flags, good, yaml, yaml_and_flags};

#[test]
fn an_explanation_shows_values_their_origin_and_what_is_ignored() {
    let text = "epochs: 3\nworker: 0\nloss_type: CE\n";
    let resolved = yaml_and_flags(text, &["--seed=5"]).unwrap();
    let shown = explain(&resolved);
    let line = |name: &str| {
        shown.lines().find(|line| line.trim().starts_with(name)).unwrap_or_default().to_string()
    };
    assert!(line("epochs ").contains('3') && line("epochs ").contains("conf.yaml:1"), "{shown}");
    assert!(line("seed ").contains('5') && line("seed ").contains("command line"), "{shown}");
    assert!(line("n_layers ").contains("default"), "{shown}");
    assert!(line("worker ").contains("ignored"), "{shown}");
    assert!(shown.contains("loss_type"), "{shown}");
    for heading in ["Data\n", "Model\n", "Training\n", "Evaluation\n", "Run\n"] {
        assert!(shown.contains(heading), "{heading}");
    }
}

#[test]
fn the_written_file_is_plain_yaml() {
    let text = to_yaml(&good(&["--val_interval=[4,5]", "--dataset=a: b #c"]));
    assert!(text.contains("\neval_args:\n  split: {LS: valid_and_test}\n  mode: full\n"), "{text}");
    assert!(text.contains("\nval_interval: {rating: \"[4,5]\"}\n"), "{text}");
    assert!(text.contains("\ndataset: \"a: b #c\"\n"), "{text}");
    assert!(!text.contains("resume") && !text.contains("repeatable"), "{text}");
}

#[test]
fn only_what_decides_the_result_counts_as_a_difference() {
    let base = good(&[]);
    let free = good(&[
        "--threads=3",
        "--device=cuda:1",
        "--epochs=7",
        "--max_steps=7",
        "--run_dir=x",
        "--show_progress=true",
        "--data_path=y",
        "--eval_batch_size=3",
        "--overwrite",
    ]);
    assert_eq!(differences(&base, &free), Vec::<String>::new());
    for flag in [
        "seed=1",
        "hidden_size=32",
        "train_batch_size=1",
        "filter_seen=false",
        "norm=pre",
        "precision=f32",
    ] {
        let changed = differences(&base, &good(&[&format!("--{flag}")]));
        assert_eq!(changed.len(), 1, "{flag}: {changed:?}");
        assert!(changed[0].starts_with(flag.split('=').next().unwrap()), "{changed:?}");
    }
    let changed = differences(&base, &good(&["--train_batch_sequences=8"]));
    assert_eq!(
        changed,
        ["train_batch_size: 2048 became not set", "train_batch_sequences: not set became 8"]
    );
}

#[test]
fn the_default_run_directory_follows_data_set_and_seed() {
    let name = |arguments: &[&str]| locate(&good(arguments)).to_str().unwrap().to_string();
    assert_eq!(name(&[]), "runs/ml-100k-seed2020");
    assert_eq!(name(&["--dataset=/a/plays.csv.gz", "--seed=1"]), "runs/plays-seed1");
    assert_eq!(name(&["--run-dir=z"]), "z");
    assert_eq!(name(&["--dataset=.."]), "runs/data-seed2020");
}

#[test]
fn resuming_starts_from_the_stored_configuration() {
    let folder = tempfile::TempDir::new().unwrap();
    let run_dir = folder.path().to_str().unwrap();
    let run = format!("--run-dir={run_dir}");
    let stored = good(&[&run, "--epochs=3", "--hidden_size=32", "--threads=2", "--max_steps=9"]);
    std::fs::write(folder.path().join(CONFIG_FILE), to_yaml(&stored)).unwrap();

    let resumed = good(&[&run, "--resume"]);
    assert_eq!((resumed.train.epochs, resumed.model.hidden_size), (3, 32));
    assert_eq!((resumed.run.threads, resumed.train.max_steps), (0, None), "not remembered");
    assert_eq!(differences(&stored, &resumed), Vec::<String>::new());

    let changed = good(&[&run, "--resume", "--epochs=5", "--hidden_size=16"]);
    assert_eq!(changed.train.epochs, 5);
    assert_eq!(differences(&stored, &changed), ["hidden_size: 32 became 16"]);

    assert_eq!(good(&[&run]).model.hidden_size, 64, "without --resume it is not read");
    std::fs::write(folder.path().join(CONFIG_FILE), "epochs: [").unwrap();
    assert!(flags(&[&run, "--resume"]).is_err());
}

#[test]
fn reading_a_file_alone_gives_its_configuration() {
    let (_folder, path) = super::file("epochs: 3\n");
    let expected = yaml("epochs: 3\n").unwrap().config;
    assert_eq!(b4r::config::read(&path).unwrap(), expected);
    assert_ne!(expected, Config::default());
}
