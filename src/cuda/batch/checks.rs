//! What is asked of a batch before kernels see it.

use super::Tables;
use crate::batch::{Batch, Segments};
use crate::cuda::device::failed;
use crate::{Error, Result};

/// Kernels read where these lists point to.
pub(super) fn check_lists(batch: &Batch) -> Result<()> {
    let (tokens, rows) = (batch.token_count(), batch.row_count());
    let bounds = |list: &[u32], end: usize| {
        list.first() == Some(&0) && list.is_sorted() && list.last() == Some(&(end as u32))
    };
    let within = |list: &[u32]| list.iter().all(|&token| (token as usize) < tokens);
    let segments = &batch.token_segments;
    let ends = bounds(&segments.offsets, segments.indices.len());
    let whole = ends && segments.offsets.len() == segments.keys.len() + 1;
    let problem = [
        ("positions", batch.positions.len() == tokens),
        ("cu_seqlens", bounds(&batch.cu_seqlens, tokens)),
        ("cu_rows", bounds(&batch.cu_rows, rows)),
        ("cu_rows", batch.cu_rows.len() == batch.cu_seqlens.len()),
        ("rows", within(&batch.rows)),
        ("targets", batch.targets.len() <= rows),
        ("token_segments", whole || segments.keys.is_empty()),
        ("token_segments", segments.indices.len() <= tokens && within(&segments.indices)),
    ]
    .into_iter()
    .find(|(_, holds)| !holds);
    problem.map_or(Ok(()), |(list, _)| Err(contradiction(batch, list)))
}

fn contradiction(batch: &Batch, list: &str) -> Error {
    let (tokens, rows) = (batch.token_count(), batch.row_count());
    let sizes = format!("{tokens} tokens, {} sequences and {rows} rows", batch.sequence_count());
    failed("put the batch onto the GPU", format!("its {list} do not fit {sizes}"))
}

/// Kernels read and add to what these indices name. A target of 0 is none: [`require_targets`].
pub(super) fn check_indices(batch: &Batch, tables: &Tables) -> Result<()> {
    let items = tables.items as u32;
    let keys = &batch.token_segments.keys;
    let lists = [
        ("ids", &batch.ids, 0..=items + 1),
        ("positions", &batch.positions, 0..=tables.positions as u32 - 1),
        ("targets", &batch.targets, 0..=items),
        ("token_segments", keys, 0..=items + 1),
    ];
    for (list, indices, allowed) in lists {
        if let Some(index) = indices.iter().find(|index| !allowed.contains(index)) {
            let problem = format!("its {list} have {index}, not one of {allowed:?}");
            return Err(failed("put the batch onto the GPU", problem));
        }
    }
    Ok(())
}

/// Refuses a batch of which not every row has a target.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn require_targets(batch: &Batch) -> Result<()> {
    match batch.targets.len() == batch.row_count() && !batch.targets.contains(&0) {
        true => Ok(()),
        false => Err(contradiction(batch, "targets")),
    }
}

/// Refuses a batch whose targets are not items, or not grouped as they are: a shortlist is drawn from the groups.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn require_target_segments(batch: &Batch, tables: &Tables) -> Result<()> {
    require_targets(batch)?;
    check_indices(batch, tables)?;
    match groups_all(&batch.target_segments, &batch.targets) {
        true => Ok(()),
        false => Err(contradiction(batch, "target_segments")),
    }
}

/// Whether `segments` have every index of `keys` once, with those of its key.
fn groups_all(segments: &Segments, keys: &[u32]) -> bool {
    let Segments { keys: groups, offsets, indices } = segments;
    let ends = offsets.first() == Some(&0) && offsets.last() == Some(&(keys.len() as u32));
    let ascending = groups.is_sorted_by(|a, b| a < b) && offsets.is_sorted();
    ends && ascending
        && indices.len() == keys.len()
        && offsets.len() == groups.len() + 1
        && groups.iter().zip(offsets.windows(2)).all(|(group, bounds)| {
            let own = &indices[bounds[0] as usize..bounds[1] as usize];
            own.is_sorted_by(|a, b| a < b)
                && own.iter().all(|&index| keys.get(index as usize) == Some(group))
        })
}
