//! `b4r-recommend` as a user runs it: formats, options, refusals, exit codes.

use super::{ITEMS, answer, copy_of_run, interactions, items, lines, parsed, recommend, run_dir};
use crate::cli::{assert_fails, stderr};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;

const TWO: &str =
    "{\"user\": \"u1\"}\n\n{\"history\": [\"i3\", \"i24\", \"i3\"], \"user\": \"new\"}\n";

fn scores(line: &Value) -> Vec<f64> {
    line["items"].as_array().unwrap().iter().map(|item| item["score"].as_f64().unwrap()).collect()
}

#[test]
fn answers_in_order() {
    let output = recommend(&["--k=3"], TWO);
    let lines = lines(&output);
    assert_eq!(lines.len(), 2, "a blank line is no request");
    assert_eq!(lines[0]["user"], "u1");
    assert_eq!(lines[1]["user"], "new");
    for line in &lines {
        assert_eq!(line["unknown"], json!([]));
        assert_eq!(items(line).len(), 3);
        assert!(scores(line).is_sorted_by(|a, b| a >= b));
    }
    assert!(stderr(&output).contains("2 answered"), "{}", stderr(&output));
}

#[test]
fn seen_items_are_left_out_unless_asked_for() {
    let history = ["i3", "i24", "i21"];
    let request = json!({ "history": history }).to_string();
    let all: HashSet<String> = (0..ITEMS).map(|i| format!("i{i}")).collect();
    let named = |arguments: &[&str]| -> HashSet<String> {
        let line = lines(&recommend(arguments, &request)).remove(0);
        items(&line).into_iter().map(String::from).collect()
    };
    let unseen: HashSet<String> =
        all.iter().filter(|item| !history.contains(&item.as_str())).cloned().collect();
    for arguments in
        [&["--k=50"][..], &["-k", "50", "--filter-seen"], &["-k50", "--filter-seen=true"]]
    {
        assert_eq!(named(arguments), unseen, "{arguments:?}");
    }
    assert_eq!(named(&["--k=50", "--filter_seen=false"]), all);
}

