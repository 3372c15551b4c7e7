//! Recommending with a small trained run: the library, the program, streams, and damaged run directories.

mod command;
mod cuda;
mod damaged;
mod library;
mod streams;

use crate::cli::Sandbox;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// Items of the run, `i0` to `i49`.
const ITEMS: usize = 50;

/// A run that all tests read and none changes.
static RUN: LazyLock<(Sandbox, PathBuf)> = LazyLock::new(|| {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    sandbox.finish(&run_dir, &["--epochs=3"]);
    (sandbox, run_dir)
});

fn run_dir() -> &'static Path {
    &RUN.1
}

/// The file that the run was trained on.
fn interactions() -> PathBuf {
    RUN.0.data()
}

/// A copy of the run, to be changed.
fn copy_of_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(run_dir()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn program(run_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_b4r-recommend"));
    command.arg(run_dir).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program on the shared run with `input` on its standard input.
fn recommend(arguments: &[&str], input: &str) -> Output {
    answer(run_dir(), arguments, input)
}

fn answer(run_dir: &Path, arguments: &[&str], input: &str) -> Output {
    feed(program(run_dir, arguments), input)
}

/// Runs a program with `input` on its standard input.
fn feed(mut program: Command, input: &str) -> Output {
    let mut child = program.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().unwrap();
    // It may end without reading what nobody should have sent.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// The lines of a program that must have ended well.
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", crate::cli::stderr(output));
    parsed(output)
}

fn parsed(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON value a line")).collect()
}

/// The items that a line of output names.
fn items(line: &Value) -> Vec<&str> {
    let items = line["items"].as_array().unwrap_or_else(|| panic!("no items in {line}"));
    items.iter().map(|item| item["item"].as_str().unwrap()).collect()
}
