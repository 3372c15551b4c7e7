//! The output projection of attention with dropout, residual and norm.

use super::{D, NormWeights, T, group, numbers};
use b4r::cpu::layernorm::NormGradient;
use b4r::cpu::linear::{Linear, LinearGradient};
use b4r::cpu::projection::{self, NormSaved, Residual};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (w, b, x, context) = (numbers(D * D), numbers(D), numbers(T * D), numbers(T * D));
    let linear = Linear { weight: &w, bias: &b };
    let weights = NormWeights::new();
    let tail = weights.tail();
    let (mut y, mut normalized, mut rstd) = (vec![0.0; T * D], vec![0.0; T * D], vec![0.0; T]);
    let mut group = group(criterion, "projection");
    group.throughput(Throughput::Elements((T * D * D) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let saved = NormSaved { normalized: &mut normalized, rstd: &mut rstd };
            projection::forward(&linear, &tail, &context, Residual::Rows(&x), saved, &mut y);
        });
    });
    let (mut dw, mut db) = (w.clone(), b.clone());
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
    let (dy, mut d_linear, mut d_context) = (numbers(T * D), vec![0.0; T * D], vec![0.0; T * D]);
    group.throughput(Throughput::Elements((2 * T * D * D) as u64));
    group.bench_function("backward", |b| {
        b.iter(|| {
            projection::backward(
                &linear,
                &tail,
                &context,
                &normalized,
                &rstd,
                &mut LinearGradient { weight: &mut dw, bias: &mut db },
                &mut NormGradient { weight: &mut dgamma, bias: &mut dbeta },
                &mut dy.clone(),
                &mut d_linear,
                &mut d_context,
            );
        });
    });
}
