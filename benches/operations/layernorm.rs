//! Layer norm of whole rows, as it stands alone before sublayers.

use super::{D, NormWeights, T, group, numbers};
use b4r::cpu::layernorm::{NormGradient, backward_rows, forward_rows};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let weights = NormWeights::new();
    let norm = weights.norm();
    let (x, mut normalized, mut y) = (numbers(T * D), vec![0.0; T * D], vec![0.0; T * D]);
    let mut rstd = vec![0.0; T];
    let mut group = group(criterion, "layernorm");
    group.throughput(Throughput::Elements((T * D) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            forward_rows(&norm, &x, &mut normalized, &mut rstd, &mut y);
        });
    });
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
    group.bench_function("backward", |b| {
        b.iter(|| {
            let mut d_norm = NormGradient { weight: &mut dgamma, bias: &mut dbeta };
            let mut dy = x.clone();
            backward_rows(&norm, &mut d_norm, &normalized, &rstd, &mut dy);
        });
    });
}
