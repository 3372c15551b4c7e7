//! The prediction head at the masked tokens.

use super::{D, NormWeights, P, group, numbers};
use b4r::cpu::head;
use b4r::cpu::layernorm::NormGradient;
use b4r::cpu::linear::{Linear, LinearGradient};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (w, b, x) = (numbers(D * D), numbers(D), numbers(P * D));
    let dense = Linear { weight: &w, bias: &b };
    let weights = NormWeights::new();
    let norm = weights.norm();
    let [mut hidden, mut normalized, mut y] = [(); 3].map(|()| vec![0.0; P * D]);
    let mut rstd = vec![0.0; P];
    let mut group = group(criterion, "head");
    group.throughput(Throughput::Elements((P * D * D) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (n, r) = (&mut normalized[..], &mut rstd[..]);
            head::forward(&dense, &norm, &x, &mut hidden, n, r, &mut y);
        });
    });
    let (mut dw, mut db) = (w.clone(), b.clone());
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
    let (dy, mut dx) = (numbers(P * D), vec![0.0; P * D]);
    group.throughput(Throughput::Elements((2 * P * D * D) as u64));
    group.bench_function("backward", |b| {
        b.iter(|| {
            head::backward(
                &dense,
                &norm,
                &x,
                &hidden,
                &normalized,
                &rstd,
                &mut LinearGradient { weight: &mut dw, bias: &mut db },
                &mut NormGradient { weight: &mut dgamma, bias: &mut dbeta },
                &mut dy.clone(),
                &mut dx,
            );
        });
    });
}
