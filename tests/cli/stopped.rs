//! Runs that are killed or interrupted, then resumed: the same bits as one that never was.

use super::{
    Artifacts, Running, Sandbox, assert_equal_runs, assert_fails, files_in, results, stderr,
};
use std::fs;
use std::time::Duration;

/// Kills at several moments, one after another in the same run, and checks what comes out in the end.
fn killed_and_resumed(settings: &[&str], moments: &[&dyn Fn(&mut Running) -> bool]) {
    let sandbox = Sandbox::new();
    let reference = sandbox.reference(settings);
    let run_dir = sandbox.path("run");
    let mut with_checkpoint = 0;
    for (i, moment) in moments.iter().enumerate() {
        let threads = format!("--threads={}", 1 + i % 3);
        let mut running = sandbox.start(&run_dir, &[settings, &[&threads, "--resume"]].concat());
        assert!(moment(&mut running), "moment {i}: {}", stderr(&running.output()));
        running.signal("KILL");
        assert_eq!(running.output().status.code(), None, "moment {i} came too late");
        with_checkpoint += u32::from(run_dir.join("checkpoint/state.safetensors").exists());
    }
    assert!(with_checkpoint > 0);
    sandbox.finish(&run_dir, &[settings, &["--threads=2", "--resume"]].concat());
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
    assert_eq!(files_in(&run_dir.join("checkpoint")), ["state.safetensors"]);
}

#[test]
fn killed_around_evaluations_and_checkpoints() {
    let after_line = |count: usize| move |run: &mut Running| run.wait_for_lines(count);
    // The moment after a line is the window between log, checkpoint and model.
    killed_and_resumed(
        &["--epochs=30", "--stopping_step=100"],
        &[
            &after_line(1),
            &after_line(2),
            &|run| run.wait_for_file_or_lines("checkpoint/state.safetensors.tmp", 4),
            &after_line(5),
            &|run| run.wait_for_file_or_lines("model.safetensors.tmp", 9),
            &after_line(14),
        ],
    );
}

#[test]
fn killed_at_any_time() {
    let after = |milliseconds| {
        move |run: &mut Running| {
            let started = run.wait_for_file("checkpoint");
            std::thread::sleep(Duration::from_millis(milliseconds));
            started
        }
    };
    killed_and_resumed(
        &["--epochs=40", "--eval_step=3", "--stopping_step=100"],
        &[&after(0), &after(150), &after(60), &after(90), &after(35), &after(110)],
    );
}

#[test]
fn interrupted_and_resumed() {
    let sandbox = Sandbox::new();
    let settings = ["--epochs=10", "--train_batch_size=16"];
    let reference = sandbox.reference(&settings);
    let run_dir = sandbox.path("run");
    for (signal, code, lines) in [("INT", 130, 1), ("TERM", 143, 3), ("INT", 130, 6)] {
        let mut running = sandbox.start(&run_dir, &[&settings[..], &["--resume"]].concat());
        assert!(running.wait_for_lines(lines));
        running.signal(signal);
        let output = running.output();
        assert_fails(&output, code, &["--resume", "saved at step"]);
        assert!(output.stdout.is_empty());
    }
    let output = sandbox.finish(&run_dir, &[&settings[..], &["--resume"]].concat());
    assert!(stderr(&output).contains("resuming after"), "{}", stderr(&output));
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

#[test]
fn interrupted_before_the_first_epoch_ends() {
    let sandbox = Sandbox::new();
    let settings = ["--epochs=2", "--train_batch_size=2"];
    let reference = sandbox.reference(&settings);
    let run_dir = sandbox.path("run");
    let mut running = sandbox.start(&run_dir, &settings);
    // By then signals are listened to, and the first step is still ahead.
    assert!(running.wait_for_file("config.yaml"));
    running.signal("TERM");
    assert_fails(&running.output(), 143, &["saved at step"]);
    assert!(!run_dir.join("metrics.jsonl").exists());
    assert!(!run_dir.join("model.safetensors").exists());
    let output = sandbox.finish(&run_dir, &[&settings[..], &["--resume"]].concat());
    assert!(stderr(&output).contains("resuming after 0 epochs"), "{}", stderr(&output));
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

#[test]
fn an_echo_of_the_signal_is_no_second_one() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let mut running = sandbox.start(&run_dir, &["--epochs=100000", "--stopping_step=100000"]);
    assert!(running.wait_for_file("config.yaml"));
    running.signal("TERM");
    running.signal("TERM");
    assert_fails(&running.output(), 143, &["saved at step"]);
}

#[test]
fn a_second_signal_does_not_wait_for_the_step() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    // A step of some seconds.
    let large = "--hidden_size=256 --inner_size=1024 --n_layers=8 --train_batch_size=100000";
    let mut running = sandbox.start(&run_dir, &large.split(' ').collect::<Vec<_>>());
    assert!(running.wait_for_file("config.yaml"));
    running.signal("INT");
    std::thread::sleep(Duration::from_millis(700));
    running.signal("INT");
    assert_eq!(running.output().status.code(), Some(130));
    assert!(!run_dir.join("checkpoint/state.safetensors").exists(), "it waited for the step");
}

