//! Each operation by itself against PyTorch in float64. A file here has the name of the operation's files
//! in the engines; in each, one function an engine says how the operation is called.

mod absorbed_attention;
pub mod adamw;
pub mod attention;
mod dropout;
pub mod embedding;
pub mod ffn;
pub mod gbce;
pub mod head;
pub mod item_softmax;
pub mod layernorm;
pub mod linear;
mod math;
pub mod projection;
pub mod qkv;
pub mod rank;
pub mod shortlist;
mod streamed_softmax;
pub mod top_k;

use crate::util::fixture::{Case, Dropout, Results};
use b4r::cpu::dropout::{AttentionDropout, HiddenDropout, Rate};
use b4r::cpu::layernorm::{Norm, NormGradient};
use b4r::cpu::linear::{Linear, LinearGradient};
use b4r::cuda;
use b4r::cuda::step::StepBlock;

/// Weight and bias of a linear map, and their gradients.
struct LinearCase {
    name: &'static str,
    weight: Vec<f32>,
    bias: Vec<f32>,
    d_weight: Vec<f32>,
    d_bias: Vec<f32>,
}

impl LinearCase {
    fn new<P>(case: &Case<P>, name: &'static str) -> Self {
        let (weight, bias) = (format!("{name}_weight"), format!("{name}_bias"));
        LinearCase {
            name,
            weight: case.input(&weight),
            bias: case.input(&bias),
            d_weight: case.zeros(&weight),
            d_bias: case.zeros(&bias),
        }
    }

    fn split(&mut self) -> (Linear<'_>, LinearGradient<'_>) {
        (
            Linear { weight: &self.weight, bias: &self.bias },
            LinearGradient { weight: &mut self.d_weight, bias: &mut self.d_bias },
        )
    }

    fn into_results(self, results: Results) -> Results {
        results
            .grad(&format!("{}_weight", self.name), self.d_weight)
            .grad(&format!("{}_bias", self.name), self.d_bias)
    }
}

/// Scale and shift of a layer norm, their gradients, and what the forward pass keeps.
struct NormCase {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
    d_weight: Vec<f32>,
    d_bias: Vec<f32>,
    normalized: Vec<f32>,
    rstd: Vec<f32>,
}

impl NormCase {
    fn new<P>(case: &Case<P>, epsilon: f64, rows: usize) -> Self {
        let weight = case.input("norm_weight");
        NormCase {
            bias: case.input("norm_bias"),
            epsilon: epsilon as f32,
            d_weight: vec![0.0; weight.len()],
            d_bias: vec![0.0; weight.len()],
            normalized: vec![0.0; weight.len() * rows],
            rstd: vec![0.0; rows],
            weight,
        }
    }

    /// The norm, where its gradients go, and what the forward pass keeps.
    fn split(&mut self) -> (Norm<'_>, NormGradient<'_>, &mut [f32], &mut [f32]) {
        (
            Norm { weight: &self.weight, bias: &self.bias, epsilon: self.epsilon },
            NormGradient { weight: &mut self.d_weight, bias: &mut self.d_bias },
            &mut self.normalized,
            &mut self.rstd,
        )
    }

    fn into_results(self, results: Results) -> Results {
        results.grad("norm_weight", self.d_weight).grad("norm_bias", self.d_bias)
    }
}

fn hidden_dropout(dropout: &Dropout, site: usize) -> Option<HiddenDropout> {
    let rate = Rate::new(dropout.hidden_dropout)?;
    Some(HiddenDropout::new(dropout.dropout_seed, dropout.step, site, rate))
}

fn attention_dropout(dropout: &Dropout, layer: u32) -> Option<AttentionDropout> {
    let rate = Rate::new(dropout.attention_dropout)?;
    Some(AttentionDropout::new(dropout.dropout_seed, dropout.step, layer, rate))
}

/// A step block of `tokens` tokens with a case's dropout.
fn step_block(dropout: &Dropout, tokens: usize) -> StepBlock {
    StepBlock {
        tokens: tokens as u32,
        number: dropout.step as u32,
        key: b4r::philox::key(dropout.dropout_seed),
        ..StepBlock::default()
    }
}

/// Dropout of a case at a hidden site, for kernels.
fn cuda_hidden_dropout(dropout: &Dropout, site: usize) -> cuda::operands::HiddenDropout {
    let rate = cuda::step::Rate::new(dropout.hidden_dropout);
    cuda::operands::HiddenDropout { site: site as u32, rate }
}
