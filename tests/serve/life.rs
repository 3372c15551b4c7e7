//! A server's life: batches, new models, the end.

use super::{PATIENCE, Run, Server, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A request that no other is like.
fn question(number: usize) -> Value {
    let history: Vec<String> =
        (0..1 + number % 9).map(|i| format!("i{}", 5 + (number * 3 + i * 7) % 35)).collect();
    json!({"history": history, "k": 1 + number % 12, "filter_seen": number.is_multiple_of(2)})
}

/// Whether two answers say the same. What else is in a batch may change the last bits of a score, and with them the
/// order of items that are as good as equal.
fn same(one: &str, other: &str) -> bool {
    let items = |answer: &str| -> Vec<(String, f64)> {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let items = answer["items"].as_array().unwrap().iter();
        let pair = |item: &Value| (item["item"].to_string(), item["score"].as_f64().unwrap());
        items.map(pair).collect()
    };
    let (one, other) = (items(one), items(other));
    let near = |a: f64, b: f64| (a - b).abs() < 1e-5;
    let last = other.last().map_or(f64::NAN, |last| last.1);
    let found = |(item, score): &(String, f64)| {
        near(*score, last) || other.iter().any(|(i, s)| i == item && near(*s, *score))
    };
    one.len() == other.len()
        && one.iter().all(found)
        && one.iter().zip(&other).all(|(one, other)| near(one.1, other.1))
}

#[test]
fn requests_that_share_a_batch_get_their_own_answers() {
    const CLIENTS: usize = 16;
    const EACH: usize = 20;
    let alone = Server::start(&["--batch-requests=1"]);
    let mut client = alone.client();
    let expected: Vec<String> = (0..CLIENTS * EACH)
        .map(|number| client.post("/recommend", &question(number)).body)
        .collect();
    assert_eq!(alone.metric("b4r_batch_size_count"), (CLIENTS * EACH) as f64);
    alone.finish();
    let server = Server::start(&["--batch-wait=20000"]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                let mut connection = server.client();
                for (number, expected) in expected.iter().enumerate().skip(client * EACH).take(EACH)
                {
                    let question = question(number);
                    let body = connection.post("/recommend", &question).body;
                    assert!(same(&body, expected), "{question}: {body} {expected}");
                }
            });
        }
    });
    let batches = server.metric("b4r_batch_size_count");
    assert_eq!(server.metric("b4r_batch_size_sum"), (CLIENTS * EACH) as f64);
    assert!(batches < (CLIENTS * EACH / 2) as f64, "{batches} batches");
    server.finish();
}

/// Copies the files of a run over those of another, each by renaming, as a careful user would.
fn put(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            let beside = to.join("beside.tmp");
            fs::copy(entry.path(), &beside).unwrap();
            fs::rename(&beside, to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_new_model_takes_over_under_load() {
    let (one, other) = (Run::shared(), Run::train(8));
    let served = tempfile::tempdir().unwrap();
    put(&one.path(), served.path());
    let question = json!({"history": ["i9", "i12"], "k": 5});
    let answer_of = |run: &Path| {
        let server = Server::of(run, &[], &[]);
        let answer = server.post("/recommend", &question).body;
        server.finish();
        answer
    };
    let (old, new) = (answer_of(&one.path()), answer_of(&other.path()));
    assert!(!same(&old, &new));
    let server = Server::of(served.path(), &[], &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.client();
                let mut seen = [0, 0];
                while !done.load(Ordering::Relaxed) {
                    let reply = client.post("/recommend", &question);
                    assert_eq!(reply.status, 200, "{reply:?}");
                    let is_new = same(&reply.body, &new);
                    assert!(is_new || same(&reply.body, &old), "{reply:?}");
                    seen[usize::from(is_new)] += 1;
                }
                assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        put(&other.path(), served.path());
        let renewed = wait_for(|| same(&server.post("/recommend", &question).body, &new));
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        assert!(renewed, "{}", server.said());
    });
    server.wait_until_said("a new model is in use");

    // What is no model changes nothing, by file or by signal.
    let failed = "b4r_model_loads_total{outcome=\"failed\"}";
    let model = served.path().join("model.safetensors");
    let good = fs::read(&model).unwrap();
    fs::write(&model, &good[..good.len() / 2]).unwrap();
    server.wait_until_said("the model in use stays");
    assert!(same(&server.post("/recommend", &question).body, &new));
    let before = server.metric(failed);
    server.signal("HUP");
    assert!(wait_for(|| server.metric(failed) > before));
    fs::remove_file(&model).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(same(&server.post("/recommend", &question).body, &new));
    let loads = "b4r_model_loads_total{outcome=\"ok\"}";
    let before = server.metric(loads);
    fs::write(&model, good).unwrap();
    assert!(wait_for(|| server.metric(loads) > before), "{}", server.said());
    let before = server.metric(loads);
    server.signal("HUP");
    assert!(wait_for(|| server.metric(loads) > before), "the signal needs no change of files");
    server.finish();
}

/// A request whose body of 40 bytes has begun to arrive.
const HALF: &str = "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
    Content-Length: 40\r\n\r\n{\"history\": [\"i9\"]";
/// The rest of it: `HALF` has 18 bytes of the body.
const REST: &str = ", \"k\": 3}             ";

#[test]
fn the_end_waits_for_requests_under_way() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let (mut busy, mut idle) = (server.client(), server.client());
        assert_eq!(idle.get("/health").status, 200);
        busy.send(HALF);
        assert!(wait_for(|| server.metric("b4r_requests_in_progress") == 1.0));
        server.signal(signal);
        server.wait_until_said("ending");
        assert!(wait_for(|| TcpStream::connect(server.address).is_err()), "it still listens");
        assert!(idle.is_closed(), "a connection without a request need not wait");
        busy.send(REST);
        let reply = busy.receive().unwrap();
        assert_eq!(reply.json()["items"].as_array().unwrap().len(), 3);
        assert_eq!(server.exit_code(), Some(0), "{}", server.said());
        assert!(!server.said().contains("panicked"));
    }
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let mut patient = Server::start(&["--drain-timeout=1"]);
    let mut stuck = patient.client();
    stuck.send(HALF);
    assert!(wait_for(|| patient.metric("b4r_requests_in_progress") == 1.0));
    patient.signal("TERM");
    assert_eq!(patient.exit_code(), Some(143), "{}", patient.said());

    let mut hurried = Server::start(&["--drain-timeout=3600", "--read-timeout=3600"]);
    let mut stuck = hurried.client();
    stuck.send(HALF);
    assert!(wait_for(|| hurried.metric("b4r_requests_in_progress") == 1.0));
    hurried.signal("INT");
    hurried.wait_until_said("ending");
    std::thread::sleep(Duration::from_millis(700));
    hurried.signal("INT");
    assert_eq!(hurried.exit_code(), Some(130), "{}", hurried.said());
    assert!(PATIENCE < Duration::from_secs(3600));
}
