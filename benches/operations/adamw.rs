//! One update of as many weights as the output table has, and the norm of their gradient.

use super::{D, V, group, numbers};
use b4r::cpu::adamw::{AdamW, squared_norm};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (mut p, g) = (numbers(V * D), numbers(V * D));
    let (mut m, mut v) = (vec![0.0; V * D], vec![0.0; V * D]);
    let adamw = AdamW::new(3, 1e-6, (0.9, 0.999), 1e-8, 1.0);
    let mut group = group(criterion, "adamw");
    group.throughput(Throughput::Elements((V * D) as u64));
    group.bench_function("update", |b| b.iter(|| adamw.update(0.01, &mut p, &g, &mut m, &mut v)));
    group.bench_function("squared norm", |b| b.iter(|| squared_norm(&g)));
}
