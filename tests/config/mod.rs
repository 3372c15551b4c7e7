//! Configuration as a user writes it: files, flags, RecBole's keys, bad values.

mod explain; // what is shown and written down
mod files; // YAML as a file format
mod flags; // the command line
mod properties; // arbitrary input, round trips
mod recbole; // RecBole's own configurations
mod values; // each key's range

use std::ffi::OsString;
use std::path::PathBuf;

use b4r::Error;
use b4r::config::{Config, Resolved, resolve};
use tempfile::TempDir;

/// Resolves flags.
fn flags(flags: &[&str]) -> b4r::Result<Resolved> {
    resolve(flags.iter().map(OsString::from))
}

/// Resolves flags that are right.
fn good(arguments: &[&str]) -> Config {
    flags(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}")).config
}

/// A file with `text`, in a folder that lives as long as the first value.
fn file(text: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("conf.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Resolves a file with `text`, then flags.
fn yaml_and_flags(text: &str, flags: &[&str]) -> b4r::Result<Resolved> {
    let (_folder, path) = file(text);
    let flags = flags.iter().map(OsString::from);
    resolve(std::iter::once(path.into_os_string()).chain(flags))
}

/// Resolves a file with `text`.
fn yaml(text: &str) -> b4r::Result<Resolved> {
    yaml_and_flags(text, &[])
}

/// Asserts an [`Error::Config`] about `key` with exit code 2 whose text contains all `parts`.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: b4r::Result<T>, key: &str, parts: &[&str]) {
    let error = result.expect_err("this should have been refused");
    assert_eq!(error.exit_code(), 2, "{error}");
    let Error::Config { key: named, remedy, .. } = &error else {
        panic!("another error: {error}");
    };
    assert_eq!(named, key, "{error}");
    assert!(!remedy.is_empty(), "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
    }
}
