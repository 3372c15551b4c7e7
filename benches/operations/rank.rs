//! Ranks of targets among all items.

use super::{D, V, group, items, numbers};
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::rank::{ranks, rows_at_once};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let rows = rows_at_once(V);
    let (heads, table, bias, targets) =
        (numbers(rows * D), numbers(V * D), numbers(V), items(rows));
    let problem = Problem { rows: &heads, targets: &targets, table: &table, bias: &bias };
    let (seen, mut products, mut found) = (vec![&[][..]; rows], Vec::new(), vec![0; rows]);
    let mut group = group(criterion, "rank");
    group.throughput(Throughput::Elements((rows * D * V) as u64));
    group.bench_function("all items", |b| {
        b.iter(|| ranks(&problem, &seen, &mut products, &mut found));
    });
}
