//! Reading, filtering, numbering and splitting interaction files.

mod bad_input; // one clear error for each kind of damage
mod formats; // every format, plain and compressed, recognised and given
mod prepare; // filters, order, numbering, statistics
mod properties; // arbitrary bytes, round trips, the naive k-core
mod real; // public data sets, where they are at hand
mod splits; // training, validation and test

use std::fs;
use std::io::Write;

use b4r::config::DataConfig;
use b4r::data::{Dataset, Statistics, load};
use flate2::{Compression, write::GzEncoder};

/// Loads `bytes` as a file called `name`.
fn load_bytes(
    name: &str,
    bytes: &[u8],
    adjust: impl FnOnce(&mut DataConfig),
) -> b4r::Result<(Dataset, Statistics)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let mut config =
        DataConfig { dataset: path.to_str().unwrap().to_string(), ..DataConfig::default() };
    adjust(&mut config);
    load(&config, false)
}

/// Loads `text` as it is and compressed, and checks that both come out the same.
fn load_both(
    name: &str,
    text: &str,
    adjust: impl Fn(&mut DataConfig),
) -> b4r::Result<(Dataset, Statistics)> {
    let plain = load_bytes(name, text.as_bytes(), &adjust);
    let packed = load_bytes(&format!("{name}.gz"), &gzip(text.as_bytes()), &adjust);
    match (&plain, &packed) {
        (Ok((a, _)), Ok((b, _))) => {
            assert_eq!(histories(a), histories(b));
            assert_eq!((&a.sha256, &a.times, &a.name), (&b.sha256, &b.times, &b.name));
        }
        (Err(_), Err(_)) => {}
        _ => panic!("plain: {plain:?}\npacked: {packed:?}"),
    }
    plain
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Each user's id and the ids of the items, oldest first.
fn histories(dataset: &Dataset) -> Vec<(String, Vec<String>)> {
    (0..dataset.sequences.len())
        .map(|user| {
            let items = dataset.sequences.get(user).iter();
            let items = items.map(|&item| dataset.items.get(item as usize - 1).to_string());
            (dataset.users.get(user).to_string(), items.collect())
        })
        .collect()
}

/// What [`histories`] gives for `user item item ...` on each line.
fn lines(text: &str) -> Vec<(String, Vec<String>)> {
    let words = text.lines().map(|line| line.split_whitespace().map(str::to_string));
    words.map(|mut words| (words.next().unwrap(), words.collect())).collect()
}
