//! What operations take: pieces of the model, of the batch and of the step, as device addresses.

use super::device::{Device, failed};
use super::memory::Slice;
use super::step::{Rate, Size, StepBlock};
use super::tiles::check;
use crate::Result;
use bytemuck::{Pod, Zeroable};

/// Where operations run, and the step block that they read.
#[derive(Clone, Copy)]
pub struct Launcher<'a> {
    /// The GPU.
    pub device: &'a Device,
    /// The step block, one element.
    pub step: Slice<StepBlock>,
}

/// A number of rows that kernels read from the step block.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Which of the block's sizes.
    pub size: Size,
    /// Most that it can be: what buffers and grids are made for.
    pub most: usize,
}

impl Launcher<'_> {
    /// Device address of a size.
    pub fn size(&self, size: Size) -> u64 {
        self.step.address + size.offset()
    }
}

/// A linear map: weight `[out, in]` as stored for products, bias `[out]` in full precision.
#[derive(Clone, Copy)]
pub struct Linear<S> {
    /// `[out, in]`
    pub weight: Slice<S>,
    /// `[out]`
    pub bias: Slice<f32>,
}

impl<S> Linear<S> {
    /// Checks a map of `inputs` to `outputs`; `name` tells it from the operation's others.
    pub(super) fn check(
        &self,
        operation: &str,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<()> {
        check(operation, &format!("{name}weight"), self.weight, outputs * inputs)?;
        check(operation, &format!("{name}bias"), self.bias, outputs)
    }
}

/// Scale and shift of a layer norm, each `[D]`.
#[derive(Clone, Copy)]
pub struct Norm {
    /// γ
    pub weight: Slice<f32>,
    /// β
    pub bias: Slice<f32>,
    /// ε, added to the variance.
    pub epsilon: f32,
}

impl Norm {
    pub(super) fn check(&self, operation: &str, width: usize) -> Result<()> {
        check(operation, "norm weight", self.weight, width)?;
        check(operation, "norm bias", self.bias, width)
    }
}

/// What a layer norm keeps for its backward pass.
#[derive(Clone, Copy)]
pub struct NormSaved<S> {
    /// `[rows, D]`
    pub normalized: Slice<S>,
    /// `[rows]`, 1 / sqrt(var + ε)
    pub rstd: Slice<f32>,
}

/// A weight gradient in parts: each of `slots` ranges of rows is summed by a block of its own, which assigns
/// part `s` at `first + s * stride`, whatever the number of rows is; the gradient norm adds the parts up in
/// order. So sums have one order without atomics.
#[derive(Clone, Copy, Debug)]
pub struct Partials {
    /// Part 0, as long as the tensor.
    pub first: Slice<f32>,
    /// Elements from one part to the next.
    pub stride: usize,
    /// Number of parts.
    pub slots: u32,
}

impl Partials {
    /// One part only, which is the gradient itself.
    pub fn whole(gradient: Slice<f32>) -> Self {
        Partials { first: gradient, stride: gradient.len, slots: 1 }
    }
}

/// Parts of a linear map's gradients, both with the same number of slots.
#[derive(Clone, Copy, Debug)]
pub struct LinearPartials {
    /// `[out, in]`
    pub weight: Partials,
    /// `[out]`
    pub bias: Partials,
}

/// Parts of a layer norm's gradients, both with the same number of slots.
#[derive(Clone, Copy, Debug)]
pub struct NormPartials {
    /// Of γ.
    pub weight: Partials,
    /// Of β.
    pub bias: Partials,
}

impl NormPartials {
    /// The distances between parts, once these are known to fit.
    pub(super) fn check(&self, operation: &str, width: usize) -> Result<[u32; 2]> {
        let NormPartials { weight, bias } = self;
        check(operation, "parts of the norm weight's gradient", weight.first, width)?;
        check(operation, "parts of the norm bias's gradient", bias.first, width)?;
        let apart = weight.slots == 1 || (weight.stride >= width && bias.stride >= width);
        match [weight.stride, bias.stride].map(u32::try_from) {
            [Ok(of_weight), Ok(of_bias)]
                if apart && weight.slots == bias.slots && weight.slots > 0 =>
            {
                Ok([of_weight, of_bias])
            }
            _ => {
                let problem = format!("parts that do not fit together or overlap: {self:?}");
                Err(failed(operation, problem))
            }
        }
    }
}

/// Which tokens the rows of a layer belong to.
#[derive(Clone, Copy, Debug)]
pub enum Rows {
    /// Every token: row i is token i.
    All,
    /// The last layer: row i is token `tokens[i]`.
    Selected {
        /// `[P]` token of each row.
        tokens: Slice<u32>,
        /// `[T]` row of each token, `u32::MAX` where it has none.
        rows: Slice<u32>,
    },
}

impl Rows {
    /// Device address of the token of each row; 0 where row i is token i.
    pub fn tokens_address(&self) -> u64 {
        match self {
            Rows::All => 0,
            Rows::Selected { tokens, .. } => tokens.address,
        }
    }

    /// Device address of the row of each token; 0 where token i is row i.
    pub fn rows_address(&self) -> u64 {
        match self {
            Rows::All => 0,
            Rows::Selected { rows, .. } => rows.address,
        }
    }
}

/// Dropout of hidden activations: its site and how much.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct HiddenDropout {
    /// As in [`crate::cpu::dropout`].
    pub site: u32,
    /// Share and scale; [`Rate::NONE`] drops nothing.
    pub rate: Rate,
}

/// Dropout of attention probabilities: its layer and how much.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionDropout {
    /// Which layer.
    pub layer: u32,
    /// Share and scale; [`Rate::NONE`] drops nothing.
    pub rate: Rate,
}

/// What follows a sublayer's linear map: dropout, the residual, and a norm where norms stand after.
#[derive(Clone, Copy)]
pub struct Tail {
    /// Whose rows they are: residuals are gathered by token, and dropout is addressed by it.
    pub rows: Rows,
    /// Dropout of the map's output.
    pub dropout: HiddenDropout,
    /// The norm after the residual.
    pub norm: Option<Norm>,
}
