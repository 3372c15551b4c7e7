//! Queries where they are read, keys and values everywhere.

use super::memory::{Slice, Storage};
use super::operands::{Count, Launcher, Linear, Rows};
use crate::Result;

/// Sizes of the map.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `T`
    pub tokens: Count,
    /// `Tq`: `T`, or `P` in the last layer.
    pub queries: Count,
    /// `D`
    pub width: usize,
}

/// q = query(input at `rows`) `[Tq, D]`, kv = key_value(input) `[T, 2D]`, in one launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    shape: Shape,
    query: Linear<S>,
    key_value: Linear<S>,
    rows: Rows,
    input: Slice<S>,
    q: Slice<S>,
    kv: Slice<S>,
) -> Result<()> {
    todo!()
}

/// d_input `[T, D]` = d_q Wq (at `rows`) + d_kv Wkv + residual (at `rows`, where there is one), in one launch.
/// Weight gradients: [`super::linear::gradients`].
///
/// # Errors
/// As [`forward`].
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    shape: Shape,
    query: Linear<S>,
    key_value: Linear<S>,
    rows: Rows,
    d_q: Slice<S>,
    d_kv: Slice<S>,
    residual: Option<Slice<S>>,
    d_input: Slice<S>,
) -> Result<()> {
    todo!()
}
