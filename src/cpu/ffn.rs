//! Feed-forward network with its residual: y = x + dropout(f(a W1ᵀ + b1) W2ᵀ + b2), then layer norm where
//! norms stand after the sublayers; `a` is x, or its layer norm where they stand before.
//!
//! Forward keeps a W1ᵀ, which is u without b1; backward computes f(u) and f'(u) again, since they share their
//! exponential.

use super::gemm::{Into, Matrix, MatrixMut, multiply, transpose};
use super::layernorm::NormGradient;
use super::linear::{self, Linear, LinearGradient};
use super::math::{ActivationLoop, ValueSlope, with_activation};
use super::projection::{NormSaved, Residual, Tail};
use super::vector::vectorized;
use crate::config::Activation;

/// Rows worked on at a time, so that their `F`-wide intermediates stay in the second-level cache.
pub(super) const CHUNK: usize = 192;

/// The two linear maps, `[F, D]` and `[D, F]`, and what stands between them.
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    /// W1, b1
    pub inner: Linear<'a>,
    /// W2, b2
    pub outer: Linear<'a>,
    /// f
    pub activation: Activation,
}

/// Gradients of the two linear maps, accumulated.
pub struct FeedForwardGradient<'a> {
    /// dW1, db1
    pub inner: LinearGradient<'a>,
    /// dW2, db2
    pub outer: LinearGradient<'a>,
}

/// Buffers of `CHUNK` rows of width `F`, and the weights' transposes.
#[derive(Default)]
pub struct Scratch {
    activated: Vec<f32>,
    d_hidden: Vec<f32>,
    /// `[D, F]`, W1ᵀ
    inner_t: Vec<f32>,
    /// `[F, D]`, W2ᵀ
    outer_t: Vec<f32>,
}

impl Scratch {
    /// For up to [`CHUNK`] of `rows` rows.
    fn resize(&mut self, rows: usize, f: usize) {
        let elements = rows.min(CHUNK) * f;
        for buffer in [&mut self.activated, &mut self.d_hidden] {
            buffer.resize(elements, 0.0);
        }
    }
}

/// Writes `hidden [Tq, F]` (a W1ᵀ), unless nothing is to be learnt, and `output [Tq, D]` from `input [Tq, D]` (a) and the
/// residual x.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor")]
pub fn forward(
    ffn: &FeedForward,
    tail: &Tail,
    input: &[f32],
    residual: Residual,
    scratch: &mut Scratch,
    mut hidden: Option<&mut [f32]>,
    saved: NormSaved,
    output: &mut [f32],
) {
    let (d, f) = (ffn.inner.inputs(), ffn.inner.outputs());
    scratch.resize(input.len() / d, f);
    let (mut inner_t, mut outer_t) = (ffn.inner.matrix().t(), ffn.outer.matrix().t());
    if input.len() > CHUNK * d {
        // Once, instead of within the product of every chunk.
        inner_t = transpose(ffn.inner.weight, d, &mut scratch.inner_t);
        outer_t = transpose(ffn.outer.weight, f, &mut scratch.outer_t);
    }
    for (index, (input, chunk)) in
        input.chunks(CHUNK * d).zip(output.chunks_mut(CHUNK * d)).enumerate()
    {
        let (rows, bias) = (input.len() / d, ffn.inner.bias);
        let activated = &mut scratch.activated[..rows * f];
        let input = Matrix::new(input, rows, d);
        match &mut hidden {
            Some(hidden) => {
                let hidden = &mut hidden[index * CHUNK * f..][..rows * f];
                multiply(MatrixMut::new(hidden, rows, f), Into::Assign, 1.0, input, inner_t);
                with_activation(ffn.activation, Values { hidden, bias, activated });
            }
            None => {
                multiply(MatrixMut::new(activated, rows, f), Into::Assign, 1.0, input, inner_t);
                with_activation(ffn.activation, ValuesInPlace { bias, activated });
            }
        }
        let product = MatrixMut::new(chunk, rows, d);
        multiply(product, Into::Assign, 1.0, Matrix::new(activated, rows, f), outer_t);
    }
    tail.forward(ffn.outer.bias, residual, saved, output);
}

