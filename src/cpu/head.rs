//! Prediction head before the item softmax: y = LN(gelu(x W ᵀ + b)) at the `P` rows that are read. Its GELU
//! is always the exact one, as in RecBole.

use super::gemm::Into;
use super::layernorm::{self, Norm, NormGradient};
use super::linear::{self, Linear, LinearGradient};
use super::math::gelu;
use super::vector::vectorized;

/// Writes `hidden [P, D]` (x Wᵀ), the normalised rows, 1 / sqrt(var + ε) and `output [P, D]`.
pub fn forward(
    dense: &Linear,
    norm: &Norm,
    input: &[f32],
    hidden: &mut [f32],
    normalized: &mut [f32],
    rstd: &mut [f32],
    output: &mut [f32],
) {
    let d = dense.outputs();
    linear::forward_without_bias(dense, rstd.len(), input, hidden);
    vectorized(
        #[inline(always)]
        || {
            let rows = hidden.chunks_exact(d).zip(normalized.chunks_exact_mut(d));
            for ((row, out), rstd) in rows.zip(output.chunks_exact_mut(d)).zip(rstd) {
                for ((z, &x), &bias) in row.1.iter_mut().zip(row.0).zip(dense.bias) {
                    *z = gelu(x + bias).value;
                }
                *rstd = layernorm::forward_row(norm, row.1, out);
            }
        },
    );
}

/// Replaces the gradient of the output by the gradient of the linear map's output, writes `d_input [P, D]`
/// and adds to the weights' gradients.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    dense: &Linear,
    norm: &Norm,
    input: &[f32],
    hidden: &[f32],
    normalized: &[f32],
    rstd: &[f32],
    d_dense: &mut LinearGradient,
    d_norm: &mut NormGradient,
    d_output: &mut [f32],
    d_input: &mut [f32],
) {
    let d = dense.outputs();
    vectorized(
        #[inline(always)]
        || {
            let rows = d_output.chunks_exact_mut(d).zip(hidden.chunks_exact(d));
            for (((dy, hidden), normalized), &rstd) in
                rows.zip(normalized.chunks_exact(d)).zip(rstd)
            {
                layernorm::backward_row(norm, d_norm, normalized, rstd, dy);
                for ((dy, &x), &bias) in dy.iter_mut().zip(hidden).zip(dense.bias) {
                    *dy *= gelu(x + bias).slope;
                }
            }
        },
    );
    linear::backward_weight(d_dense, rstd.len(), input, d_output);
    linear::backward_input(dense, rstd.len(), d_output, Into::Assign, d_input);
}
