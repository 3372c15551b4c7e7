//! Layer normalisation (Ba et al., 2016) of rows of width D: y = γ · (z - mean) / sqrt(var + ε) + β.
//!
//! Forward keeps the normalised row and 1 / sqrt(var + ε); backward needs nothing else.

use super::vector::{dot, sum, sum_pairs, vectorized};

/// Scale γ, shift β, each `[D]`, and ε.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// γ
    pub weight: &'a [f32],
    /// β
    pub bias: &'a [f32],
    /// ε
    pub epsilon: f32,
}

/// Gradients of γ and β, accumulated.
pub struct NormGradient<'a> {
    /// dγ
    pub weight: &'a mut [f32],
    /// dβ
    pub bias: &'a mut [f32],
}

/// Replaces `z` by its normalised row, writes y to `output` and returns 1 / sqrt(var + ε).
#[inline(always)]
pub fn forward_row(norm: &Norm, z: &mut [f32], output: &mut [f32]) -> f32 {
    let width = z.len() as f32;
    let mean = sum(z) / width;
    for x in z.iter_mut() {
        *x -= mean;
    }
    let variance = dot(z, z) / width;
    let rstd = 1.0 / (variance + norm.epsilon).sqrt();
    for (((x, y), &gamma), &beta) in z.iter_mut().zip(output).zip(norm.weight).zip(norm.bias) {
        *x *= rstd;
        *y = gamma * *x + beta;
    }
    rstd
}

/// [`forward_row`] of each row of `input [rows, D]`, which is left as it is: writes what backward needs, and y.
pub fn forward_rows(
    norm: &Norm,
    input: &[f32],
    normalized: &mut [f32],
    rstd: &mut [f32],
    output: &mut [f32],
) {
    let d = norm.weight.len();
    normalized.copy_from_slice(input);
    vectorized(
        #[inline(always)]
        || {
            let rows = normalized.chunks_exact_mut(d).zip(output.chunks_exact_mut(d));
            for ((z, out), rstd) in rows.zip(rstd) {
                *rstd = forward_row(norm, z, out);
            }
        },
    );
}

/// Replaces dy by dz and adds to dγ and dβ.
///
/// With g = γ dy: dz = rstd (g - mean(g) - n mean(g n)), n the normalised row.
#[inline(always)]
pub fn backward_row(
    norm: &Norm,
    gradient: &mut NormGradient,
    normalized: &[f32],
    rstd: f32,
    dy: &mut [f32],
) {
    for (((d, &n), dgamma), dbeta) in
        dy.iter().zip(normalized).zip(gradient.weight.iter_mut()).zip(gradient.bias.iter_mut())
    {
        *dgamma += d * n;
        *dbeta += d;
    }
    for (d, &gamma) in dy.iter_mut().zip(norm.weight) {
        *d *= gamma;
    }
    let width = dy.len() as f32;
    let mean = sum(dy) / width;
    let slope = sum_pairs(dy, normalized, |d, n| d * n) / width;
    for (d, &n) in dy.iter_mut().zip(normalized) {
        *d = rstd * (*d - mean - n * slope);
    }
}

/// [`backward_row`] of each row of `dy [rows, D]`.
pub fn backward_rows(
    norm: &Norm,
    gradient: &mut NormGradient,
    normalized: &[f32],
    rstd: &[f32],
    dy: &mut [f32],
) {
    let d = norm.weight.len();
    vectorized(
        #[inline(always)]
        || {
            let rows = dy.chunks_exact_mut(d).zip(normalized.chunks_exact(d));
            for ((dy, normalized), &rstd) in rows.zip(rstd) {
                backward_row(norm, gradient, normalized, rstd, dy);
            }
        },
    );
}
