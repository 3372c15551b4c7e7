//! Time of each operation of the CPU engine on one thread, forward and backward, at the sizes of one lane of
//! an ml-1m batch: 1,024 tokens in sequences of 128, D 64, F 256, 2 heads, V 3,416.
//!
//! `cargo bench` prints times and elements (multiply-adds) a second; `cargo bench -- attention` picks one.

use b4r::config::Activation;
use b4r::cpu::attention::{self, Sequences};
use b4r::cpu::dropout::{AttentionDropout, HiddenDropout, Rate};
use b4r::cpu::ffn::{self, FeedForward, FeedForwardGradient};
use b4r::cpu::item_softmax::{self, Problem, TILE_ITEMS};
use b4r::cpu::lane::Rows;
use b4r::cpu::layernorm::{Norm, NormGradient};
use b4r::cpu::linear::{self, Linear, LinearGradient};
use b4r::cpu::projection::{NormSaved, Residual, Tail};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

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

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(30);
    group
}

fn qkv(criterion: &mut Criterion) {
    let (x, w, b) = (numbers(T * D), numbers(2 * D * D), numbers(2 * D));
    let linear = Linear { weight: &w, bias: &b };
    let (mut y, mut dx, mut dw, mut db) =
        (numbers(2 * T * D), numbers(T * D), w.clone(), b.clone());
    let mut group = group(criterion, "qkv");
    group.throughput(Throughput::Elements((T * 2 * D * D) as u64));
    group.bench_function("keys and values, forward", |b| {
        b.iter(|| linear::forward(&linear, T, &x, &mut y));
    });
    let dy = numbers(2 * T * D);
    group.throughput(Throughput::Elements((2 * T * 2 * D * D) as u64));
    group.bench_function("keys and values, backward", |b| {
        b.iter(|| {
            let mut gradient = LinearGradient { weight: &mut dw, bias: &mut db };
            linear::backward_weight(&mut gradient, T, &x, &dy);
            linear::backward_input(&linear, T, &dy, b4r::cpu::gemm::Into::Assign, &mut dx);
        });
    });
}

fn attention(criterion: &mut Criterion) {
    let bounds: Vec<u32> = (0..=T / LENGTH).map(|i| (i * LENGTH) as u32).collect();
    let sequences = Sequences {
        cu_seqlens: &bounds,
        cu_queries: &bounds,
        rows: Rows::All,
        first: 0,
        heads: H,
        width: D,
        causal: false,
    };
    let (q, kv) = (numbers(T * D), numbers(2 * T * D));
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let (mut context, mut scratch) = (vec![0.0; T * D], attention::Scratch::default());
    let work = (2 * T * LENGTH * D) as u64;
    let mut group = group(criterion, "attention");
    group.throughput(Throughput::Elements(work));
    for (name, rate) in [("forward", None), ("forward, dropout", Rate::new(0.2))] {
        let dropout = rate.map(|rate| AttentionDropout::new(1, 1, 0, rate));
        group.bench_function(name, |b| {
            b.iter(|| {
                let dropout = dropout.as_ref();
                let (p, c) = (&mut probabilities[..], &mut context[..]);
                attention::forward(&sequences, dropout, &q, &kv, &mut scratch, p, c);
            });
        });
    }
    let (dc, mut dq, mut dkv) = (numbers(T * D), vec![0.0; T * D], vec![0.0; 2 * T * D]);
    group.throughput(Throughput::Elements(2 * work));
    group.bench_function("backward", |b| {
        b.iter(|| {
            let p = &probabilities;
            let scratch = &mut scratch;
            attention::backward(&sequences, 1.25, &q, &kv, p, &dc, scratch, &mut dq, &mut dkv);
        });
    });
}

fn ffn(criterion: &mut Criterion) {
    let (w1, b1, w2, b2) = (numbers(F * D), numbers(F), numbers(D * F), numbers(D));
    let network = FeedForward {
        inner: Linear { weight: &w1, bias: &b1 },
        outer: Linear { weight: &w2, bias: &b2 },
        activation: Activation::Gelu,
    };
    let (gamma, beta) = (vec![1.0; D], vec![0.0; D]);
    let tail = Tail {
        rows: Rows::All,
        first_token: 0,
        dropout: Rate::new(0.2).map(|rate| HiddenDropout::new(1, 1, 2, rate)),
        norm: Some(Norm { weight: &gamma, bias: &beta, epsilon: 1e-12 }),
    };
    let x = numbers(T * D);
    let (mut hidden, mut output, mut normalized) =
        (vec![0.0; T * F], vec![0.0; T * D], vec![0.0; T * D]);
    let (mut rstd, mut scratch) = (vec![0.0; T], ffn::Scratch::default());
    let mut group = group(criterion, "ffn");
    group.throughput(Throughput::Elements((2 * T * D * F) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let saved = NormSaved { normalized: &mut normalized, rstd: &mut rstd };
            let residual = Residual::Rows(&x);
            let (h, y) = (&mut hidden[..], &mut output[..]);
            ffn::forward(&network, &tail, &x, residual, &mut scratch, h, saved, y);
        });
    });
    let (mut dw1, mut db1, mut dw2, mut db2) = (w1.clone(), b1.clone(), w2.clone(), b2.clone());
    let (mut dgamma, mut dbeta) = (gamma.clone(), beta.clone());
    let (dy, mut d_linear) = (numbers(T * D), vec![0.0; T * D]);
    group.throughput(Throughput::Elements((4 * T * D * F) as u64));
    group.bench_function("backward", |b| {
        b.iter(|| {
            let mut d_output = dy.clone();
            let mut gradient = FeedForwardGradient {
                inner: LinearGradient { weight: &mut dw1, bias: &mut db1 },
                outer: LinearGradient { weight: &mut dw2, bias: &mut db2 },
            };
            let mut d_norm = NormGradient { weight: &mut dgamma, bias: &mut dbeta };
            ffn::backward(
                &network,
                &tail,
                &x,
                &mut scratch,
                &hidden,
                &normalized,
                &rstd,
                &mut gradient,
                &mut d_norm,
                &mut d_output,
                &mut d_linear,
                None,
            );
        });
    });
}

fn item_softmax(criterion: &mut Criterion) {
    const ROWS: usize = P / 2;
    let (rows, table, bias) = (numbers(P * D), numbers(V * D), vec![0.0; V]);
    let targets: Vec<u32> = (0..P as u32).map(|i| i * 13 % V as u32 + 1).collect();
    let problem = Problem { rows: &rows, targets: &targets, table: &table, bias: &bias };
    let (mut tile, mut maxima, mut sums) =
        (vec![0.0; ROWS * TILE_ITEMS], vec![0.0; ROWS], vec![0.0; ROWS]);
    let mut group = group(criterion, "item_softmax");
    group.throughput(Throughput::Elements((P * D * V) as u64));
    group.bench_function("exponentials of all tiles", |b| {
        b.iter(|| {
            for row in (0..P).step_by(ROWS) {
                for item in (0..V).step_by(TILE_ITEMS) {
                    let items = item..(item + TILE_ITEMS).min(V);
                    let (tile, maxima) = (&mut tile[..], &mut maxima[..]);
                    item_softmax::exponentials(
                        &problem,
                        row..row + ROWS,
                        items,
                        tile,
                        maxima,
                        &mut sums,
                    );
                }
            }
        });
    });
}

criterion_group!(operations, qkv, attention, ffn, item_softmax);
criterion_main!(operations);
