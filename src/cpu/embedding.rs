//! Input embedding: `x = dropout(LN(E[id] + Pos[position]))`.
//!
//! Backward leaves the gradient of each token's sum; the engine adds it to the item table by sorted
//! segments, so that an item that stands many times in a batch needs no atomics.

use super::dropout::HiddenDropout;
use super::layernorm::{self, Norm, NormGradient};
use super::vector::{add_scaled, vectorized};
use crate::batch::Segments;

/// Tokens of one lane.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    /// `[T]` rows of the item table.
    pub ids: &'a [u32],
    /// `[T]` rows of the position table.
    pub positions: &'a [u32],
    /// Index of the first token within the whole batch.
    pub first: usize,
}

/// The two tables, `[V + 2, D]` and `[L, D]`.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Item embeddings.
    pub items: &'a [f32],
    /// Position embeddings.
    pub positions: &'a [f32],
}

/// Writes the normalised sums `[T, D]`, their 1 / sqrt(var + ε) `[T]` and the output `[T, D]`.
pub fn forward(
    tables: &Tables,
    tokens: &Tokens,
    norm: &Norm,
    dropout: Option<&HiddenDropout>,
    normalized: &mut [f32],
    rstd: &mut [f32],
    output: &mut [f32],
) {
    let d = norm.weight.len();
    let mut halves = Vec::new();
    vectorized(
        #[inline(always)]
        || {
            let rows = normalized.chunks_exact_mut(d).zip(output.chunks_exact_mut(d)).zip(rstd);
            for (index, ((z, out), rstd)) in rows.take(tokens.ids.len()).enumerate() {
                let item = &tables.items[tokens.ids[index] as usize * d..][..d];
                let position = &tables.positions[tokens.positions[index] as usize * d..][..d];
                for ((z, &e), &p) in z.iter_mut().zip(item).zip(position) {
                    *z = e + p;
                }
                *rstd = layernorm::forward_row(norm, z, out);
                if let Some(dropout) = dropout {
                    dropout.apply(tokens.first + index, out, &mut halves);
                }
            }
        },
    );
}

/// Replaces the gradient of the output `[T, D]` by the gradient of the sums, and adds to dγ, dβ and the
/// position table's gradient `[L, D]`.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    tokens: &Tokens,
    norm: &Norm,
    dropout: Option<&HiddenDropout>,
    normalized: &[f32],
    rstd: &[f32],
    d_output: &mut [f32],
    d_norm: &mut NormGradient,
    d_positions: &mut [f32],
) {
    let d = norm.weight.len();
    let mut halves = Vec::new();
    vectorized(
        #[inline(always)]
        || {
            let rows = d_output.chunks_exact_mut(d).zip(normalized.chunks_exact(d)).zip(rstd);
            for (index, ((dx, normalized), &rstd)) in rows.take(tokens.ids.len()).enumerate() {
                if let Some(dropout) = dropout {
                    dropout.apply(tokens.first + index, dx, &mut halves);
                }
                layernorm::backward_row(norm, d_norm, normalized, rstd, dx);
                let position = tokens.positions[index] as usize * d;
                add_scaled(&mut d_positions[position..position + d], 1.0, dx);
            }
        },
    );
}

/// Adds token gradients `d_sums [T, D]` to the rows of the item table that `segments.keys[keys]` name.
/// `d_items` begins at row `first_row` of the table.
pub fn scatter(
    segments: &Segments,
    keys: std::ops::Range<usize>,
    d_sums: &[f32],
    d_items: &mut [f32],
    first_row: usize,
    d: usize,
) {
    vectorized(
        #[inline(always)]
        || {
            for key in keys {
                let row = segments.keys[key] as usize - first_row;
                let row = &mut d_items[row * d..][..d];
                let span = segments.offsets[key] as usize..segments.offsets[key + 1] as usize;
                for &token in &segments.indices[span] {
                    add_scaled(row, 1.0, &d_sums[token as usize * d..][..d]);
                }
            }
        },
    );
}
