//! What the kernel sources are: their hash, the kernels they name, and the text that carries both.
//!
//! Shared by the build scripts of the program and of the software GPU, so that each can tell whether the other
//! was made from the same sources.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// SHA-256, in hex, over all `.cu` and `.cuh` files below `root`: for each, in the order of their relative paths
/// (with `/`), the path, a zero byte, the length as 8 bytes little endian, the content.
pub fn hash(root: &Path) -> io::Result<String> {
    let mut sources = Vec::new();
    collect(root, root, &mut sources)?;
    sources.sort();
    let mut sha = Sha256::new();
    for (name, path) in &sources {
        let content = fs::read(path)?;
        sha.update(name.as_bytes());
        sha.update([0]);
        sha.update((content.len() as u64).to_le_bytes());
        sha.update(&content);
    }
    Ok(hex(&sha.finalize()))
}

/// Adds every source below `folder` as its path relative to `root` and its path.
fn collect(root: &Path, folder: &Path, sources: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, sources)?;
        } else if path.extension().is_some_and(|end| end == "cu" || end == "cuh") {
            let relative = path.strip_prefix(root).expect("found below root");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            sources.push((parts.join("/"), path));
        }
    }
    Ok(())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first arguments of all `KERNEL(name, ...)` in a source, in order. Comments and macro definitions do not
/// count, so names have to be spelled out.
pub fn kernel_names(source: &str) -> Vec<String> {
    let code = without_comments(source);
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let code = code.join("\n");
    let is_part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("KERNEL") {
        let starts_a_word = !rest[..at].ends_with(is_part_of_name);
        rest = &rest[at + "KERNEL".len()..];
        if let Some(arguments) = rest.trim_start().strip_prefix('(').filter(|_| starts_a_word) {
            let name = arguments.split(',').next().unwrap_or("").trim();
            if !name.is_empty() && name.chars().all(is_part_of_name) {
                names.push(name.to_string());
            }
        }
    }
    names
}

/// The source with a space in place of each comment; line breaks stay.
fn without_comments(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        code.push_str(&rest[..at]);
        code.push(' ');
        let comment = &rest[at..];
        let end = match comment.starts_with("//") {
            true => comment.find('\n'),
            false => comment[2..].find("*/").map(|end| end + 4),
        };
        rest = &comment[end.unwrap_or(comment.len())..];
    }
    code + rest
}

/// The text at the end of each embedded image. `toolkit` is the version of the CUDA toolkit that compiled it.
pub fn manifest(hash: &str, toolkit: Option<(u32, u32)>, kernels: &[String]) -> String {
    let toolkit = toolkit.map_or("none".to_string(), |(major, minor)| format!("{major}.{minor}"));
    let kernels: String = kernels.iter().map(|name| format!(" {name}")).collect();
    format!("b4r-kernels 1\nhash {hash}\ntoolkit {toolkit}\nkernels{kernels}\nend\n")
}
