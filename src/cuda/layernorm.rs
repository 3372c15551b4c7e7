//! Layer norm of whole rows, where it stands before a sublayer or a row is too wide to be an epilogue.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Norm, NormPartials, NormSaved, Rows};
use super::tail::{self, TailBackward, TailForward};
use super::tiles::{check, check_width};
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
    const OPERATION: &str = "layernorm forward";
    check_width(OPERATION, width)?;
    check(OPERATION, "input", input, rows.most * width)?;
    let tail = TailForward::new(OPERATION, rows.most, width, Some((norm, saved)), output)?;
    // SAFETY: all buffers were checked to hold `rows.most` rows, at least as many as the kernel works on, and
    // live as long as their owners, which outlive the step.
    unsafe { tail::launch_forward::<S>(launcher, rows, input.address, tail) }
}

/// From d_output `[rows, D]` to d_input `[rows, D]` (may be the same buffer) and the parts of the norm's
/// gradients. With `residual` that gradient is added: row i of it to row `row_tokens[i]` of d_input where
/// `residual_rows` is a map from token to row (see [`super::operands::Rows`]), else row by row; row by row it
/// may also be the buffer of d_input.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    norm: Norm,
    saved: NormSaved<S>,
    d_output: Slice<S>,
    residual: Option<(Slice<S>, Rows)>,
    norm_partials: NormPartials,
    d_input: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "layernorm backward";
    check_width(OPERATION, width)?;
    let kept = Some((norm, saved, norm_partials));
    let mut tail = TailBackward::new(OPERATION, rows.most, width, kept, d_output, d_input)?;
    if let Some((residual, of)) = residual {
        let residuals = match of {
            Rows::All => rows.most,
            Rows::Selected { tokens, rows: map } => {
                check(OPERATION, "rows of the tokens", map, rows.most)?;
                tokens.len
            }
        };
        check(OPERATION, "gradient of the residual", residual, residuals * width)?;
        tail.residual = residual.address;
        tail.residual_rows = of.rows_address();
    }
    let slots = norm_partials.weight.slots as usize;
    // SAFETY: as in `forward`; there are `slots` parts, and as many blocks. What the map of rows says lies within
    // the residual by contract of `Rows`.
    unsafe { tail::launch_backward::<S>(launcher, rows, slots, tail) }
}
