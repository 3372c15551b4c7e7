//! Runs on the GPU, a real one or the software GPU: the same results as on the CPU, stopped and resumed to the
//! same bits, and what it says when memory runs out.

use super::{Artifacts, Sandbox, assert_equal_runs, assert_fails, files_in, stderr};
use crate::util::cuda::{lend_driver, real_driver};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A run with `--device=cuda` where the driver is at hand.
fn on_gpu(sandbox: &Sandbox, run_dir: &Path, more: &[&str]) -> Command {
    let mut command = sandbox.command(run_dir, &["--device=cuda"]);
    command.args(more);
    lend_driver(&mut command);
    command
}

fn finish(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn a_run_in_f32_is_that_of_the_cpu() {
    hold_run_to_cpu(&[]);
}

/// Losses over a sample of the items draw the same items on both.
#[test]
fn runs_of_sampled_losses_are_those_of_the_cpu() {
    for loss in ["--loss_type=sampled_softmax", "--loss_type=gBCE"] {
        hold_run_to_cpu(&[loss, "--n_negatives=12"]);
    }
}

fn hold_run_to_cpu(more: &[&str]) {
    let sandbox = Sandbox::new();
    let more = [&["--epochs=2", "--precision=f32", "--hidden_dropout_prob=0.2"][..], more].concat();
    let (cpu, gpu) = (sandbox.path("cpu"), sandbox.path("gpu"));
    sandbox.finish(&cpu, &[&more[..], &["--device=cpu"]].concat());
    let text = finish(on_gpu(&sandbox, &gpu, &more));
    assert!(text.contains("device cuda (") && text.contains(", f32"), "{text}");
    assert!(text.contains("MiB for weights, moments and gradients"), "{text}");
    let (cpu, gpu_run) = (Artifacts::of(&cpu), Artifacts::of(&gpu));
    assert_eq!(cpu.metrics.len(), gpu_run.metrics.len());
    for (cpu, gpu) in cpu.metrics.iter().zip(&gpu_run.metrics) {
        let (expected, got) = (number(cpu, "train_loss"), number(gpu, "train_loss"));
        assert!((got / expected - 1.0).abs() <= 1e-4, "{gpu}\nbut on the CPU {cpu}");
        for (key, value) in cpu["valid"].as_object().expect("metrics") {
            // 90 rows: one of them may see a near tie the other way round.
            let difference = number(&gpu["valid"], key) - value.as_f64().expect("a number");
            assert!(difference.abs() <= 1.0 / 90.0, "{key}: {gpu}\nbut on the CPU {cpu}");
        }
    }
}

#[test]
fn a_stopped_run_is_resumed_to_the_same_bits() {
    let sandbox = Sandbox::new();
    let (whole, parts) = (sandbox.path("whole"), sandbox.path("parts"));
    finish(on_gpu(&sandbox, &whole, &["--epochs=2"]));
    let text = finish(on_gpu(&sandbox, &parts, &["--epochs=2", "--max_steps=9"]));
    assert!(text.contains(", bf16"), "the precision of GPUs: {text}");
    finish(on_gpu(&sandbox, &parts, &["--epochs=2", "--resume"]));
    assert_equal_runs(&Artifacts::of(&whole), &Artifacts::of(&parts));
}

#[test]
fn a_lost_gpu_leaves_a_checkpoint_to_resume_from() {
    if real_driver() {
        eprintln!("skipped: a real GPU cannot be broken on purpose");
        return;
    }
    let sandbox = Sandbox::new();
    let (whole, parts) = (sandbox.path("whole"), sandbox.path("parts"));
    finish(on_gpu(&sandbox, &whole, &["--epochs=3"]));
    let mut command = on_gpu(&sandbox, &parts, &["--epochs=3"]);
    let output = command.env("SOFTGPU_LOST_AFTER", "900").output().expect("the program starts");
    assert_fails(&output, 1, &["the device is lost", "--resume continues from it"]);
    assert!(files_in(&parts).contains(&"checkpoint".to_string()));
    finish(on_gpu(&sandbox, &parts, &["--epochs=3", "--resume"]));
    assert_equal_runs(&Artifacts::of(&whole), &Artifacts::of(&parts));
}

#[test]
fn memory_that_runs_out_is_said_and_nothing_is_written() {
    if real_driver() {
        eprintln!("skipped: a real GPU's memory cannot be limited");
        return;
    }
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let mut command = on_gpu(&sandbox, &run_dir, &[]);
    let output = command.env("SOFTGPU_MEMORY", "100000").output().expect("the program starts");
    assert_fails(&output, 2, &["on b4r software GPU needs", "bytes of memory", "--device cpu"]);
    assert!(!run_dir.exists() || files_in(&run_dir).is_empty());
}
