//! Output projection of attention with its residual: y = x + dropout(c Wᵀ + b), then layer norm where
//! norms stand after the sublayers. `c` is the context `[Tq, D]`, `x` the layer's input.

use super::dropout::HiddenDropout;
use super::gemm::Into;
use super::lane::Rows;
use super::layernorm::{self, Norm, NormGradient};
use super::linear::{self, Linear, LinearGradient};
use super::vector::{add_scaled, vectorized};

/// What a sublayer's output passes through after its linear map.
#[derive(Clone, Copy)]
pub struct Tail<'a> {
    /// Which tokens the rows are.
    pub rows: Rows<'a>,
    /// Index of the lane's first token within the whole batch.
    pub first_token: usize,
    /// Dropout before the residual sum.
    pub dropout: Option<HiddenDropout>,
    /// Layer norm after the residual sum.
    pub norm: Option<Norm<'a>>,
}

/// Normalised rows and 1 / sqrt(var + ε), kept for the backward pass.
pub struct NormSaved<'a> {
    /// `[Tq, D]`
    pub normalized: &'a mut [f32],
    /// `[Tq]`
    pub rstd: &'a mut [f32],
}

impl Tail<'_> {
    /// In place on the linear map's output without its bias: plus the bias `[D]`, dropout, plus the residual, then
    /// the norm.
    pub fn forward(&self, bias: &[f32], residual: Residual, saved: NormSaved, output: &mut [f32]) {
        let d = bias.len();
        let mut halves = Vec::new();
        vectorized(
            #[inline(always)]
            || {
                for (index, out) in output.chunks_exact_mut(d).enumerate() {
                    let token = self.rows.token(index);
                    add_scaled(out, 1.0, bias);
                    if let Some(dropout) = &self.dropout {
                        dropout.apply(self.first_token + token, out, &mut halves);
                    }
                    add_scaled(out, 1.0, residual.row(index, token, d));
                    if let Some(norm) = &self.norm {
                        let normalized = &mut saved.normalized[index * d..][..d];
                        normalized.copy_from_slice(out);
                        saved.rstd[index] = layernorm::forward_row(norm, normalized, out);
                    }
                }
            },
        );
    }

    /// From the gradient of the output `[Tq, D]`: replaces it by the gradient of the residual sum and
    /// writes the gradient of the linear map's output to `d_linear`.
    pub fn backward(
        &self,
        d: usize,
        normalized: &[f32],
        rstd: &[f32],
        d_norm: &mut NormGradient,
        d_output: &mut [f32],
        d_linear: &mut [f32],
    ) {
        let mut halves = Vec::new();
        vectorized(
            #[inline(always)]
            || {
                let rows = d_output.chunks_exact_mut(d).zip(d_linear.chunks_exact_mut(d));
                for (index, (dy, dl)) in rows.enumerate() {
                    if let Some(norm) = &self.norm {
                        let normalized = &normalized[index * d..][..d];
                        layernorm::backward_row(norm, d_norm, normalized, rstd[index], dy);
                    }
                    dl.copy_from_slice(dy);
                    if let Some(dropout) = &self.dropout {
                        dropout.apply(self.first_token + self.rows.token(index), dl, &mut halves);
                    }
                }
            },
        );
    }
}

/// The tensor that a sublayer adds to its output.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// `[T, D]`: all tokens of the lane.
    Tokens(&'a [f32]),
    /// `[Tq, D]`: just the rows.
    Rows(&'a [f32]),
}

impl Residual<'_> {
    #[inline(always)]
    fn row(&self, index: usize, token: usize, d: usize) -> &[f32] {
        match self {
            Residual::Tokens(x) => &x[token * d..][..d],
            Residual::Rows(x) => &x[index * d..][..d],
        }
    }
}

/// Writes `output [Tq, D]` from the context `[Tq, D]` and the layer's input.
pub fn forward(
    projection: &Linear,
    tail: &Tail,
    context: &[f32],
    residual: Residual,
    saved: NormSaved,
    output: &mut [f32],
) {
    let rows = output.len() / projection.outputs();
    linear::forward_without_bias(projection, rows, context, output);
    tail.forward(projection.bias, residual, saved, output);
}

/// Replaces the gradient of the output `[Tq, D]` by the residual's gradient, writes `d_context` and adds
/// to the weights' gradients. `d_linear` is scratch `[Tq, D]`.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    projection: &Linear,
    tail: &Tail,
    context: &[f32],
    normalized: &[f32],
    rstd: &[f32],
    d_projection: &mut LinearGradient,
    d_norm: &mut NormGradient,
    d_output: &mut [f32],
    d_linear: &mut [f32],
    d_context: &mut [f32],
) {
    let d = projection.outputs();
    let rows = d_output.len() / d;
    tail.backward(d, normalized, rstd, d_norm, d_output, d_linear);
    linear::backward_weight(d_projection, rows, context, d_linear);
    linear::backward_input(projection, rows, d_linear, Into::Assign, d_context);
}
