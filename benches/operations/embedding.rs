//! The input embedding, and the sum of its gradients by item.

use super::{D, LENGTH, NormWeights, T, V, dropout, group, items, numbers};
use b4r::batch::Segments;
use b4r::batch::segments::Scratch;
use b4r::cpu::embedding::{self, Tables, Tokens};
use b4r::cpu::layernorm::NormGradient;
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (table, positions) = (numbers((V + 2) * D), numbers(LENGTH * D));
    let tables = Tables { items: &table, positions: &positions };
    let (ids, places) = (items(T), (0..T).map(|i| (i % LENGTH) as u32).collect::<Vec<u32>>());
    let tokens = Tokens { ids: &ids, positions: &places, first: 0 };
    let (weights, dropout) = (NormWeights::new(), dropout());
    let norm = weights.norm();
    let (mut normalized, mut rstd, mut y) = (vec![0.0; T * D], vec![0.0; T], vec![0.0; T * D]);
    let mut group = group(criterion, "embedding");
    group.throughput(Throughput::Elements((T * D) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (n, r) = (&mut normalized[..], &mut rstd[..]);
            embedding::forward(&tables, &tokens, &norm, dropout.as_ref(), n, r, &mut y);
        });
    });
    let (mut dgamma, mut dbeta) = (weights.gamma.clone(), weights.beta.clone());
    let (dy, mut d_positions) = (numbers(T * D), positions.clone());
    group.bench_function("backward", |b| {
        b.iter(|| {
            let mut d_norm = NormGradient { weight: &mut dgamma, bias: &mut dbeta };
            let (dropout, dx) = (dropout.as_ref(), &mut dy.clone());
            let (n, r) = (&normalized, &rstd);
            embedding::backward(&tokens, &norm, dropout, n, r, dx, &mut d_norm, &mut d_positions);
        });
    });
    let mut segments = Segments::default();
    segments.group(&ids, V as u32 + 1, &mut Scratch::default());
    let mut d_items = vec![0.0; (V + 2) * D];
    group.bench_function("scatter", |b| {
        b.iter(|| {
            let keys = 0..segments.keys.len();
            embedding::scatter(&segments, keys, &dy, &mut d_items, 0, D);
        });
    });
}
