//! Attention of the last layer without keys and values, every fifth token read.

use super::{D, H, LENGTH, T, group, numbers};
use b4r::cpu::absorbed_attention::{Gradients, Kept, Scratch, backward, forward, parts_len};
use b4r::cpu::attention;
use b4r::cpu::lane::Rows;
use b4r::cpu::linear::{Linear, LinearGradient};
use b4r::cpu::sequences::Sequences;
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let rows: Vec<u32> = (0..T as u32).filter(|token| token % 5 == 1).collect();
    let bounds: Vec<u32> = (0..=T / LENGTH).map(|i| (i * LENGTH) as u32).collect();
    let before = |&bound: &u32| rows.partition_point(|&row| row < bound) as u32;
    let queries: Vec<u32> = bounds.iter().map(before).collect();
    let sequences = Sequences {
        cu_seqlens: &bounds,
        cu_queries: &queries,
        rows: Rows::Selected(&rows),
        first: 0,
        heads: H,
        width: D,
        causal: false,
        absorbed: true,
    };
    let x = numbers(T * D);
    let (wq, bq, wkv, bkv) = (numbers(D * D), numbers(D), numbers(2 * D * D), numbers(2 * D));
    let query = Linear { weight: &wq, bias: &bq };
    let key_value = Linear { weight: &wkv, bias: &bkv };
    let (mut q, mut parts) = (vec![0.0; rows.len() * D], vec![0.0; parts_len(&sequences)]);
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let (mut context, mut gathered) = (q.clone(), Vec::new());
    let mut attention = attention::Scratch::default();
    let work = 3 * rows.len() * D * D + 2 * rows.len() * LENGTH * D * H;
    let mut group = group(criterion, "absorbed_attention");
    group.throughput(Throughput::Elements(work as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (q, parts, p) = (&mut q[..], &mut parts[..], &mut probabilities[..]);
            let s = Scratch { attention: &mut attention, gathered: &mut gathered };
            let (kept, c) = (Kept { q, parts, probabilities: p }, &mut context);
            forward(&sequences, None, &query, &key_value, &x, s, kept, c);
        });
    });
    let (mut dwq, mut dbq, mut dwkv, mut dbkv) = (wq.clone(), bq.clone(), wkv.clone(), bkv.clone());
    let (mut dq, mut dparts, mut dx) = (q.clone(), parts.clone(), x.clone());
    let dc = numbers(rows.len() * D);
    group.throughput(Throughput::Elements(2 * work as u64));
    group.bench_function("backward", |b| {
        b.iter(|| {
            let kept = Kept { q: &q[..], parts: &parts, probabilities: &probabilities };
            let s = Scratch { attention: &mut attention, gathered: &mut gathered };
            let gradients = Gradients {
                parts: &mut dparts,
                q: &mut dq,
                query: LinearGradient { weight: &mut dwq, bias: &mut dbq },
                key_value: LinearGradient { weight: &mut dwkv, bias: &mut dbkv },
                input: &mut dx,
            };
            backward(&sequences, None, &query, &key_value, &x, kept, &dc, s, gradients);
        });
    });
}