#[test]
fn resuming_nothing_starts_afresh_and_says_so() {
    let sandbox = Sandbox::new();
    let reference = sandbox.reference(&["--epochs=1"]);
    let run_dir = sandbox.path("run");
    let output = sandbox.finish(&run_dir, &["--epochs=1", "--resume"]);
    assert!(stderr(&output).contains("starting afresh"), "{}", stderr(&output));
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

/// Somebody deleted the checkpoint of a finished run to save disk.
#[test]
fn resuming_does_not_discard_a_finished_run() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=1"]);
    fs::remove_dir_all(run_dir.join("checkpoint")).unwrap();
    let model = fs::read(run_dir.join("model.safetensors")).unwrap();
    let output = sandbox.run(&run_dir, &["--epochs=1", "--resume"]);
    assert_fails(&output, 2, &["resume", "no checkpoint", "--overwrite"]);
    assert_eq!(fs::read(run_dir.join("model.safetensors")).unwrap(), model);
    fs::remove_file(run_dir.join("results.json")).unwrap();
    assert_fails(&sandbox.run(&run_dir, &["--epochs=1", "--resume"]), 2, &["model.safetensors"]);
    sandbox.finish(&run_dir, &["--epochs=1", "--overwrite"]);
}

/// Without validation a checkpoint knows no best weights; the model that was there goes on being served.
#[test]
fn a_run_on_all_data_that_goes_on_keeps_its_model_meanwhile() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--all-data", "--epochs=1"]);
    let model = fs::read(run_dir.join("model.safetensors")).unwrap();
    let more = ["--all-data", "--epochs=100000", "--resume"];
    let mut running = sandbox.start(&run_dir, &more);
    assert!(running.wait_for_lines(3));
    running.signal("KILL");
    assert_eq!(running.output().status.code(), None);
    assert_eq!(fs::read(run_dir.join("model.safetensors")).unwrap(), model);
}

/// The evaluation after the last step may be one miss too many, but it did not end the run.
#[test]
fn the_evaluation_after_max_steps_does_not_change_what_ended_the_run() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    // Nothing improves after the first epoch, of which there are at least two steps.
    let settings = ["--learning_rate=1e-30", "--stopping_step=1", "--train_batch_size=16"];
    let epoch = sandbox.path("epoch");
    sandbox.finish(&epoch, &[&settings[..], &["--epochs=1"]].concat());
    let steps = results(&epoch)["steps"].as_u64().unwrap();
    assert!(steps > 1);
    let most = format!("--max_steps={}", 2 * steps + 1);
    sandbox.finish(&run_dir, &[&settings[..], &["--epochs=9", &most]].concat());
    assert_eq!(results(&run_dir)["ended_by"], "max_steps");
    assert_eq!(fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap().lines().count(), 3);
}

#[test]
fn a_log_that_lost_lines_does_not_stop_a_resume() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=2"]);
    fs::remove_file(run_dir.join("metrics.jsonl")).unwrap();
    let output = sandbox.finish(&run_dir, &["--epochs=3", "--resume"]);
    assert!(stderr(&output).contains("lost lines"), "{}", stderr(&output));
    assert_eq!(Artifacts::of(&run_dir).metrics.len(), 1);
}
