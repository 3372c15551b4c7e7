//! What is refused before anything is written, and checkpoints that do not fit.

use super::{Sandbox, assert_fails, files_in, interactions, stderr};
use std::fs;
use std::process::Stdio;

#[test]
fn a_used_directory() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=1"]);
    let before = fs::read(run_dir.join("model.safetensors")).unwrap();
    let output = sandbox.run(&run_dir, &["--epochs=1", "--seed=9"]);
    assert_fails(&output, 2, &["--resume", "--overwrite"]);
    assert_eq!(fs::read(run_dir.join("model.safetensors")).unwrap(), before);
    sandbox.finish(&run_dir, &["--epochs=1", "--seed=9", "--overwrite"]);
    assert_ne!(fs::read(run_dir.join("model.safetensors")).unwrap(), before);
}

#[test]
fn bad_data_does_not_cost_the_run_to_be_overwritten() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=1"]);
    let before = files_in(&run_dir);
    fs::write(sandbox.data(), "").unwrap();
    assert_fails(&sandbox.run(&run_dir, &["--overwrite"]), 2, &["clicks.inter"]);
    assert_eq!(files_in(&run_dir), before);
    let fresh = sandbox.path("fresh");
    assert_fails(&sandbox.run(&fresh, &[]), 2, &["clicks.inter"]);
    assert!(!fresh.exists());
}

#[test]
fn a_directory_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("file");
    fs::write(&file, "mine").unwrap();
    let mut unwritable = vec![file.clone(), file.join("below")];
    if cfg!(target_os = "linux") {
        // Not even the superuser creates anything there.
        unwritable.push("/proc/b4r-run".into());
    }
    for run_dir in unwritable {
        assert_fails(&sandbox.run(&run_dir, &[]), 2, &["run_dir", "cannot write"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(files_in(&sandbox.path("")), ["clicks.inter", "file"]);
}

#[test]
fn a_second_process_in_one_directory() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let mut first = sandbox.start(&run_dir, &["--epochs=100000", "--stopping_step=100000"]);
    assert!(first.wait_for_lines(1));
    for flag in ["--resume", "--overwrite", "--epochs=1"] {
        assert_fails(&sandbox.run(&run_dir, &[flag]), 2, &["another process"]);
    }
    first.signal("KILL");
    assert_eq!(first.output().status.code(), None, "it was still running");
    // The lock went with its process.
    let lines = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap().lines().count();
    let more = [format!("--epochs={lines}"), "--stopping_step=100000".to_string()];
    sandbox.finish(&run_dir, &[&more[0], &more[1], "--resume"]);
}

#[test]
fn a_model_that_no_machine_holds() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    for size in ["--hidden_size=1000000000", "--inner_size=1000000000000", "--hidden_size=16000000"]
    {
        assert_fails(&sandbox.run(&run_dir, &[size]), 2, &["remedy"]);
    }
    assert!(!run_dir.exists());
}

#[test]
fn a_learning_rate_that_blows_up() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=1"]);
    let run_dir = sandbox.path("blown");
    let output = sandbox.run(&run_dir, &["--learning_rate=1e30"]);
    assert_fails(&output, 1, &["step ", "is not finite", "1e30", "learning_rate"]);
    assert!(output.stdout.is_empty());
    // Here the first update makes infinite weights out of a finite gradient, and there is no second.
    let flags = ["--max_steps=1", "--learning_rate=1e3", "--weight_decay=1e38", "--overwrite"];
    let output = sandbox.run(&run_dir, &flags);
    assert_fails(&output, 1, &["step 1: ", "item_embedding.weight is not finite"]);
    assert!(output.stdout.is_empty());
    assert!(!run_dir.join("checkpoint/state.safetensors").exists(), "it would hold no numbers");
    assert!(!run_dir.join("model.safetensors").exists());
}

#[test]
fn damaged_and_foreign_checkpoints() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=2"]);
    let path = run_dir.join("checkpoint/state.safetensors");
    let whole = fs::read(&path).unwrap();
    let model = fs::read(run_dir.join("model.safetensors")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let absurd = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    let resume = ["--epochs=3", "--resume"];
    let damages =
        [&whole[..whole.len() / 2], &whole[..5], &[], &flipped, &absurd, &model, b"not at all one"];
    for damage in damages {
        fs::write(&path, damage).unwrap();
        assert_fails(&sandbox.run(&run_dir, &resume), 1, &["state.safetensors", "remedy"]);
        assert_eq!(fs::read(&path).unwrap(), damage, "it is left for the user to look at");
    }
    #[cfg(unix)]
    {
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/does/not/exist", &path).unwrap();
        assert_fails(&sandbox.run(&run_dir, &resume), 1, &["state.safetensors"]);
        assert!(run_dir.join("model.safetensors").exists(), "nothing is cleared away");
        fs::remove_file(&path).unwrap();
    }
    fs::write(&path, &whole).unwrap();
    let others = [
        ("--hidden_size=32", "hidden_size"),
        ("--learning_rate=0.5", "learning_rate"),
        ("--seed=8", "seed"),
        ("--rm_consecutive_dup=true", "rm_consecutive_dup"),
    ];
    for (flag, key) in others {
        let output = sandbox.run(&run_dir, &["--epochs=3", "--resume", flag]);
        assert_fails(&output, 1, &["another configuration", key]);
    }
    fs::write(sandbox.data(), interactions(2)).unwrap();
    assert_fails(&sandbox.run(&run_dir, &resume), 1, &["another interaction file"]);
    fs::write(sandbox.data(), interactions(1)).unwrap();
    sandbox.finish(&run_dir, &resume);
}

#[test]
fn a_falling_learning_rate_fixes_the_number_of_epochs() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let falling = ["--epochs=2", "--lr_schedule=linear"];
    sandbox.finish(&run_dir, &falling);
    let output = sandbox.run(&run_dir, &["--epochs=3", "--lr_schedule=linear", "--resume"]);
    assert_fails(&output, 1, &["epochs", "lr_schedule"]);
    sandbox.finish(&run_dir, &[&falling[..], &["--resume"]].concat());
}

#[test]
fn closed_and_full_outputs() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&sandbox.path("silent"), &["--epochs=1"]);
    let status = command.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut command = sandbox.command(&sandbox.path("full"), &["--epochs=1"]);
        let output = command.stdout(full).output().unwrap();
        assert_fails(&output, 1, &["stdout"]);
        assert!(sandbox.path("full/results.json").exists(), "{}", stderr(&output));
    }
}
