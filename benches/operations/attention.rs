//! Attention over whole sequences, with dropout and without.

use super::{D, H, LENGTH, T, group, numbers};
use b4r::cpu::attention;
use b4r::cpu::dropout::{AttentionDropout, Rate};
use b4r::cpu::lane::Rows;
use b4r::cpu::sequences::Sequences;
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let bounds: Vec<u32> = (0..=T / LENGTH).map(|i| (i * LENGTH) as u32).collect();
    let sequences = Sequences {
        cu_seqlens: &bounds,
        cu_queries: &bounds,
        rows: Rows::All,
        first: 0,
        heads: H,
        width: D,
        causal: false,
        absorbed: false,
    };
    let (q, kv) = (numbers(T * D), numbers(2 * T * D));
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let (mut context, mut scratch) = (vec![0.0; T * D], attention::Scratch::default());
    let work = (2 * T * LENGTH * D) as u64;
    let mut group = group(criterion, "attention");
    group.throughput(Throughput::Elements(work));
    for (name, rate) in [("forward", None), ("forward, dropout", Rate::new(0.2))] {
        let dropout = rate.map(|rate| AttentionDropout::new(1, 1, 0, rate));
        group.bench_function(name, |b| {
            b.iter(|| {
                let dropout = dropout.as_ref();
                let (p, c) = (&mut probabilities[..], &mut context[..]);
                attention::forward(&sequences, dropout, &q, &kv, &mut scratch, p, c);
            });
        });
    }
    let (dc, mut dq, mut dkv) = (numbers(T * D), vec![0.0; T * D], vec![0.0; 2 * T * D]);
    group.throughput(Throughput::Elements(2 * work));
    let dropout = Rate::new(0.2).map(|rate| AttentionDropout::new(1, 1, 0, rate));
    group.bench_function("backward", |b| {
        b.iter(|| {
            let (p, s) = (&probabilities, &mut scratch);
            let dropout = dropout.as_ref();
            attention::backward(&sequences, dropout, &q, &kv, p, &dc, None, s, &mut dq, &mut dkv);
        });
    });
}
