//! Queries, keys and values of all tokens.

use super::{D, T, group, numbers};
use b4r::cpu::lane::Rows;
use b4r::cpu::linear::{Linear, LinearGradient};
use b4r::cpu::qkv::{self, Upstream};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (x, mut gathered) = (numbers(T * D), Vec::new());
    let (wq, bq, wkv, bkv) = (numbers(D * D), numbers(D), numbers(2 * D * D), numbers(2 * D));
    let query = Linear { weight: &wq, bias: &bq };
    let key_value = Linear { weight: &wkv, bias: &bkv };
    let (mut q, mut kv) = (vec![0.0; T * D], vec![0.0; 2 * T * D]);
    let mut group = group(criterion, "qkv");
    group.throughput(Throughput::Elements((3 * T * D * D) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (q, kv) = (&mut q[..], &mut kv[..]);
            qkv::forward(&query, &key_value, Rows::All, &x, &mut gathered, q, kv);
        });
    });
    let (mut dwq, mut dbq, mut dwkv, mut dbkv) = (wq.clone(), bq.clone(), wkv.clone(), bkv.clone());
    let (dq, dkv, mut dx) = (numbers(T * D), numbers(2 * T * D), vec![0.0; T * D]);
    group.throughput(Throughput::Elements((6 * T * D * D) as u64));
    group.bench_function("backward", |b| {
        b.iter(|| {
            qkv::backward(
                &query,
                &key_value,
                Rows::All,
                &x,
                &Upstream { q: &dq, kv: &dkv },
                &mut gathered,
                &mut LinearGradient { weight: &mut dwq, bias: &mut dbq },
                &mut LinearGradient { weight: &mut dwkv, bias: &mut dbkv },
                &mut dx,
            );
        });
    });
}
