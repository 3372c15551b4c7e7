//! Layer norm of whole rows, as it stands alone before sublayers.

use super::{D, NormWeights, T, group, numbers};
use b4r::cpu::layernorm::{NormGradient, backward_row, forward_row};
use b4r::cpu::vector::vectorized;
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
            normalized.copy_from_slice(&x);
            vectorized(
                #[inline(always)]
                || {
                    let rows = normalized.chunks_exact_mut(D).zip(y.chunks_exact_mut(D));
                    for ((z, y), rstd) in rows.zip(&mut rstd) {
                        *rstd = forward_row(&norm, z, y);
                    }
                },
            );
        });
    });
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
    group.bench_function("backward", |b| {
        b.iter(|| {
            let mut d_norm = NormGradient { weight: &mut dgamma, bias: &mut dbeta };
            let mut dy = x.clone();
            vectorized(
                #[inline(always)]
                || {
                    let rows = dy.chunks_exact_mut(D).zip(normalized.chunks_exact(D));
                    for ((dy, normalized), &rstd) in rows.zip(&rstd) {
                        backward_row(&norm, &mut d_norm, normalized, rstd, dy);
                    }
                },
            );
        });
    });
}
