//! Lists from a GPU, a real one or the software GPU, are those from the CPU; what is said where there is none.

use super::{ITEMS, answer, feed, items, lines, parsed, program, run_dir};
use crate::cli::{Sandbox, assert_fails, stderr};
use crate::util::cuda::{lend_driver, real_driver};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Output;

/// Histories of one item to many, known users, strangers, an unknown item, and nothing to go by.
const REQUESTS: &str = r#"{"user": "u1"}
{"user": "u2"}
{"history": ["i3", "i24", "i3", "nobody's"], "user": "new"}
{"history": ["i7"]}
{"history": []}
{"user": "u40"}
{"user": "nobody"}
"#;

fn on_gpu(run_dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = program(run_dir, &[&["--device=cuda"], arguments].concat());
    lend_driver(&mut command);
    feed(command, input)
}

fn scores(line: &Value) -> Vec<f64> {
    let items = line["items"].as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(|item| item["score"].as_f64().unwrap_or(f64::NAN)).collect()
}

/// The same but for the last digits of scores: 1e-5 of the largest in a list.
#[track_caller]
fn assert_same(got: &[Value], expected: &[Value]) {
    assert_eq!(got.len(), expected.len());
    let without_scores = |line: &Value| {
        let mut line = line.clone();
        let items = line["items"].as_array_mut().into_iter().flatten();
        items.for_each(|item| item["score"] = json!(item["score"].is_null()));
        line
    };
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(without_scores(got), without_scores(expected));
        let (got, expected) = (scores(got), scores(expected));
        let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            let same = (got - expected).abs() <= 1e-5 * largest;
            assert!(same || (got.is_nan() && expected.is_nan()), "{got} {expected}");
        }
    }
}

#[test]
fn lists_are_the_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, items: &[usize]| {
        let text: String = items.iter().map(|item| format!("i{item}\n")).collect();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let allow = write("allow", &[1, 2, 3, 5, 8, 13, 21, 24, 34]);
    let deny = write("deny", &[5, 7, 21]);
    for arguments in [
        &["--k=5"][..],
        &["--k=50", "--filter-seen=false"],
        &["--allow", &allow],
        &["--deny", &deny, "--k=12"],
        &["--allow", &allow, "--deny", &deny, "--filter-seen=false"],
    ] {
        let expected = parsed(&answer(run_dir(), arguments, REQUESTS));
        let output = on_gpu(run_dir(), &[&["--precision=f32"], arguments].concat(), REQUESTS);
        assert_eq!(output.status.code(), Some(1), "one request is refused: {}", stderr(&output));
        assert!(stderr(&output).contains("device cuda ("), "{}", stderr(&output));
        assert_same(&parsed(&output), &expected);
    }
}

/// The kernel orders 256 items at most; beyond, the processor searches.
#[test]
fn long_lists_are_the_cpus() {
    let sandbox = Sandbox::new();
    let (run_dir, data) = (sandbox.path("run"), sandbox.path("wide.inter"));
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    for (user, time) in (0..40).flat_map(|user| (0..10).map(move |time| (user, time))) {
        let _ = writeln!(text, "u{user}\ti{}\t{time}", (user * 10 + time * 7) % 300);
    }
    fs::write(&data, text).unwrap();
    let dataset = format!("--dataset={}", data.display());
    sandbox.finish(&run_dir, &[&dataset, "--epochs=1"]);
    let input = "{\"user\": \"u1\"}\n{\"history\": [\"i3\", \"i10\"]}\n";
    for k in ["--k=256", "--k=257", "--k=300"] {
        let expected = lines(&answer(&run_dir, &[k], input));
        let least = k[4..].parse::<usize>().unwrap() - 2;
        assert!(items(&expected[1]).len() >= least, "{} items", items(&expected[1]).len());
        assert_same(&lines(&on_gpu(&run_dir, &[k, "--precision=f32"], input)), &expected);
    }
}

#[test]
fn scores_and_vectors_are_the_cpus() {
    let input = r#"{"user": "u1", "items": ["i3", "i4", "nobody's"]}
{"history": ["i7", "i9"], "items": ["i10"]}
{"history": [], "items": ["i10"]}
"#;
    let expected = lines(&answer(run_dir(), &["--score"], input));
    assert_same(&lines(&on_gpu(run_dir(), &["--score", "--precision=f32"], input)), &expected);
    let folder = tempfile::tempdir().unwrap();
    let export = |name: &str, gpu: bool| -> Vec<f32> {
        let path = folder.path().join(name);
        let flag = format!("--export-users={}", path.display());
        let output = match gpu {
            true => on_gpu(run_dir(), &["--precision=f32", &flag], ""),
            false => answer(run_dir(), &[&flag], ""),
        };
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = fs::read(path).unwrap();
        let (numbers, []) = bytes[128..].as_chunks() else { panic!("{} bytes", bytes.len()) };
        numbers.iter().map(|&number| f32::from_le_bytes(number)).collect()
    };
    let (got, expected) = (export("gpu.npy", true), export("cpu.npy", false));
    assert_eq!((got.len(), expected.len()), (90 * 16, 90 * 16));
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let off = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(off <= 1e-5 * largest, "{off} of {largest}");
}

/// bf16 is what a GPU computes in unless told otherwise. Lists and scores of listed items go by the same numbers.
#[test]
fn bf16_agrees_with_itself() {
    let listed = on_gpu(run_dir(), &["--k=50", "--filter-seen=false"], "{\"user\": \"u1\"}\n");
    assert!(stderr(&listed).contains(", bf16"), "{}", stderr(&listed));
    let listed = lines(&listed).remove(0);
    assert_eq!(items(&listed).len(), ITEMS);
    let request = json!({"user": "u1", "items": items(&listed)}).to_string();
    let scored = lines(&on_gpu(run_dir(), &["--score"], &request));
    assert_same(&scored, &[listed]);
}

#[test]
fn what_cannot_compute_is_refused_as_in_training() {
    for (arguments, words) in [
        (&["--device=gpu"][..], &["device", "`gpu` is no device", "cuda:1"][..]),
        (&["--precision=f16"], &["precision", "f16"]),
        (&["--device=cpu", "--precision=bf16"], &["precision", "bf16 needs a GPU"]),
    ] {
        assert_fails(&answer(run_dir(), arguments, REQUESTS), 2, words);
    }
    let said = stderr(&answer(run_dir(), &["--device=cpu"], REQUESTS));
    assert!(said.contains("device cpu, f32\n"), "{said}");
    if real_driver() {
        eprintln!("skipped: a real GPU is there, and its memory cannot be limited");
        return;
    }
    for arguments in [&["--device=cuda"][..], &["--device=cuda", "--serve=127.0.0.1:0"]] {
        let none = answer(run_dir(), arguments, "");
        assert_fails(&none, 2, &["device: ", "no NVIDIA driver", "remedy: "]);
    }
    for (device, memory, words) in [
        ("--device=cuda:7", "1000000000", &["no GPU 7", "cuda:N"][..]),
        ("--device=cuda", "10000", &["on b4r software GPU needs", "--device cpu"]),
    ] {
        let mut command = program(run_dir(), &[device]);
        lend_driver(&mut command);
        command.env("SOFTGPU_MEMORY", memory);
        assert_fails(&feed(command, REQUESTS), 2, words);
    }
}
