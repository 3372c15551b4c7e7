//! Attention's output projection: output = LN(residual + dropout(context W + b)), the norm only where it stands
//! after.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, NormPartials, NormSaved, Tail};
use crate::Result;

/// From context `[Tq, D]` and residual `[T, D]` (gathered by `tail.rows`) to output `[Tq, D]`. `saved` is
/// written where the tail has a norm. One launch up to D = 256, two above.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    tail: Tail,
    context: Slice<S>,
    residual: Slice<S>,
    saved: NormSaved<S>,
    output: Slice<S>,
) -> Result<()> {
    todo!()
}

/// On entry `gradient [Tq, D]` is that of the output, on return that of the residual. Assigns d_linear
/// `[Tq, D]`, the gradient of the map's output (for [`super::linear::gradients`]), d_context `[Tq, D]`, and,
/// where the tail has a norm, the parts of its gradients.
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    rows: Count,
    width: usize,
    map: Linear<S>,
    tail: Tail,
    saved: NormSaved<S>,
    gradient: Slice<S>,
    norm_partials: Option<NormPartials>,
    d_linear: Slice<S>,
    d_context: Slice<S>,
) -> Result<()> {
    todo!()
}
