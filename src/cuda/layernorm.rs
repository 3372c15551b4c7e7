//! Layer norm of whole rows, where it stands before a sublayer or a row is too wide to be an epilogue.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Norm, NormPartials, NormSaved};
use crate::Result;

/// From input `[rows, D]`: what the norm keeps, and output `[rows, D]`.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    norm: Norm,
    input: Slice<S>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    todo!()
}

/// From d_output `[rows, D]` to d_input `[rows, D]` (may be the same buffer) and the parts of the norm's
/// gradients. With `residual` that gradient is added: row i of it to row `row_tokens[i]` of d_input where
/// `residual_rows` is a map from token to row (see [`super::operands::Rows`]), else row by row.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    norm: Norm,
    saved: NormSaved<S>,
    d_output: Slice<S>,
    residual: Option<(Slice<S>, super::operands::Rows)>,
    norm_partials: NormPartials,
    d_input: Slice<S>,
) -> Result<()> {
    todo!()
}