#[test]
fn allow_and_deny_lists() {
    let copy = copy_of_run();
    let write = |name: &str, text: &str| {
        let path = copy.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let allow = write("allow", "\u{feff}i7\r\n\ni3\nnew item\ni9\n");
    let deny = write("deny", "i7");
    let arguments = ["--allow", &allow, "--deny", &deny];
    let output = recommend(&arguments, "{\"history\": [\"i1\"]}\n");
    let line = lines(&output).remove(0);
    assert_eq!(items(&line).into_iter().collect::<HashSet<_>>(), HashSet::from(["i3", "i9"]));
    let text = stderr(&output);
    assert!(
        text.contains("1 items of the lists are unknown") && text.contains("new item"),
        "{text}"
    );
    assert!(text.contains("k is 10, but there are only 2"), "{text}");
    let nothing = write("nothing", "x\ny\n");
    assert_fails(&recommend(&["--allow", &nothing], TWO), 2, &["allow", "no item", "remedy"]);
    assert_fails(&recommend(&["--allow", "/none"], TWO), 2, &["/none", "cannot be read"]);
}

#[test]
fn csv_in_and_out() {
    let output = recommend(
        &["--k=2", "--output-format=csv"],
        "user,history\nu1,\n\"n,1\",i3 i24 x\n,i3\n,\nnobody,\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let json = "{\"user\":\"u1\"}\n{\"user\":\"n,1\",\"history\":[\"i3\",\"i24\",\"x\"]}\n{\"history\":[\"i3\"]}\n\
                {\"history\":[]}\n";
    let expected = lines(&recommend(&["--k=2"], json));
    let mut reader = csv::Reader::from_reader(&output.stdout[..]);
    let header = reader.headers().unwrap().clone();
    assert_eq!(header.iter().collect::<Vec<_>>().join(" "), "line user rank item score fallback");
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 8);
    for (index, row) in rows.iter().enumerate() {
        let (request, rank) = (&expected[index / 2], index % 2);
        assert_eq!(row[0], (index / 2 + 2).to_string());
        assert_eq!(row[1], *request["user"].as_str().unwrap_or_default());
        assert_eq!(row[2], (rank + 1).to_string());
        assert_eq!(row[3], *items(request)[rank]);
        assert!((row[4].parse::<f64>().unwrap() - scores(request)[rank]).abs() < 1e-4);
        assert_eq!(row[5], *request["fallback"].as_str().unwrap_or_default());
    }
    let text = stderr(&output);
    assert!(text.contains("standard input:6: `nobody`"), "{text}");
    assert!(text.contains("4 answered, 1 of them by popularity, 1 unknown items"), "{text}");
    assert!(text.contains("1 request refused"), "{text}");
}

#[test]
fn interaction_files_in_any_format() {
    let users: String = (0..90).map(|user| format!("{{\"user\": \"u{user}\"}}\n")).collect();
    let expected = lines(&recommend(&["--k=4"], &users));
    let path = interactions().display().to_string();
    let from_file = lines(&recommend(&["--k=4", "--input", &path], ""));
    assert!(from_file == expected, "the run's own histories");
    let text = fs::read_to_string(&path).unwrap();
    let from_stdin = lines(&recommend(&["--k=4", "--input-format=interactions"], &text));
    assert!(from_stdin == expected);
    // Sequences, told from JSON lines and CSV by their first line.
    let output = recommend(&["--k=4"], "a i3 i24 i21\nb i3 x i4\n");
    let sequences = lines(&output);
    assert_eq!(sequences[0]["user"], "a");
    assert_eq!(sequences[1]["unknown"], json!(["x"]));
    let damaged = recommend(&["--input-format=interactions"], "user_id,item_id\nu1\n");
    assert_fails(&damaged, 2, &["standard input:2", "1 field"]);
}

#[test]
fn damaged_lines_do_not_stop_the_rest() {
    let long = format!("{{\"user\": \"{}\"}}", "u".repeat(17 << 20));
    let input = [
        "{\"user\": \"u1\"}", // 1
        "{\"user\": \"u2\"",
        "",
        "{\"user\": \"nobody\"}", // 4
        "{\"history\": [\"i3\"], \"items\": [\"i4\"]}",
        "{}",
        &long, // 7
        "[\"u1\"]",
        "{\"user\": \"u3\"}",
    ]
    .join("\r\n");
    let output = recommend(&["--k=1"], &input);
    assert_eq!(output.status.code(), Some(1));
    let lines = parsed(&output);
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0]["user"], "u1");
    assert_eq!(lines[7]["user"], "u3");
    for (line, number, words) in [
        (1, 2, "column 13"),
        (2, 4, "`nobody` is not among"),
        (3, 5, "--score"),
        (4, 6, "neither `user` nor `history`"),
        (5, 7, "longer than 16 MiB"),
        (6, 8, "a request is an object"),
    ] {
        assert_eq!(lines[line]["line"], number);
        let error = lines[line]["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
        assert!(stderr(&output).contains(&format!("standard input:{number}: {error}")));
    }
    assert!(stderr(&output).contains("2 answered, 6 requests refused"), "{}", stderr(&output));
    // Nothing but damage.
    assert_fails(&recommend(&[], "{\n}\n"), 2, &["0 answered, 2 requests refused"]);
    // No request is no damage.
    assert!(lines_of_nothing().is_empty());
}

fn lines_of_nothing() -> Vec<Value> {
    lines(&recommend(&[], ""))
}

#[test]
fn scores_of_given_pairs() {
    let input = "{\"user\": \"u1\", \"items\": [\"i4\", \"x\", \"i5\"]}\n{\"history\": [], \"items\": [\"i4\"]}\n\
                 {\"user\": \"u1\"}\n";
    let output = recommend(&["--score"], input);
    assert_eq!(output.status.code(), Some(1));
    let scored = parsed(&output);
    let all =
        lines(&recommend(&["--k=50", "--filter-seen=false"], "{\"user\": \"u1\"}\n")).remove(0);
    let expected =
        |item: &str| scores(&all)[items(&all).iter().position(|name| *name == item).unwrap()];
    assert_eq!(items(&scored[0]), ["i4", "x", "i5"]);
    assert_eq!(scored[0]["items"][1]["score"], Value::Null);
    for place in [0, 2] {
        let own = &scored[0]["items"][place];
        let difference = own["score"].as_f64().unwrap() - expected(own["item"].as_str().unwrap());
        assert!(difference.abs() < 1e-4);
    }
    assert_eq!(scored[1]["fallback"], "popularity");
    assert!(scored[2]["error"].as_str().unwrap().contains("no `items`"));
    // Pairs in a file: the user's history is the run's, the file's items are scored.
    let pairs = "user_id,item_id\nu1,i4\nu2,i9\nu1,i5\n";
    let output = recommend(&["--score", "--output-format=csv"], pairs);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["line", "user", "item", "score", "fallback"]);
    let named: Vec<&str> = rows[1..].iter().map(|row| row[2]).collect();
    assert_eq!(named, ["i4", "i5", "i9"]);
    assert!((rows[2][3].parse::<f64>().unwrap() - expected("i5")).abs() < 1e-4);
    assert_fails(&recommend(&["--score", "--k=3"], ""), 2, &["--score", "--k"]);
}