/// Replaces the gradient of the output `[Tq, D]` by the residual's gradient, adds the gradient of `input`
/// to `d_input` (or to the residual's gradient itself where `d_input` is `None`), and adds to the weights'
/// gradients. `d_linear` is scratch `[Tq, D]`.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    ffn: &FeedForward,
    tail: &Tail,
    input: &[f32],
    scratch: &mut Scratch,
    hidden: &[f32],
    normalized: &[f32],
    rstd: &[f32],
    gradient: &mut FeedForwardGradient,
    d_norm: &mut NormGradient,
    d_output: &mut [f32],
    d_linear: &mut [f32],
    d_input: Option<&mut [f32]>,
) {
    let (d, f) = (ffn.inner.inputs(), ffn.inner.outputs());
    scratch.resize(input.len() / d, f);
    tail.backward(d, normalized, rstd, d_norm, d_output, d_linear);
    let d_input = d_input.unwrap_or(d_output);
    let chunks = d_linear.chunks(CHUNK * d).zip(hidden.chunks(CHUNK * f));
    for ((d_linear, hidden), (input, d_input)) in
        chunks.zip(input.chunks(CHUNK * d).zip(d_input.chunks_mut(CHUNK * d)))
    {
        let rows = d_linear.len() / d;
        let activated = &mut scratch.activated[..rows * f];
        let d_hidden = &mut scratch.d_hidden[..rows * f];
        let product = MatrixMut::new(d_hidden, rows, f);
        multiply(product, Into::Assign, 1.0, Matrix::new(d_linear, rows, d), ffn.outer.matrix());
        let bias = ffn.inner.bias;
        with_activation(ffn.activation, ValuesAndGradients { hidden, bias, activated, d_hidden });
        linear::backward_weight(&mut gradient.outer, rows, activated, d_linear);
        linear::backward_weight(&mut gradient.inner, rows, input, d_hidden);
        linear::backward_input(&ffn.inner, rows, d_hidden, Into::Add, d_input);
    }
}

struct Values<'a> {
    hidden: &'a [f32],
    bias: &'a [f32],
    activated: &'a mut [f32],
}

impl ActivationLoop for Values<'_> {
    #[inline(always)]
    fn run(self, f: impl Fn(f32) -> ValueSlope) {
        vectorized(
            #[inline(always)]
            || {
                let width = self.bias.len();
                let rows = self.activated.chunks_exact_mut(width);
                for (values, hidden) in rows.zip(self.hidden.chunks_exact(width)) {
                    for ((value, &x), &bias) in values.iter_mut().zip(hidden).zip(self.bias) {
                        *value = f(x + bias).value;
                    }
                }
            },
        );
    }
}

struct ValuesInPlace<'a> {
    bias: &'a [f32],
    activated: &'a mut [f32],
}

impl ActivationLoop for ValuesInPlace<'_> {
    #[inline(always)]
    fn run(self, f: impl Fn(f32) -> ValueSlope) {
        vectorized(
            #[inline(always)]
            || {
                for row in self.activated.chunks_exact_mut(self.bias.len()) {
                    for (value, &bias) in row.iter_mut().zip(self.bias) {
                        *value = f(*value + bias).value;
                    }
                }
            },
        );
    }
}

/// Writes f(u) and multiplies its gradient by f'(u), which makes it the gradient of u.
struct ValuesAndGradients<'a> {
    hidden: &'a [f32],
    bias: &'a [f32],
    activated: &'a mut [f32],
    d_hidden: &'a mut [f32],
}

impl ActivationLoop for ValuesAndGradients<'_> {
    #[inline(always)]
    fn run(self, f: impl Fn(f32) -> ValueSlope) {
        vectorized(
            #[inline(always)]
            || {
                let width = self.bias.len();
                let rows = self.activated.chunks_exact_mut(width);
                let rows = rows.zip(self.d_hidden.chunks_exact_mut(width));
                for ((values, d_hidden), hidden) in rows.zip(self.hidden.chunks_exact(width)) {
                    let elements = values.iter_mut().zip(d_hidden).zip(hidden).zip(self.bias);
                    for (((value, d), &x), &bias) in elements {
                        let point = f(x + bias);
                        *value = point.value;
                        *d *= point.slope;
                    }
                }
            },
        );
    }
}
