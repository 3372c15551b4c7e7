//! Steps whose loss looks at a sample of the items: as on the CPU, which draws the same, and no less reproducible.

use super::{ITEMS, OF_A_LAYER, OUTSIDE, batch, launches, model, run, train};
use crate::util::cuda::{device, real_driver};
use b4r::batch::Batch;
use b4r::config::{Loss, ModelConfig, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::cuda::batch::Capacity;
use b4r::cuda::engine::CudaEngine;
use b4r::cuda::memory::Storage;
use b4r::model::engine::{Engine, Step};
use half::bf16;

const LOSSES: [Loss; 2] = [Loss::SampledSoftmax, Loss::Gbce];

/// Some targets are in the sample, some are not.
fn sampling(loss: Loss) -> TrainConfig {
    TrainConfig { loss, negatives: 400, ..train() }
}

fn cuda<S: Storage>(model: &ModelConfig, loss: Loss) -> CudaEngine<S> {
    let mut engine = CudaEngine::new(device(), model, &sampling(loss), ITEMS).unwrap();
    engine.reserve_training(Capacity { tokens: 700, sequences: 14, rows: 300 }).unwrap();
    engine
}

/// With one table and with two.
fn losses_follow_the_cpu<S: Storage>(allowed: f64) {
    for (loss, tied) in LOSSES.into_iter().zip([true, false]) {
        println!("{loss:?}");
        let model = ModelConfig { tied, ..model() };
        let mut cpu = CpuEngine::new(&model, &sampling(loss), ITEMS, 2).unwrap();
        super::losses_follow(&mut cpu, &mut cuda::<S>(&model, loss), allowed);
    }
}

#[test]
fn f32_losses_follow_the_cpu() {
    losses_follow_the_cpu::<f32>(1e-4);
}

#[test]
fn bf16_losses_follow_the_cpu() {
    losses_follow_the_cpu::<bf16>(1e-2);
}

/// Lists of other lengths in every step, one graph.
#[test]
fn runs_are_identical() {
    for loss in LOSSES {
        println!("{loss:?}");
        super::runs_are_identical(|| cuda::<f32>(&model(), loss));
        super::runs_are_identical(|| cuda::<bf16>(&model(), loss));
    }
}

/// Items that are not listed have no gradient, though the step before gave them one.
#[test]
fn items_that_nobody_looks_at_have_no_gradient() {
    for loss in LOSSES {
        let model = ModelConfig { tied: false, ..model() };
        let mut reference = CpuEngine::new(&model, &sampling(loss), ITEMS, 1).unwrap();
        let mut engine = cuda::<f32>(&model, loss);
        for number in [1, 2] {
            engine.loss_and_gradient(&batch(number), Some((3, number))).unwrap();
        }
        let (_, gradient) = engine.loss_and_gradient(&batch(2), Some((3, 2))).unwrap();
        let randomness = b4r::cpu::lane::Randomness { seed: 3, step: 2 };
        reference.loss_and_gradient(&batch(2), Some(randomness));
        let expected = reference.gradient();
        let table = engine.table();
        let zeros = |range: std::ops::Range<usize>| {
            let pairs = gradient[range.clone()].iter().zip(&expected[range]);
            pairs.clone().for_each(|(got, expected)| assert_eq!(*got == 0.0, *expected == 0.0));
            pairs.filter(|(got, _)| **got == 0.0).count()
        };
        let of_bias = zeros(table.output_bias.clone());
        assert!(of_bias > ITEMS / 3 && of_bias < ITEMS - 400, "{of_bias} biases have none");
        zeros(table.output_table());
        zeros(table.item_embedding.clone());
    }
}

/// Beside those of the softmax over all items: one that takes listed rows out and one that puts gradients back.
#[test]
fn a_step_takes_two_launches_more() {
    if real_driver() {
        eprintln!("skipped: only the software GPU counts launches");
        return;
    }
    for loss in LOSSES {
        let model = model();
        let counts = launches(&model, &sampling(loss));
        let kernels = if loss == Loss::Gbce { "gbce" } else { "item_softmax" };
        let of = |prefix: &str| -> u64 {
            let named = counts.iter().filter(|(name, _)| name.starts_with(prefix));
            named.map(|(_, count)| count).sum()
        };
        assert_eq!(of("shortlist"), 2, "{counts:?}");
        // Log-sum-exp or sum in two, rows in two of which one is everybody's, table.
        assert_eq!(
            of(kernels) + of("item_softmax_rows_combine"),
            if loss == Loss::Gbce { 5 } else { 6 }
        );
        let layers = model.n_layers as u64;
        assert_eq!(of(""), OF_A_LAYER * layers + OUTSIDE + 2, "{counts:?}");
    }
}

/// A batch that makes room for itself brings room for a longer list.
#[test]
fn a_longer_list_makes_room_for_itself() {
    for loss in LOSSES {
        let train = TrainConfig { negatives: ITEMS + 1, ..sampling(loss) };
        let mut engine = CudaEngine::<f32>::new(device(), &model(), &train, ITEMS).unwrap();
        let mut reference = CpuEngine::new(&model(), &train, ITEMS, 1).unwrap();
        let (got, _) = run(&mut engine, 3);
        let (expected, _) = run(&mut reference, 3);
        for (got, expected) in got.iter().zip(&expected) {
            let error = (got.loss / expected.loss - 1.0).abs();
            assert!(error < 1e-4, "{loss:?}: {got:?}, on the CPU {expected:?}");
        }
    }
}

/// Lists are drawn from the groups of targets, which must then be those of the targets.
#[test]
fn targets_that_are_grouped_otherwise_are_refused() {
    type Break = (&'static str, fn(&mut Batch));
    let mut engine = cuda::<f32>(&model(), Loss::SampledSoftmax);
    let breaks: [Break; 8] = [
        ("target_segments", |batch| batch.target_segments.keys[0] += 1),
        ("target_segments", |batch| batch.target_segments.offsets.truncate(3)),
        ("target_segments", |batch| batch.target_segments.offsets[1] = 1 << 30),
        ("target_segments", |batch| batch.target_segments.indices[0] = 1 << 30),
        ("target_segments", |batch| batch.target_segments.indices.swap(0, 5)),
        ("target_segments", |batch| batch.target_segments.clear()),
        ("targets", |batch| batch.targets[0] = ITEMS as u32 + 1),
        ("targets", |batch| batch.targets.truncate(1)),
    ];
    for (list, change) in breaks {
        let mut broken = batch(1);
        change(&mut broken);
        let step = Step { number: 1, seed: 3, learning_rate: 2e-3 };
        for error in
            [engine.loss_and_gradient(&broken, None).map(|_| ()), engine.train_step(&broken, &step)]
        {
            let error = error.unwrap_err().to_string();
            let told = [" have ", " do not fit "];
            assert!(told.iter().any(|why| error.contains(&format!("its {list}{why}"))), "{error}");
        }
    }
    engine.loss_and_gradient(&batch(1), None).unwrap();
}