#[test]
fn similar_items() {
    let line = lines(&recommend(&["--similar", "i3", "--k=4"], "")).remove(0);
    assert_eq!(line["item"], "i3");
    assert_eq!(items(&line).len(), 4);
    assert!(!items(&line).contains(&"i3"));
    assert_fails(&recommend(&["--similar", "x"], ""), 2, &["`x`", "items.tsv"]);
}

#[test]
fn vectors_multiply_to_scores() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let export = |items: &str, users: &str| {
        let (items, users) = (path(items), path(users));
        let output = recommend(&["--export-items", &items, "--export-users", &users], TWO);
        assert!(lines(&output).is_empty(), "without --input only the vectors are wanted");
        (fs::read(items).unwrap(), fs::read(users).unwrap())
    };
    let (items_file, users_file) = export("i.safetensors", "u.safetensors");
    let item_tensors = SafeTensors::deserialize(&items_file).unwrap();
    let user_tensors = SafeTensors::deserialize(&users_file).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (vectors, users) =
        (item_tensors.tensor("items").unwrap(), user_tensors.tensor("users").unwrap());
    assert_eq!((vectors.shape(), users.shape()), (&[ITEMS, 16][..], &[90, 16][..]));
    let (item_bytes, user_bytes) = (vectors.data(), users.data());
    let (vectors, users) = (floats(item_bytes), floats(user_bytes));
    let bias = floats(item_tensors.tensor("bias").unwrap().data());
    let names = fs::read_to_string(run_dir().join("items.tsv")).unwrap();
    let names: Vec<&str> =
        names.lines().skip(1).map(|line| line.split('\t').nth(1).unwrap()).collect();
    let list = lines(&recommend(&["--k=5"], "{\"user\": \"u7\"}\n")).remove(0);
    for (name, score) in items(&list).into_iter().zip(scores(&list)) {
        let item = names.iter().position(|other| *other == name).unwrap();
        let pairs = users[7 * 16..8 * 16].iter().zip(&vectors[item * 16..]);
        let product: f32 = pairs.map(|(a, b)| a * b).sum();
        assert!((f64::from(product + bias[item]) - score).abs() < 1e-4);
    }
    let (items_file, users_file) = export("i.npy", "u.npy");
    for (file, bytes, shape) in
        [(&items_file, item_bytes, "(50, 16,)"), (&users_file, user_bytes, "(90, 16,)")]
    {
        let (header, data) = file.split_at(file.len() - bytes.len());
        assert_eq!(data, bytes);
        assert!(header.starts_with(b"\x93NUMPY\x01\x00") && header.len() % 64 == 0);
        assert_eq!(usize::from(header[8]) + 256 * usize::from(header[9]), header.len() - 10);
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert!(text.contains(shape) && text.contains("'<f4'") && text.ends_with('\n'), "{text}");
    }
    assert_fails(&recommend(&["--export-items", &path("i.csv")], ""), 2, &[".safetensors", ".npy"]);
}

#[test]
fn what_cannot_be_asked_for() {
    assert_fails(&recommend(&["--k=0"], TWO), 2, &["k: is 0", "remedy"]);
    assert_fails(&recommend(&["--k=-1"], TWO), 2, &["-1", "--k"]);
    for arguments in [&["--k=51"][..], &["--k=51", "--similar=i3"]] {
        assert_fails(&recommend(arguments, TWO), 2, &["k: 51 is more than the 50 items", "remedy"]);
    }
    assert_fails(&recommend(&["--threads=100000"], TWO), 2, &["--threads", "4096"]);
    assert_fails(&recommend(&["--kk=3"], TWO), 2, &["--kk"]);
    assert_fails(
        &recommend(&["--input", "/none"], TWO),
        2,
        &["/none", "cannot be opened", "remedy"],
    );
    assert_fails(&recommend(&["--input", "/"], TWO), 2, &["is a folder"]);
    assert_fails(
        &recommend(&["--input-format=csv"], "user,age\nu1,3\n"),
        2,
        &["standard input:1", "`age`", "remedy"],
    );
    assert_fails(&recommend(&["--input-format=csv"], ""), 2, &["no header"]);
    assert_fails(&answer("".as_ref(), &[], TWO), 2, &["RUN"]);
    let help = recommend(&["--help"], "");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--similar"));
}
