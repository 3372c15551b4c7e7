//! `negatives.safetensors`: what each row was ranked among, for whoever wants to repeat a run's numbers.

use super::judge::{Judge, Part};
use super::tensor_file::{Source, write};
use crate::Result;
use crate::data::Split;
use safetensors::tensor::Dtype;
use std::path::Path;

/// Writes for each sampled part `<part>.rows` U32 `[rows, 2]` (user and position), `<part>.items` U32 (target and
/// negatives of each row, end to end) and `<part>.ends` U64 `[rows]` (where each row ends in them).
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write_negatives(path: &Path, judge: &Judge, split: &Split) -> Result<()> {
    let mut parts = Vec::new();
    for (part, name, rows) in
        [(Part::Valid, "valid", &split.valid), (Part::Test, "test", &split.test)]
    {
        let Some(candidates) = judge.candidates(part) else { continue };
        let rows: Vec<u32> = rows.iter().flat_map(|row| [row.user, row.position]).collect();
        let lists = (0..candidates.len()).map(|row| candidates.get(row));
        let items: Vec<u32> = lists.clone().flatten().copied().collect();
        let ends = lists.scan(0u64, |end, list| {
            *end += list.len() as u64;
            Some(*end)
        });
        parts.push((name, rows, items, ends.collect::<Vec<u64>>()));
    }
    let mut tensors = Vec::new();
    for (name, rows, items, ends) in &parts {
        let mut add = |what: &str, dtype, shape, bytes| {
            tensors.push(Source { name: format!("{name}.{what}"), dtype, shape, bytes });
        };
        add("rows", Dtype::U32, vec![ends.len(), 2], bytemuck::cast_slice(rows));
        add("items", Dtype::U32, vec![items.len()], bytemuck::cast_slice(items));
        add("ends", Dtype::U64, vec![ends.len()], bytemuck::cast_slice(ends));
    }
    write(path, None, &tensors, true)
}
