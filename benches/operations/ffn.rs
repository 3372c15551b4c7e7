//! The feed-forward network with dropout, residual and norm.

use super::{D, F, NormWeights, T, group, numbers};
use b4r::config::Activation;
use b4r::cpu::ffn::{self, FeedForward, FeedForwardGradient};
use b4r::cpu::layernorm::NormGradient;
use b4r::cpu::linear::{Linear, LinearGradient};
use b4r::cpu::projection::{NormSaved, Residual};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (w1, b1, w2, b2) = (numbers(F * D), numbers(F), numbers(D * F), numbers(D));
    let network = FeedForward {
        inner: Linear { weight: &w1, bias: &b1 },
        outer: Linear { weight: &w2, bias: &b2 },
        activation: Activation::Gelu,
    };
    let weights = NormWeights::new();
    let tail = weights.tail();
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
            let (h, y) = (Some(&mut hidden[..]), &mut output[..]);
            ffn::forward(&network, &tail, &x, residual, &mut scratch, h, saved, y);
        });
    });
    let (mut dw1, mut db1, mut dw2, mut db2) = (w1.clone(), b1.clone(), w2.clone(), b2.clone());
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
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
