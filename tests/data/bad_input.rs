//! Damaged or unfit files: one error that names the place and the remedy, exit code 2, no panic.

use std::io::Write;

use b4r::config::{DataConfig, DataFormat, Interval};
use flate2::{Compression, write::GzEncoder};

use super::{gzip, load_both, load_bytes};

/// The error's text, after checking what all have in common.
fn message(result: b4r::Result<(b4r::data::Dataset, b4r::data::Statistics)>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let text = error.to_string();
    assert_eq!(text.matches("remedy: ").count(), 1, "{text}");
    text
}

/// Loads `text` under `name` and expects every one of `parts` in the error.
fn expect(name: &str, text: &str, parts: &[&str]) {
    let text = message(load_both(name, text, |_| ()));
    for part in parts.iter().chain([&name]) {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

const INTER: &str = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
const CSV: &str = "user_id,item_id,rating,timestamp\n";

#[test]
fn empty_and_header_only() {
    for name in ["x.inter", "x.csv", "x.txt", "ratings.dat", "u.data"] {
        expect(name, "", &["the file is empty"]);
        expect(name, "\n\r\n  \n", &["the file is empty"]);
    }
    expect("x.inter", INTER, &["a header and no interaction"]);
    expect("x.csv", CSV, &["a header and no interaction"]);
    for format in [DataFormat::Inter, DataFormat::Csv, DataFormat::UData, DataFormat::RatingsDat] {
        let text = message(load_both("x", "", |config| config.format = Some(format)));
        assert!(text.contains("the file is empty"), "{text}");
    }
}

#[test]
fn missing_columns_are_named_with_what_is_there() {
    let parts = ["column item_id", "`user_id`, `rating`", "ITEM_ID_FIELD"];
    expect("x.csv", "user_id,rating\nu,1\n", &parts);
    expect("x.inter", "user_id:token\trating:float\nu\t1\n", &parts);
    expect("x.inter", "a:token\titem_id:token\nu\t1\n", &["column user_id", "USER_ID_FIELD"]);
    expect("x.inter", "user_id\titem_id\nu\t1\n", &["name:type", "column user_id"]);
    expect("x.csv", "user_id,user_id,item_id\nu,v,1\n", &["column user_id", "twice"]);
    let wide: Vec<String> = (0..100_000).map(|i| format!("c{i}")).collect();
    let text = message(load_both("x.csv", &format!("{}\nu,1\n", wide.join(",")), |_| ()));
    assert!(text.contains("and 99980 more") && text.len() < 1000, "{text}");
    let text = message(load_both("x.csv", "user_id,item_id\nu,1\n", |config| {
        config.time_field = Some("date".to_string());
    }));
    assert!(text.contains("column date") && text.contains("TIME_FIELD"), "{text}");
    let text = message(load_both("x.csv", "user_id,item_id\nu,1\n", |config| {
        config.item_field = "user_id".to_string();
    }));
    assert!(text.contains("ITEM_ID_FIELD"), "{text}");
}

#[test]
fn lines_with_too_few_or_too_many_fields() {
    expect(
        "x.inter",
        &format!("{INTER}u\ta\t1\t2\n\nu\tb\t1\n"),
        &[":4: column timestamp", "has 3 fields"],
    );
    expect("x.csv", &format!("{CSV}u,a,1,2\r\nu,b\r\n"), &[":3: column rating", "has 2 fields"]);
    expect(
        "x.csv",
        &format!("{CSV}u,a,1,2\nu,b,c,1,2\n"),
        &[":3:", "has 5 fields", "double quotes"],
    );
    expect("x.csv", &format!("{CSV}u,\"a,1,2\nu,b,1,2\n"), &[":2:", "double quote"]);
    // A quote that swallows all further lines leaves their number of fields as it should be.
    let swallowed = ["user_id,item_id\nu,a\nv,\"x\nv,y\nw,z\n", "user_id,item_id\nu,a\nv,\"x\nv,y"];
    for text in swallowed.iter().flat_map(|text| [text.to_string(), text.replace('\n', "\r\n")]) {
        expect("x.csv", &text, &[":3:", "double quote", "never closed"]);
    }
    expect("ratings.dat", "u::a::1::2\nu::b::1\n", &[":2:", "has 3 fields"]);
    // What most lines look like decides on the format, so that a damaged line is one of it.
    let rows = "u\ta\t1\t880000000\nv\tb\t1\t880000001\n";
    expect("u.data", &format!("{rows}u\tb\n"), &[":3: column 3", "has 2 fields"]);
    expect("x.txt", "u a\nu b\nu c\nu d\nv a b\n", &[":5:", "`user item` has 2"]);
    expect("x.dat", "u::a::1\nu::b::1::2\n", &[":1:", "has 3 fields"]);
    let udata = |config: &mut DataConfig| config.format = Some(DataFormat::UData);
    let text = message(load_both("u.data", "u\ta\t1\t2\nu\tb\n", udata));
    assert!(text.contains(":2: column 3") && text.contains("has 2 fields"), "{text}");
    let pairs = |config: &mut DataConfig| config.format = Some(DataFormat::Pairs);
    for (line, part) in [("u", "has 1 field,"), ("u a b", "has 3 fields")] {
        let text = message(load_both("x.txt", &format!("u a\n{line}\n"), pairs));
        assert!(text.contains(":2:") && text.contains(part), "{text}");
    }
    let text = message(load_both("x.txt", "u a b c\n\nv\n", |_| ()));
    assert!(text.contains(":3:") && text.contains("has 1 field,"), "{text}");
}

#[test]
fn times_and_ratings_that_are_no_finite_numbers() {
    for bad in ["x", "NaN", "inf", "-inf", "1e999", "", "2020-01-01", "1,5", "0x10"] {
        let csv = format!("{CSV}u,a,1,2\nu,b,1,\"{bad}\"\n");
        expect("x.csv", &csv, &[":3: column timestamp", bad, "TIME_FIELD"]);
        let inter = format!("{INTER}u\ta\t1\t2\nu\tb\t{bad}\t1\n");
        expect("x.inter", &inter, &[":3: column rating", bad, "RATING_FIELD"]);
        let dat = format!("u::a::1::2\nu::b::1::{bad}\n");
        expect("ratings.dat", &dat, &[":2: column 4 (time)", bad]);
    }
}

#[test]
fn ids_that_are_not_utf8() {
    let cases: [(&str, &[u8], &str); 5] = [
        ("x.csv", b"user_id,item_id\nu,a\nu,\xff\n", ":3: column item_id"),
        ("x.inter", b"user_id:token\titem_id:token\n\xc3\ta\n", ":2: column user_id"),
        ("x.csv", b"user_id,item_id,\xe9\nu,a,1\n", ":1: column 3"),
        ("x.txt", b"u a\nu \xe9t\xe9\n", ":2: column 2 (item)"),
        ("x.txt", b"u a b c\n\n\xfe a b\n", ":3: column 1 (user)"),
    ];
    for (name, bytes, place) in cases {
        for bytes in [bytes.to_vec(), gzip(bytes)] {
            let text = message(load_bytes(name, &bytes, |_| ()));
            assert!(text.contains(place) && text.contains("UTF-8"), "{text}");
        }
    }
}

#[test]
fn files_of_another_kind() {
    let cases: [(&[u8], &str); 5] = [
        (b"PK\x03\x04rest", "zip archive"),
        (b"PAR1rest", "Parquet"),
        (b"\xff\xfeu\0 \0a\0", "UTF-16"),
        (b"u\0a\n", "zero bytes"),
        (b"(\xb5/\xfdrest", "zstd"),
    ];
    for (bytes, part) in cases {
        let text = message(load_bytes("x", bytes, |_| ()));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn gzip_cut_short_or_damaged() {
    let rows: String =
        (0..50_000u64).map(|i| format!("u{} i{}\n", i % 999, i * i % 7919)).collect();
    let whole = gzip(rows.as_bytes());
    for keep in [3, 10, 200, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        let text = message(load_bytes("x.gz", &whole[..keep], |_| ()));
        assert!(text.contains("cut short"), "{keep}: {text}");
    }
    let text = message(load_bytes("x.gz", &whole[..whole.len() - 9], |_| ()));
    let line = text.split(':').nth(1).unwrap().parse::<u64>().unwrap();
    assert!(line > 40_000, "the line reached is named: {text}");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xff;
    message(load_bytes("x.gz", &damaged, |_| ()));
    // Several gzip members one after another are one file.
    let two = [gzip(b"u a\nu b\n"), gzip(b"u c\n")].concat();
    assert_eq!(load_bytes("x.gz", &two, |_| ()).unwrap().1.interactions, 3);
}

#[test]
fn endless_lines_are_refused_before_they_fill_the_memory() {
    // 96 MiB without a line feed, 100 kB compressed: less than the limit on expansion allows to pass.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut words = Vec::with_capacity(1 << 20);
    let mut state = 1u32;
    while words.len() < 1 << 20 {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        write!(words, "{} ", state >> 12).unwrap();
    }
    for _ in 0..24 {
        encoder.write_all(&words).unwrap();
    }
    let endless = encoder.finish().unwrap();
    for format in [DataFormat::Inter, DataFormat::Csv, DataFormat::UData] {
        // What the header is made of does not matter: it does not end.
        let text = message(load_bytes("x.gz", &endless, |config| config.format = Some(format)));
        assert!(text.contains(":1: the line is longer than 16 MiB"), "{text}");
    }
    for format in [DataFormat::RatingsDat, DataFormat::Pairs, DataFormat::Sequences] {
        let text = message(load_bytes("x.gz", &endless, |config| config.format = Some(format)));
        assert!(text.contains(":1: the line is longer than 16 MiB"), "{text}");
    }
    // A quote that is never closed makes one record of all that follows.
    let open = [b"user_id,item_id\nu,\"".to_vec(), b"1,2\n".repeat(6 << 20)].concat();
    let text = message(load_bytes("x.csv", &open, |_| ()));
    assert!(text.contains("double quote"), "{text}");
}

#[test]
fn gzip_bombs_are_refused() {
    // Valid interactions, so that nothing but their expansion speaks against them.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let block = b"1 2\n".repeat(1 << 18);
    for _ in 0..80 {
        encoder.write_all(&block).unwrap();
    }
    let text = message(load_bytes("x.gz", &encoder.finish().unwrap(), |_| ()));
    assert!(text.contains("expands more than 200 times"), "{text}");
}

#[test]
fn too_little_data() {
    let short = "a 1\na 2\nb 1\nb 3\n";
    expect("x.txt", short, &["none of the 2 users has 3 interactions"]);
    expect("x.txt", "a 1\na 1\na 1\n", &["only 1 item"]);
    let text = message(load_both("x.txt", "a 1\na 2\na 3\n", |config| {
        config.user_interval = Interval::at_least(4.0);
    }));
    assert!(text.contains("no interaction is left after the filters (3 by k-core)"), "{text}");
}

#[test]
fn rating_interval_without_ratings() {
    let wanted = |config: &mut DataConfig| config.rating_interval = Some(Interval::at_least(3.0));
    for (name, text) in
        [("x.csv", "user_id,item_id\nu,1\n"), ("x.txt", "u 1\n"), ("x.txt", "u 1 2\n")]
    {
        let text = message(load_both(name, text, wanted));
        assert!(text.contains("val_interval") && text.contains("RATING_FIELD"), "{text}");
    }
    let text = message(load_both("ratings.dat", "u::1::2::3\n", |config| {
        wanted(config);
        config.rating_field = None;
    }));
    assert!(text.contains("val_interval"), "{text}");
}

#[test]
fn files_that_are_not_there() {
    let config = DataConfig { dataset: "ml-100".to_string(), ..DataConfig::default() };
    let text = message(b4r::data::load(&config, false));
    assert!(text.contains("did you mean `ml-100k`?") && text.contains("`ml-100`"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let dataset = folder.path().to_str().unwrap().to_string();
    let text = message(b4r::data::load(&DataConfig { dataset, ..DataConfig::default() }, false));
    assert!(text.contains("neither a known data set nor a file"), "{text}");
}

#[test]
fn separators_that_cannot_be() {
    for separator in ['é', '\n', '"'] {
        let text = message(load_both("x.csv", "user_id,item_id\nu,1\n", |config| {
            config.field_separator = Some(separator);
        }));
        assert!(text.contains("field_separator"), "{text}");
    }
}

#[test]
fn a_file_cut_while_it_is_read_is_an_error_or_shorter_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.txt");
    let rows: String = (0..400_000u32).map(|i| format!("u{} i{}\n", i / 100, i % 97)).collect();
    for round in 0..4u64 {
        std::fs::write(&path, &rows).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let cutter = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(round));
            file.set_len(10_001).unwrap();
        });
        let dataset = path.to_str().unwrap().to_string();
        let result = b4r::data::load(&DataConfig { dataset, ..DataConfig::default() }, false);
        cutter.join().unwrap();
        if let Err(error) = result {
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
