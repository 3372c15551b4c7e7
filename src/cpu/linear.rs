//! The linear map y = x Wᵀ + b and its gradients; W is `[out, in]`.

use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::vector::{add_scaled, vectorized};

/// Weight `[out, in]` and bias `[out]`.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// W
    pub weight: &'a [f32],
    /// b
    pub bias: &'a [f32],
}

/// Gradients of W and b, accumulated.
pub struct LinearGradient<'a> {
    /// dW
    pub weight: &'a mut [f32],
    /// db
    pub bias: &'a mut [f32],
}

impl Linear<'_> {
    /// Output width.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Input width.
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// W as a matrix.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.weight, self.outputs(), self.inputs())
    }
}

/// `output [rows, out] = input [rows, in] Wᵀ + b`.
pub fn forward(linear: &Linear, rows: usize, input: &[f32], output: &mut [f32]) {
    for row in output[..rows * linear.outputs()].chunks_exact_mut(linear.outputs()) {
        row.copy_from_slice(linear.bias);
    }
    multiply_weight(linear, rows, input, Into::Add, output);
}

/// `output [rows, out] = input [rows, in] Wᵀ`, where the pass that follows adds b.
pub fn forward_without_bias(linear: &Linear, rows: usize, input: &[f32], output: &mut [f32]) {
    multiply_weight(linear, rows, input, Into::Assign, output);
}

fn multiply_weight(linear: &Linear, rows: usize, input: &[f32], into: Into, output: &mut [f32]) {
    let output = MatrixMut::new(output, rows, linear.outputs());
    let input = Matrix::new(input, rows, linear.inputs());
    multiply(output, into, 1.0, input, linear.matrix().t());
}

/// `d_input [rows, in] = d_output [rows, out] W`, or adds it.
pub fn backward_input(
    linear: &Linear,
    rows: usize,
    d_output: &[f32],
    into: Into,
    d_input: &mut [f32],
) {
    let d_input = MatrixMut::new(d_input, rows, linear.inputs());
    multiply(d_input, into, 1.0, Matrix::new(d_output, rows, linear.outputs()), linear.matrix());
}

/// `dW += d_outputᵀ input`, `db += column sums of d_output`.
pub fn backward_weight(
    gradient: &mut LinearGradient,
    rows: usize,
    input: &[f32],
    d_output: &[f32],
) {
    let outputs = gradient.bias.len();
    let inputs = gradient.weight.len() / outputs;
    let d_output_t = Matrix::new(d_output, rows, outputs).t();
    let d_weight = MatrixMut::new(gradient.weight, outputs, inputs);
    multiply(d_weight, Into::Add, 1.0, d_output_t, Matrix::new(input, rows, inputs));
    vectorized(
        #[inline(always)]
        || {
            for row in d_output[..rows * outputs].chunks_exact(outputs) {
                add_scaled(gradient.bias, 1.0, row);
            }
        },
    );
}
