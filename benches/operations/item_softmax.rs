//! Softmax cross-entropy over all items, with the gradients of rows, table and bias.

use super::{D, P, V, group, items, numbers};
use b4r::batch::Segments;
use b4r::batch::segments::Scratch;
use b4r::cpu::engine::ItemSoftmax;
use b4r::cpu::item_softmax::Problem;
use criterion::{Criterion, Throughput};

pub fn bench(criterion: &mut Criterion) {
    let (rows, table, bias) = (numbers(P * D), numbers(V * D), vec![0.0; V]);
    let targets = items(P);
    let problem = Problem { rows: &rows, targets: &targets, table: &table, bias: &bias };
    let mut segments = Segments::default();
    segments.group(&targets, V as u32, &mut Scratch::default());
    let (mut d_table, mut d_bias) = (vec![0.0; V * D], vec![0.0; V]);
    let mut softmax = ItemSoftmax::default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let mut group = group(criterion, "item_softmax");
    group.throughput(Throughput::Elements((3 * P * D * V) as u64));
    group.bench_function("loss and gradients", |b| {
        pool.install(|| b.iter(|| softmax.run(&problem, &segments, &mut d_table, &mut d_bias)));
    });
}
