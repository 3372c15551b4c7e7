//! Keys and values of all tokens.

use super::{D, T, group, numbers};
use b4r::cpu::gemm::Into;
use b4r::cpu::linear::{self, Linear, LinearGradient};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
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
            linear::backward_input(&linear, T, &dy, Into::Assign, &mut dx);
        });
    });
}
