//! The ten best items of each row.

use super::{D, V, group, numbers};
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::top_k::{TILE_ROWS, top_k};
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (rows, table, bias) = (numbers(TILE_ROWS * D), numbers(V * D), numbers(V));
    let problem = Problem { rows: &rows, targets: &[], table: &table, bias: &bias };
    let (seen, mut scores) = (vec![&[][..]; TILE_ROWS], Vec::new());
    let mut group = group(criterion, "top_k");
    group.throughput(Throughput::Elements((TILE_ROWS * D * V) as u64));
    group.bench_function("all items", |b| {
        b.iter(|| top_k(&problem, 0..V, &seen, 10, &mut scores));
    });
}
