//! Time of each operation of the CPU engine on one thread, forward and backward, at the sizes of one lane of
//! an ml-1m batch: 1,024 tokens in sequences of 128, 256 of them masked, D 64, F 256, 2 heads, V 3,416.
//!
//! `cargo bench` prints times and elements a second (multiply-adds where there are products, else values written);
//! `cargo bench -- attention` picks one.

use b4r::cpu::dropout::{HiddenDropout, Rate};
use b4r::cpu::lane::Rows;
use b4r::cpu::layernorm::Norm;
use b4r::cpu::projection::Tail;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

mod absorbed_attention;
mod adamw;
mod attention;
mod embedding;
mod ffn;
mod gbce;
mod head;
mod item_softmax;
mod layernorm;
mod projection;
mod qkv;
mod rank;
mod top_k;

const T: usize = 1024;
const LENGTH: usize = 128;
const D: usize = 64;
const F: usize = 256;
const H: usize = 2;
const V: usize = 3416;
const P: usize = 256;

/// Numbers between -0.5 and 0.5 without a pattern that could help anyone.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5)
        .collect()
}

/// `count` items, from 1.
fn items(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i * 13 % V as u32 + 1).collect()
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(30);
    group
}

/// Scale and shift of a norm.
struct NormWeights {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl NormWeights {
    fn new() -> Self {
        NormWeights { gamma: vec![1.0; D], beta: vec![0.0; D] }
    }

    fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.gamma, bias: &self.beta, epsilon: 1e-12 }
    }

    /// What follows a sublayer's linear map, with dropout.
    fn tail(&self) -> Tail<'_> {
        Tail { rows: Rows::All, first_token: 0, dropout: dropout(), norm: Some(self.norm()) }
    }
}

fn dropout() -> Option<HiddenDropout> {
    Rate::new(0.2).map(|rate| HiddenDropout::new(1, 1, 2, rate))
}

criterion_group!(
    operations,
    embedding::bench,
    qkv::bench,
    attention::bench,
    absorbed_attention::bench,
    projection::bench,
    ffn::bench,
    layernorm::bench,
    head::bench,
    item_softmax::bench,
    gbce::bench,
    adamw::bench,
    rank::bench,
    top_k::bench
);
criterion_main!(operations);
