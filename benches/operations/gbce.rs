//! Generalised binary cross-entropy over a list of targets and negatives, with its gradients.

use super::{D, P, V, group, items, numbers};
use b4r::batch::Segments;
use b4r::batch::segments::Scratch;
use b4r::cpu::engine::ItemSoftmax;
use b4r::cpu::gbce::Negatives;
use b4r::cpu::item_softmax::Problem;
use criterion::{Criterion, Throughput};

/// Items of the list.
const C: usize = 1024;

pub fn bench(criterion: &mut Criterion) {
    let (rows, table, bias) = (numbers(P * D), numbers(C * D), vec![0.0; C]);
    let targets: Vec<u32> = items(P).iter().map(|item| item % C as u32 + 1).collect();
    let problem = Problem { rows: &rows, targets: &targets, table: &table, bias: &bias };
    let sampled = vec![1.0; C];
    let negatives = Negatives { sampled: &sampled, drawn: C, catalogue: V, calibration: 0.75 };
    let mut segments = Segments::default();
    segments.group(&targets, C as u32, &mut Scratch::default());
    let (mut d_table, mut d_bias) = (vec![0.0; C * D], vec![0.0; C]);
    let mut softmax = ItemSoftmax::default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let mut group = group(criterion, "gbce");
    group.throughput(Throughput::Elements((3 * P * D * C) as u64));
    group.bench_function("loss and gradients", |b| {
        pool.install(|| {
            b.iter(|| {
                let (d_table, d_bias) = (&mut d_table[..], &mut d_bias[..]);
                softmax.run_loss(&problem, Some(&negatives), &segments, d_table, d_bias)
            });
        });
    });
}
