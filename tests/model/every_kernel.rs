//! Every kernel, in a few steps so small that sanitizers can watch them: models of all classes of widths and heads,
//! with norms before and after the sublayers.

use crate::util::cuda::{device, real_driver};
use b4r::batch::Batch;
use b4r::batch::pack::Packer;
use b4r::config::{Loss, ModelConfig, NormPlacement, Objective, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::cuda::engine::CudaEngine;
use b4r::cuda::kernels::MODULES;
use b4r::cuda::memory::Storage;
use b4r::model::engine::{Engine, Step, StepOutcome};
use half::bf16;

/// More than a tile of items.
const ITEMS: usize = 70;

/// Width, heads, inner width, place of the norms, who sees whom, and the lengths of the sequences.
type SmallModel = (usize, usize, usize, NormPlacement, Objective, &'static [u32]);

/// More than a tile of keys and of rows where that is cheap.
const MODELS: [SmallModel; 7] = [
    (64, 4, 48, NormPlacement::Post, Objective::Cloze, &[1, 97, 2, 40, 33]),
    (64, 2, 80, NormPlacement::Pre, Objective::Cloze, &[17, 70]),
    (64, 2, 32, NormPlacement::Post, Objective::Causal, &[1, 70]),
    (128, 2, 128, NormPlacement::Pre, Objective::Causal, &[70, 3]),
    (256, 2, 64, NormPlacement::Pre, Objective::Cloze, &[35, 1]),
    (272, 17, 16, NormPlacement::Pre, Objective::Cloze, &[18, 2]),
    (528, 33, 16, NormPlacement::Pre, Objective::Cloze, &[9, 1]),
];

/// Losses over a sample of the items: the width, and which.
const SAMPLED: [(usize, Loss); 5] = [
    (64, Loss::SampledSoftmax),
    (48, Loss::Gbce),
    (128, Loss::Gbce),
    (256, Loss::Gbce),
    (272, Loss::Gbce),
];

/// Every other token is masked, and the last of each sequence.
fn batch(lengths: &[u32]) -> Batch {
    let mut packer = Packer::new(ITEMS, &ModelConfig::default());
    let mut batch = Batch::default();
    packer.begin(&mut batch);
    for &length in lengths {
        let first = batch.token_count() as u32;
        let item = |token: u32| 1 + (7 * token + token * token) % ITEMS as u32;
        let items: Vec<u32> = (first..first + length).map(item).collect();
        let masked: Vec<u32> = (0..length).filter(|i| i % 2 == 0 || i + 1 == length).collect();
        packer.push(&mut batch, &items, &masked);
    }
    packer.group(&mut batch);
    batch
}

/// A step, ranks and best items.
fn run(engine: &mut dyn Engine, batch: &Batch) -> (StepOutcome, Vec<u32>) {
    engine.train_step(batch, &Step { number: 1, seed: 3, learning_rate: 1e-3 }).unwrap();
    let outcome = engine.outcomes(true).unwrap()[0];
    let seen: Vec<&[u32]> = vec![&[3, 5]; batch.row_count()];
    let best = engine.top_k(batch, &seen, 5).unwrap();
    assert!(best.iter().all(|items| items.len() == 5 && !items.contains(&3)), "{best:?}");
    (outcome, engine.rank(batch, &seen).unwrap())
}

/// Launches every kernel for `S`, and those that are for both. Loss, norm of the gradient and mean reciprocal rank
/// are within `allowed` of the CPU's, relatively.
pub fn run_all<S: Storage>(allowed: f64) {
    for (hidden_size, n_heads, inner_size, norm, objective, lengths) in MODELS {
        let model = ModelConfig {
            hidden_size,
            n_heads,
            inner_size,
            norm,
            objective,
            n_layers: if norm == NormPlacement::Post { 2 } else { 1 },
            tied: norm == NormPlacement::Post,
            // Not more: most threads of a step are those of the position table and the arena.
            max_len: lengths.iter().max().map_or(0, |&most| most as usize + 1),
            hidden_dropout: 0.2,
            attention_dropout: 0.2,
            ..ModelConfig::default()
        };
        hold_to_cpu::<S>(&model, &TrainConfig::default(), lengths, allowed);
    }
    for (hidden_size, loss) in SAMPLED {
        let model = ModelConfig {
            hidden_size,
            n_heads: hidden_size / 16,
            inner_size: 16,
            n_layers: 1,
            max_len: 10,
            ..ModelConfig::default()
        };
        let train = TrainConfig { loss, negatives: 40, ..TrainConfig::default() };
        hold_to_cpu::<S>(&model, &train, &[9, 1], allowed);
    }
}

/// A step of both engines.
fn hold_to_cpu<S: Storage>(
    model: &ModelConfig,
    train: &TrainConfig,
    lengths: &[u32],
    allowed: f64,
) {
    let batch = batch(lengths);
    let mut cpu = CpuEngine::new(model, train, ITEMS, 1).unwrap();
    let mut gpu = CudaEngine::<S>::new(device(), model, train, ITEMS).unwrap();
    let (expected, expected_ranks) = run(&mut cpu, &batch);
    let (got, ranks) = run(&mut gpu, &batch);
    let mean = |ranks: &[u32]| ranks.iter().map(|&r| 1.0 / f64::from(r)).sum::<f64>();
    for (what, got, expected) in [
        ("loss", got.loss, expected.loss),
        ("gradient norm", got.gradient_norm, expected.gradient_norm),
        ("reciprocal ranks", mean(&ranks), mean(&expected_ranks)),
    ] {
        // A near tie moves a rank by one.
        let allowed = if what == "reciprocal ranks" { 0.02 + 5.0 * allowed } else { allowed };
        let off = (got / expected - 1.0).abs();
        let (d, loss) = (model.hidden_size, train.loss);
        assert!(
            off <= allowed,
            "D {d}, {loss:?}, {}: {what} {got}, on the CPU {expected}",
            S::NAME
        );
    }
}

fn every_kernel_runs<S: Storage>(allowed: f64) {
    let simulated = !real_driver();
    if simulated {
        softgpu::load();
        softgpu::reset_launches();
    }
    run_all::<S>(allowed);
    if simulated {
        let counts = softgpu::launch_counts();
        let all = MODULES.iter().flat_map(|module| module.kernels);
        let own = all.filter(|kernel| kernel.ends_with(S::NAME));
        let left_out: Vec<_> = own.filter(|kernel| !counts.contains_key(**kernel)).collect();
        assert!(left_out.is_empty(), "no case runs {left_out:?}");
    }
}

#[test]
fn cuda_f32() {
    every_kernel_runs::<f32>(1e-4);
}

#[test]
fn cuda_bf16() {
    every_kernel_runs::<bf16>(2e-2);
}
