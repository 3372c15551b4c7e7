//! The head up to the product with the output table: LN(gelu(input W + b)), exact GELU whatever `hidden_act` is.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, Norm, NormPartials, NormSaved};
use crate::Result;

/// From input `[P, D]`: hidden `[P, D]` before the activation, what the norm keeps, and output `[P, D]`. One
/// launch up to D = 256, two above.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    norm: Norm,
    input: Slice<S>,
    hidden: Slice<S>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    todo!()
}

/// From d_output `[P, D]`: d_hidden `[P, D]` (for [`super::linear::gradients`]), d_input `[P, D]`, and the
/// parts of the norm's gradients.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    norm: Norm,
    hidden: Slice<S>,
    saved: NormSaved<S>,
    d_output: Slice<S>,
    norm_partials: NormPartials,
    d_hidden: Slice<S>,
    d_input: Slice<S>,
) -> Result<()> {
    todo!()
}
