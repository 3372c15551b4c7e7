//! A server whose model is on a GPU, a real one or the software GPU, answers as one on the CPU does.

use super::{Run, Server};
use crate::util::cuda::{lend_driver, real_driver};
use serde_json::{Value, json};
use std::process::Command;

fn on_gpu(run: &Run, more: &[(&str, &str)]) -> Server {
    let mut command = Command::new("true");
    lend_driver(&mut command);
    let environment: Vec<(&str, &str)> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
        .chain(more.iter().copied())
        .collect();
    Server::of(&run.path(), &["--device=cuda", "--precision=f32"], &environment)
}

/// Items, unknown ids and fallback; and all scores.
fn split(mut answer: Value) -> (Value, Vec<f64>) {
    let list = if answer["items"].is_array() { "items" } else { "scores" };
    let mut scores = Vec::new();
    for scored in answer[list].as_array_mut().unwrap() {
        scores.extend(scored["score"].take().as_f64());
    }
    (answer, scores)
}

#[test]
fn answers_are_the_cpus() {
    let run = Run::shared();
    let (cpu, gpu) = (Server::start(&[]), on_gpu(&run, &[]));
    assert!(gpu.said().contains("device cuda (") && gpu.said().contains(", f32"), "{}", gpu.said());
    let history = ["i9", "i12", "i20"];
    for (path, body) in [
        ("/recommend", json!({"history": history, "k": 7})),
        ("/recommend", json!({"history": history, "k": 7, "filter_seen": false})),
        ("/recommend", json!({"user": "u3", "deny": ["i9", "i10", "i11"], "k": 9})),
        ("/recommend", json!({"history": history, "allow": ["i9", "i14", "i20", "nope"]})),
        ("/recommend", json!({"history": []})),
        ("/score", json!({"history": history, "items": ["i14", "nope", "i9"]})),
    ] {
        let (expected, expected_scores) = split(cpu.post(path, &body).json());
        let (got, scores) = split(gpu.post(path, &body).json());
        assert_eq!(got, expected, "{body}");
        assert_eq!(scores.len(), expected_scores.len());
        let largest = expected_scores.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for (got, expected) in scores.iter().zip(&expected_scores) {
            assert!((got - expected).abs() <= 1e-5 * largest, "{body}: {got} {expected}");
        }
    }
    let similar = "/items/i9/similar?k=5";
    assert_eq!(gpu.get(similar).body, cpu.get(similar).body);
    cpu.finish();
    // A new model takes over there as well; the thread of the one before ends with it.
    let before = gpu.metric("b4r_model_loads_total{outcome=\"ok\"}");
    gpu.signal("HUP");
    gpu.wait_until_said("a new model is in use");
    assert!(gpu.metric("b4r_model_loads_total{outcome=\"ok\"}") > before);
    gpu.post("/recommend", &json!({"history": history})).json();
    assert!(!gpu.said().contains("error"), "{}", gpu.said());
    gpu.finish();
}

#[test]
fn a_lost_gpu_is_told_by_health() {
    if real_driver() {
        eprintln!("skipped: a real GPU cannot be broken on purpose");
        return;
    }
    let run = Run::shared();
    let server = on_gpu(&run, &[("SOFTGPU_LOST_AFTER", "100")]);
    let question = json!({"history": ["i9", "i12"]});
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.post("/recommend", &question).status, 200);
    let fails = |_: &usize| server.post("/recommend", &question).status != 200;
    assert!((0..100).find(fails).is_some(), "100 launches are fewer than 100 answers need");
    let problem = |status, code: &str| (status, code.to_string());
    assert_eq!(server.post("/recommend", &question).problem(), problem(500, "internal"));
    assert_eq!(server.get("/health").problem(), problem(503, "device_failed"));
    server.wait_until_said("the device is lost");
    assert_eq!(server.get("/items/i9/similar").status, 200, "which needs no GPU");
    // The model that is loaded anew has not failed yet.
    server.signal("HUP");
    server.wait_until_said("a new model is in use");
    assert_eq!(server.get("/health").status, 200);
    server.finish();
}
