//! Long streams: memory, order, pipes that close, disks that fill up.

use super::{interactions, lines, program, recommend, run_dir};
use crate::cli::{assert_fails, files_in, stderr};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::process::Child;
use std::sync::mpsc;

/// Requests that say who they are, so that their order can be checked.
fn send(child: &mut Child, count: usize, end: mpsc::Receiver<()>) -> std::thread::JoinHandle<()> {
    let mut stdin = BufWriter::new(child.stdin.take().unwrap());
    std::thread::spawn(move || {
        for user in 0..count {
            let [a, b, c] = [user, user / 7, user / 13].map(|item| item % 50);
            let line =
                format!("{{\"user\":\"n{user}\",\"history\":[\"i{a}\",\"i{b}\",\"i{c}\"]}}\n");
            stdin.write_all(line.as_bytes()).expect("the program reads");
        }
        stdin.flush().expect("the program reads");
        // The program lives until its input ends.
        let _ = end.recv();
    })
}

/// Largest resident set so far, in KiB.
#[cfg(target_os = "linux")]
fn peak_memory(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Peak memory, in KiB, after all but the last few of `count` requests.
#[cfg(target_os = "linux")]
fn peak_after(count: usize) -> u64 {
    let mut child = program(run_dir(), &["--k=10", "--threads=2"]).spawn().unwrap();
    let (end, ended) = mpsc::channel();
    let sender = send(&mut child, count, ended);
    let mut results = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut peak = 0;
    // What is left waits for a chunk or a buffer to fill up.
    for number in 0..count {
        if number == count - 4000 {
            peak = peak_memory(&child);
            end.send(()).unwrap();
        }
        let line: Value = serde_json::from_str(&results.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["user"], format!("n{number}"));
    }
    assert!(results.next().is_none());
    sender.join().unwrap();
    assert!(child.wait().unwrap().success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_stream() {
    let (short, long) = (peak_after(8000), peak_after(100_000));
    assert!(long < short + (8 << 10), "{short} KiB became {long} KiB");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let path = interactions().display().to_string();
    let mut child = program(run_dir(), &["--input", &path, "--k=50", "--filter-seen=false"]);
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert!(!text.contains("error") && !text.contains("panicked"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let path = interactions().display().to_string();
    let output = recommend(&["--input", &path, "--output", "/dev/full"], "");
    assert_fails(&output, 1, &["cannot write /dev/full", "space"]);
    let output = recommend(&["--export-items", "/nowhere/i.npy"], "");
    assert_fails(&output, 1, &["/nowhere/i.npy"]);
}

#[test]
fn a_file_is_replaced_when_the_results_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lists.jsonl");
    fs::write(&path, "old").unwrap();
    let output = path.display().to_string();
    let request = "{\"user\": \"u1\"}\n";
    // A stream that breaks off after many results.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    (0..9000).for_each(|user| writeln!(encoder, "{{\"user\": \"u{}\"}}", user % 90).unwrap());
    let requests = encoder.finish().unwrap();
    let input = folder.path().join("requests.gz");
    fs::write(&input, &requests[..requests.len() - 20]).unwrap();
    let input = input.display().to_string();
    let cut = recommend(&["--output", &output, "--input", &input, "--k=1"], "");
    assert_fails(&cut, 1, &["cannot read", "requests.gz"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert!(lines(&recommend(&["--output", &output, "--k=2"], request)).is_empty());
    let expected = recommend(&["--k=2"], request);
    assert_eq!(fs::read(&path).unwrap(), expected.stdout, "{}", stderr(&expected));
    assert_eq!(files_in(folder.path()), ["lists.jsonl", "requests.gz"]);
    fs::write(&input, &requests).unwrap();
    assert_eq!(lines(&recommend(&["--input", &input, "--k=1"], "")).len(), 9000);
}
