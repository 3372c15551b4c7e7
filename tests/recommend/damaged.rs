//! Run directories that are not whole, not ours, or changed: one clear error each, and never a panic.

use super::{answer, copy_of_run};
use crate::cli::assert_fails;
use b4r::recommend::Recommender;
use std::fs;
use std::path::Path;

const REQUEST: &str = "{\"user\": \"u1\"}\n";

/// Changes a copy of the run and checks what the program says of it.
fn refused(change: impl FnOnce(&Path), words: &[&str]) {
    let copy = copy_of_run();
    change(copy.path());
    let output = answer(copy.path(), &[], REQUEST);
    assert_fails(&output, 2, words);
    assert!(output.stdout.is_empty());
}

fn edit(name: &'static str, from: &'static str, to: &'static str) -> impl FnOnce(&Path) {
    move |folder| {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

/// Turns one bit of the file, `back` bytes before its end.
fn turn_bit(name: &'static str, back: usize) -> impl FnOnce(&Path) {
    move |folder| {
        let path = folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.len() - back;
        bytes[place] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn no_directory() {
    let copy = copy_of_run();
    let config = copy.path().join("config.yaml");
    assert_fails(&answer(&copy.path().join("none"), &[], REQUEST), 2, &["no such directory"]);
    assert_fails(&answer(&config, &[], REQUEST), 2, &["is no directory"]);
}

#[test]
fn a_file_is_missing() {
    for name in ["config.yaml", "items.tsv", "users.tsv", "histories.safetensors"] {
        let remove = |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
        refused(remove, &[name, "not whole", "remedy"]);
    }
    let name = "model.safetensors";
    let remove = |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    refused(remove, &[name, "no model yet", "remedy"]);
}

#[test]
fn parts_do_not_fit_together() {
    refused(edit("items.tsv", "\n1\ti", "\n1\tj"), &["model.safetensors", "vocabulary"]);
    refused(edit("config.yaml", "hidden_size: 16", "hidden_size: 32"), &["shape", "[52, 16]"]);
    refused(edit("config.yaml", "n_heads: 2", "n_heads: 4"), &["n_heads=2", "n_heads=4"]);
    let cut = |folder: &Path| {
        let path = folder.join("users.tsv");
        let text = fs::read_to_string(&path).unwrap();
        let end = text.trim_end().rfind('\n').unwrap();
        fs::write(path, &text[..=end]).unwrap();
    };
    refused(cut, &["histories.safetensors", "90 users", "89"]);
}

#[test]
fn files_were_changed() {
    refused(turn_bit("model.safetensors", 3), &["model.safetensors", "damaged"]);
    refused(turn_bit("histories.safetensors", 100), &["histories.safetensors", "checksum"]);
    refused(edit("items.tsv", "\n2\t", "\n3\t"), &["items.tsv:3", "out of order"]);
    refused(edit("users.tsv", "\n1\tu1", "\n1\tu0"), &["users.tsv:3", "earlier line"]);
    refused(edit("users.tsv", "index", "number"), &["users.tsv:1", "header"]);
    refused(edit("config.yaml", "n_heads", "heads"), &["config.yaml", "heads"]);
}

#[test]
fn another_version() {
    let change = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let from = b"\\\"format\\\":1";
        let place = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[place + from.len() - 1] = b'7';
        fs::write(path, bytes).unwrap();
    };
    refused(change, &["format 7", "reads format 1"]);
}

/// Cut anywhere, a file is refused, or read where nothing that counts is missing.
#[test]
fn files_cut_short() {
    let copy = copy_of_run();
    for name in
        ["model.safetensors", "histories.safetensors", "items.tsv", "users.tsv", "config.yaml"]
    {
        let path = copy.path().join(name);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, 7, 8, 40, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let outcome = Recommender::open(copy.path(), 1);
            assert!(outcome.is_err() || name == "config.yaml", "{name} cut to {length}");
        }
        fs::write(&path, &whole).unwrap();
    }
    Recommender::open(copy.path(), 1).unwrap();
}
