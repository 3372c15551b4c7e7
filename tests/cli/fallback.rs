//! A run that ends no better than popularity is done again with a lower learning rate.

use super::{Artifacts, Running, Sandbox, assert_equal_runs, results, stderr};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;

/// How the runs on [`hopeless`] data are judged.
const JUDGED: [&str; 3] = ["--filter_seen=false", "--valid_metric=hit@1", "--learning_rate=0.01"];

/// Data of which nobody can learn more than which item is the most popular: three of five interactions are with
/// it, wherever they stand, and the others with any item.
fn hopeless() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    let mut state = 1u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    for user in 0..90 {
        for time in 0..12 + random(29) {
            let item = if random(5) < 3 { 0 } else { random(50) };
            writeln!(text, "u{user}\ti{item}\t{time}").expect("a string takes everything");
        }
    }
    fs::write(sandbox.data(), text).expect("the data file");
    sandbox
}

/// What a log says of each evaluation but for the tokens and the time spent before.
fn evaluations(artifacts: &Artifacts) -> Vec<Value> {
    let without_tokens = |line: &Value| {
        let mut line = line.clone();
        line.as_object_mut().unwrap().remove("tokens").expect("tokens");
        line
    };
    artifacts.metrics.iter().map(without_tokens).collect()
}

#[test]
fn ends_as_a_run_with_the_lower_rate() {
    let sandbox = hopeless();
    let judged = &JUDGED[..2];
    let lower =
        sandbox.reference(&[judged, &["--learning_rate=0.005", "--lr_fallback=none"]].concat());
    let run_dir = sandbox.path("run");
    let flags = [&JUDGED[..], &["--lr_fallback=0.005"]].concat();
    let text = stderr(&sandbox.finish(&run_dir, &flags));
    assert!(text.contains("learning_rate 0.01 was too high"), "{text}");
    assert!(text.contains("lr_fallback 0.005"), "{text}");
    let fell_back = Artifacts::of(&run_dir);
    assert_eq!(evaluations(&lower), evaluations(&fell_back));
    assert!(lower.model == fell_back.model, "model.safetensors differs");
    assert_eq!(lower.test, fell_back.test);
    assert_eq!(results(&run_dir)["learning_rate"], 0.005);
    let again = sandbox.finish(&run_dir, &[&flags[..], &["--resume"]].concat());
    assert!(stderr(&again).contains("is finished"), "{}", stderr(&again));
}

#[test]
fn stays_where_it_is_when_told_to_or_when_it_learns() {
    let (hopeless, hopeful) = (hopeless(), Sandbox::new());
    let told = [&JUDGED[..], &["--lr_fallback=none"]].concat();
    let higher = [&JUDGED[..], &["--lr_fallback=0.02"]].concat();
    let learns = ["--learning_rate=0.01", "--epochs=30"];
    for (sandbox, name, flags) in [
        (&hopeless, "told", &told[..]),
        (&hopeless, "higher", &higher[..]),
        (&hopeful, "learns", &learns[..]),
    ] {
        let run_dir = sandbox.path(name);
        let text = stderr(&sandbox.finish(&run_dir, flags));
        assert!(!text.contains("too high"), "{name}: {text}");
        assert_eq!(results(&run_dir)["learning_rate"], 0.01, "{name}");
    }
}

#[test]
fn killed_in_either_training_it_resumes() {
    let sandbox = hopeless();
    let settings = [&JUDGED[..], &["--lr_fallback=0.005", "--epochs=12"]].concat();
    let reference = sandbox.reference(&settings);
    let resumed = [&settings[..], &["--resume"]].concat();
    let run_dir = sandbox.path("run");
    let first = |run: &mut Running| run.wait_for_lines(4);
    // The log begins anew with the second training.
    let second = |run: &mut Running| {
        run.wait_for_lines(6) && run.wait_for_fewer_lines(6) && run.wait_for_lines(2)
    };
    for (moment, in_training) in [(&first as &dyn Fn(&mut Running) -> bool, 1), (&second, 2)] {
        let mut running = sandbox.start(&run_dir, &resumed);
        assert!(moment(&mut running), "training {in_training}: {}", stderr(&running.output()));
        running.signal("KILL");
        let output = running.output();
        assert_eq!(output.status.code(), None, "training {in_training}: too late");
        assert_eq!(stderr(&output).contains("too high"), in_training == 2);
    }
    let text = stderr(&sandbox.finish(&run_dir, &resumed));
    assert!(!text.contains("too high"), "the second training goes on: {text}");
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

#[test]
fn a_run_that_max_steps_ends_goes_on_with_its_own_rate() {
    let sandbox = hopeless();
    let settings = [&JUDGED[..], &["--lr_fallback=0.005"]].concat();
    let reference = sandbox.reference(&settings);
    let run_dir = sandbox.path("run");
    let text = stderr(&sandbox.finish(&run_dir, &[&settings[..], &["--max_steps=21"]].concat()));
    assert!(!text.contains("too high"), "{text}");
    assert_eq!(results(&run_dir)["learning_rate"], 0.01);
    let text = stderr(&sandbox.finish(&run_dir, &[&settings[..], &["--resume"]].concat()));
    assert!(text.contains("too high"), "{text}");
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}
