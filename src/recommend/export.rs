//! Vectors of items and users for other programs, as safetensors or NPY, written while they are computed.

use super::output::write_to;
use super::{Query, Recommender};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::io::{self, Write};
use std::path::Path;

/// Users whose vectors are computed at once.
const USERS: usize = 512;

/// A tensor's name and sizes.
type Tensor<'a> = (&'a str, Vec<usize>);

#[derive(Clone, Copy)]
enum Format {
    Safetensors,
    Npy,
}

fn format(path: &Path, flag: &str) -> Result<Format> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => Ok(Format::Safetensors),
        Some("npy") => Ok(Format::Npy),
        _ => Err(Error::config(
            flag,
            format!("{} ends in neither .safetensors nor .npy", path.display()),
            "name a file of one of the two",
        )),
    }
}

/// Refuses, before any work, a name from which no format follows.
///
/// # Errors
/// [`Error::Config`].
pub fn check(path: &Path, flag: &str) -> Result<()> {
    format(path, flag).map(drop)
}

/// Writes `items [V, D]` in the order of `items.tsv` and, where the format has room, `bias [V]`.
///
/// # Errors
/// [`Error::Io`], [`Error::Config`].
pub fn items(recommender: &Recommender, path: &Path) -> Result<()> {
    let (vectors, bias) = recommender.item_vectors();
    let shape = vec![bias.len(), recommender.config().model.hidden_size];
    let format = format(path, "export-items")?;
    let tensors = [("items", shape), ("bias", vec![bias.len()])];
    write_to(Some(path), |out| {
        begin(out, format, &tensors)?;
        out.write_all(bytemuck::cast_slice(vectors))?;
        match format {
            Format::Safetensors => out.write_all(bytemuck::cast_slice(bias)),
            Format::Npy => Ok(()),
        }
    })
}

/// Writes `users [U, D]` in the order of `users.tsv`.
///
/// # Errors
/// [`Error::Io`], [`Error::Config`].
pub fn users(recommender: &Recommender, path: &Path) -> Result<()> {
    let count = recommender.users().len();
    let shape = vec![count, recommender.config().model.hidden_size];
    let format = format(path, "export-users")?;
    write_to(Some(path), |out| {
        begin(out, format, &[("users", shape)])?;
        for start in (0..count).step_by(USERS) {
            let users = start..(start + USERS).min(count);
            let queries: Vec<Query> = users.map(|user| recommender.query_number(user)).collect();
            let vectors = recommender.user_vectors(&queries).map_err(io::Error::other)?;
            out.write_all(bytemuck::cast_slice(&vectors))?;
        }
        Ok(())
    })
}

/// Writes what stands before the data; NPY holds the first tensor alone.
fn begin(out: &mut dyn Write, format: Format, tensors: &[Tensor]) -> io::Result<()> {
    match (format, tensors) {
        (Format::Npy, [(_, shape), ..]) => npy_header(out, shape),
        (_, tensors) => safetensors_header(out, tensors),
    }
}

fn safetensors_header(out: &mut dyn Write, tensors: &[Tensor]) -> io::Result<()> {
    let mut end = 0;
    let info = |(name, shape): &Tensor| {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let data_offsets = (start, end);
        (name.to_string(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets })
    };
    let infos = tensors.iter().map(info).collect();
    let metadata = Metadata::new(None, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

/// NPY, version 1.0: magic, version, length of the header, a Python dictionary padded to 64 bytes in all.
fn npy_header(out: &mut dyn Write, shape: &[usize]) -> io::Result<()> {
    const BEFORE: usize = 10;
    let sizes: Vec<String> = shape.iter().map(|size| format!("{size},")).collect();
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.join(" "));
    let length = (BEFORE + header.len() + 1).next_multiple_of(64) - BEFORE;
    header.extend(std::iter::repeat_n(' ', length - 1 - header.len()));
    out.write_all(b"\x93NUMPY\x01\x00")?;
    // Two sizes never come near 2^16 bytes.
    out.write_all(&(length as u16).to_le_bytes())?;
    writeln!(out, "{header}")
}
