//! The CUDA engine as a whole: gradients under all options, training, ranking, and graphs.

use super::{GradientCase, TrainingCase, replay, results, with_weights};
use crate::util::cuda::{device, real_driver};
use crate::util::draw;
use crate::util::fixture::{Case, Results, cases, hold_bf16, hold_taken, segments};
use b4r::batch::Batch;
use b4r::batch::pack::Packer;
use b4r::config::{ModelConfig, NormPlacement, Objective, TrainConfig};
use b4r::cpu::{CpuEngine, Scorer};
use b4r::cuda::batch::Capacity;
use b4r::cuda::engine::CudaEngine;
use b4r::cuda::memory::Storage;
use b4r::model::engine::{Engine, State, Step, StepOutcome};
use half::bf16;
use std::collections::BTreeMap;

mod losses; // steps whose loss looks at a sample of the items
mod refusals; // batches that kernels must never see

/// `None` for sizes that the kernels refuse.
fn gradients<S: Storage>(case: &Case<GradientCase>) -> Option<Results> {
    let GradientCase { model, dropout } = &case.parameters;
    if !model.inner_size.is_multiple_of(16) {
        return None;
    }
    let config = model.config(Some(dropout));
    let train = TrainConfig::default();
    let engine = CudaEngine::<S>::new(device(), &config, &train, model.items).unwrap();
    let mut engine = with_weights(case, engine);
    let batch = model.batch(case, "");
    let drops = dropout.hidden_dropout > 0.0 || dropout.attention_dropout > 0.0;
    let address = drops.then_some((dropout.dropout_seed, dropout.step));
    // What an earlier step left in the buffers must not matter.
    engine.loss_and_gradient(&batch, Some((1, 1))).unwrap();
    let (loss, gradient) = engine.loss_and_gradient(&batch, address).unwrap();
    Some(results(engine.table(), loss, &gradient))
}

#[test]
pub fn f32_gradients_agree_with_pytorch() {
    hold_taken("model", "cuda f32", gradients::<f32>);
}

#[test]
pub fn bf16_gradients_agree_with_pytorch() {
    hold_bf16("model", "cuda bf16", gradients::<bf16>);
}

#[test]
fn training_agrees_with_pytorch() {
    for case in cases::<TrainingCase>("training") {
        let p = &case.parameters;
        let model = p.model.config(Some(&p.dropout));
        let engine = CudaEngine::<f32>::new(device(), &model, &p.config(), p.model.items).unwrap();
        replay(&case, &mut with_weights(&case, engine));
    }
}

/// Kernels that a step launches outside of the layers: embedding, head, item softmax (log-sum-exp and the gradient of
/// rows in two each, that of the table), their backward passes, gradient norm and AdamW.
const OUTSIDE: u64 = 12;
/// Those of a layer, forward and backward.
const OF_A_LAYER: u64 = 4 + 6;
/// Items of the runs below: as many as MovieLens-100K has.
const ITEMS: usize = 1682;

fn model() -> ModelConfig {
    ModelConfig { hidden_dropout: 0.2, attention_dropout: 0.2, ..ModelConfig::default() }
}

fn train() -> TrainConfig {
    TrainConfig { weight_decay: 0.01, clip_norm: Some(5.0), ..TrainConfig::default() }
}

/// Sequences of uneven lengths up to 50 with a fifth of their items masked, another batch for each `number`.
fn batch(number: u64) -> Batch {
    let mut packer = Packer::new(ITEMS, &model());
    let mut batch = Batch::default();
    packer.begin(&mut batch);
    for_each_sequence(number, |items, masked| packer.push(&mut batch, items, masked));
    packer.group(&mut batch);
    batch
}

/// Items of each sequence of batch `number`, and which of them are masked.
fn for_each_sequence(number: u64, mut take: impl FnMut(&[u32], &[u32])) {
    let uniform = |name: &str, count| draw::uniform(number, name, count, 0.5, 0.5);
    for sequence in 0..14 {
        let length = 1 + (50.0 * uniform(&format!("length {sequence}"), 1)[0].powi(2)) as u32;
        let drawn = uniform(&format!("items {sequence}"), 2 * length as usize);
        // Few items make up most of the histories.
        let item = |x: &[f32]| (1 + (x[0].powi(3) * ITEMS as f32) as u32).min(ITEMS as u32);
        let items: Vec<u32> = drawn.chunks_exact(2).map(item).collect();
        let is_masked = |&i: &u32| drawn[2 * i as usize + 1] < 0.2 || i + 1 == length;
        take(&items, &(0..length).filter(is_masked).collect::<Vec<_>>());
    }
}

/// `steps` steps, from the weights that `seed` of [`train`] draws.
fn run(engine: &mut dyn Engine, steps: u64) -> (Vec<StepOutcome>, State) {
    for number in 1..=steps {
        engine.train_step(&batch(number), &Step { number, seed: 3, learning_rate: 2e-3 }).unwrap();
    }
    let outcomes = engine.outcomes(true).unwrap();
    (outcomes, engine.state().unwrap().into_owned())
}

/// With room for every [`batch`].
fn cuda<S: Storage>() -> CudaEngine<S> {
    let mut engine = CudaEngine::new(device(), &model(), &train(), ITEMS).unwrap();
    engine.reserve_training(Capacity { tokens: 700, sequences: 14, rows: 300 }).unwrap();
    engine
}

/// The batch `number` with the next item as each item's target.
fn causal_batch(number: u64) -> Batch {
    let mut batch = batch(number);
    let mask = ITEMS as u32 + 1;
    for (&row, &target) in batch.rows.iter().zip(&batch.targets) {
        batch.ids[row as usize] = target;
    }
    assert!(!batch.ids.contains(&mask));
    batch.rows = (0..batch.ids.len() as u32).collect();
    batch.cu_rows = batch.cu_seqlens.clone();
    batch.targets = [&batch.ids[1..], &batch.ids[..1]].concat();
    batch.token_segments = segments(&batch.ids);
    batch.target_segments = segments(&batch.targets);
    batch
}

/// Under the causal mask too, in training and in ranking.
fn causal_follows_the_cpu<S: Storage>(allowed: f64) {
    let model = ModelConfig { objective: Objective::Causal, ..model() };
    let mut reference = CpuEngine::new(&model, &train(), ITEMS, 2).unwrap();
    let mut engine = CudaEngine::<S>::new(device(), &model, &train(), ITEMS).unwrap();
    for number in 1..=20 {
        let step = Step { number, seed: 3, learning_rate: 2e-3 };
        for engine in [&mut reference as &mut dyn Engine, &mut engine] {
            engine.train_step(&causal_batch(number), &step).unwrap();
        }
    }
    let (expected, got) = (reference.outcomes(true).unwrap(), engine.outcomes(true).unwrap());
    assert_eq!(got.len(), 20);
    for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got.loss / expected.loss - 1.0).abs();
        assert!(error <= allowed, "step {}: {got:?}, on the CPU {expected:?}", step + 1);
    }
    assert!(expected[19].loss < expected[0].loss, "training does something");
    // Only some tokens are read, and some sequences not at all.
    let mut ranked = causal_batch(21);
    let keep: Vec<usize> = (0..ranked.rows.len()).filter(|row| row % 7 == 3).collect();
    ranked.targets = keep.iter().map(|&row| ranked.targets[row]).collect();
    ranked.rows = keep.iter().map(|&row| row as u32).collect();
    let rows_before = |end: &u32| ranked.rows.partition_point(|row| row < end) as u32;
    ranked.cu_rows = ranked.cu_seqlens.iter().map(rows_before).collect();
    let lists = listed(ranked.row_count(), 30);
    let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
    engine.load_state(&reference.state().unwrap()).unwrap();
    let (expected, got) =
        (reference.score(&ranked, &lists).unwrap(), engine.score(&ranked, &lists).unwrap());
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        let error = f64::from((got - expected).abs() / largest);
        assert!(error <= 3.0 * allowed, "{got}, on the CPU {expected}");
    }
}

#[test]
fn causal_f32_follows_the_cpu() {
    causal_follows_the_cpu::<f32>(1e-4);
}

#[test]
fn causal_bf16_follows_the_cpu() {
    causal_follows_the_cpu::<bf16>(1e-2);
}

/// Both engines draw the same weights and the same dropout.
fn losses_follow_the_cpu<S: Storage>(allowed: f64) {
    let mut cpu = CpuEngine::new(&model(), &train(), ITEMS, 2).unwrap();
    losses_follow(&mut cpu, &mut cuda::<S>(), allowed);
}

/// Twenty steps of both, losses apart by `allowed` of them at most.
fn losses_follow<S: Storage>(cpu: &mut CpuEngine, cuda: &mut CudaEngine<S>, allowed: f64) {
    let steps = 20;
    let (expected, _) = run(cpu, steps);
    let (got, _) = run(cuda, steps);
    assert_eq!((expected.len(), got.len()), (steps as usize, steps as usize));
    let mut worst = 0.0f64;
    for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got.loss / expected.loss - 1.0).abs();
        assert!(error <= allowed, "step {}: {got:?}, on the CPU {expected:?}", step + 1);
        assert_eq!(got.rows, expected.rows);
        worst = worst.max(error);
    }
    assert!(expected[19].loss < expected[0].loss, "training does something");
    println!("20 steps in {}: losses within {worst:.1e} of the CPU's", S::NAME);
}

#[test]
fn f32_losses_follow_the_cpu() {
    losses_follow_the_cpu::<f32>(1e-4);
}

#[test]
fn bf16_losses_follow_the_cpu() {
    losses_follow_the_cpu::<bf16>(1e-2);
}

/// Two runs of `engine`, one of them kernel by kernel, and a third that is stopped and goes on in another.
fn runs_are_identical<S: Storage>(engine: impl Fn() -> CudaEngine<S>) {
    let (outcomes, state) = run(&mut engine(), 5);
    let mut eager = engine();
    eager.use_graphs(false);
    let (eager_outcomes, eager_state) = run(&mut eager, 5);
    assert_eq!(outcomes, eager_outcomes);
    assert!(state == eager_state, "other bits without graphs");
    let (_, half_way) = run(&mut engine(), 2);
    let mut resumed = engine();
    resumed.load_state(&half_way).unwrap();
    for number in 3..=5 {
        let step = Step { number, seed: 3, learning_rate: 2e-3 };
        resumed.train_step(&batch(number), &step).unwrap();
    }
    assert_eq!(resumed.outcomes(true).unwrap(), outcomes[2..]);
    assert!(*resumed.state().unwrap() == state, "other bits after resuming");
}

#[test]
fn f32_runs_are_identical() {
    runs_are_identical(cuda::<f32>);
}

#[test]
fn bf16_runs_are_identical() {
    runs_are_identical(cuda::<bf16>);
}

/// A batch larger than all before: buffers are made anew, and no outcome is lost.
#[test]
fn a_larger_batch_makes_room_for_itself() {
    let small = |number| {
        let mut small = batch(number);
        small.cu_seqlens.truncate(3);
        small.cu_rows.truncate(3);
        small.ids.truncate(small.cu_seqlens[2] as usize);
        small.positions.truncate(small.ids.len());
        small.rows.truncate(small.cu_rows[2] as usize);
        small.targets.truncate(small.rows.len());
        small.token_segments = segments(&small.ids);
        small.target_segments = segments(&small.targets);
        small
    };
    let mut engine = CudaEngine::<f32>::new(device(), &model(), &train(), ITEMS).unwrap();
    let mut reference = CpuEngine::new(&model(), &train(), ITEMS, 1).unwrap();
    for (number, batch) in
        [(1, small(1)), (2, small(2)), (3, small(3)), (4, batch(4)), (5, small(5))]
    {
        let step = Step { number, seed: 3, learning_rate: 2e-3 };
        engine.train_step(&batch, &step).unwrap();
        reference.train_step(&batch, &step).unwrap();
    }
    let (got, expected) = (engine.outcomes(true).unwrap(), reference.outcomes(true).unwrap());
    assert_eq!((got.len(), expected.len()), (5, 5));
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got.loss / expected.loss - 1.0).abs() < 1e-4, "{got:?}, on the CPU {expected:?}");
    }
}

/// From a step on that is not finite, weights and moments stay as they were, and the error names that step.
#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let mut engine = cuda::<f32>();
    let mut state = engine.state().unwrap().into_owned();
    let place = engine.table().layers[0].ffn_in.weight.start;
    state.parameters[place] = f32::NAN;
    engine.load_state(&state).unwrap();
    for number in 4..=6 {
        let step = Step { number, seed: 3, learning_rate: 2e-3 };
        engine.train_step(&batch(number), &step).unwrap();
    }
    let error = engine.outcomes(true).unwrap_err().to_string();
    assert!(error.contains("step 4: loss"), "{error}");
    let bits = |state: &State| {
        let arenas = [&state.parameters, &state.first_moment, &state.second_moment];
        arenas.map(|arena| arena.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
    };
    assert!(bits(&state) == bits(&engine.state().unwrap()));
}

/// Some rows have seen nothing, some their own target, some a fifth of the catalogue.
#[test]
fn ranks_are_the_cpus() {
    let batch = batch(7);
    let seen: Vec<Vec<u32>> = (0..batch.row_count() as u32)
        .map(|row| (1..=ITEMS as u32).filter(|item| (item * row) % 5 == 1).collect())
        .collect();
    let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
    let mut reference = CpuEngine::new(&model(), &train(), ITEMS, 1).unwrap();
    let (_, state) = run(&mut reference, 3);
    let expected = reference.rank(&batch, &seen).unwrap();
    let mut engine = cuda::<f32>();
    engine.load_state(&state).unwrap();
    let got = engine.rank(&batch, &seen).unwrap();
    assert_eq!(got.len(), expected.len());
    let unranked = expected.iter().filter(|&&rank| rank == u32::MAX).count();
    assert!(unranked > 0 && unranked < expected.len());
    // Ranks may differ by the number of items that score the same but for rounding.
    let scorer = Scorer::new(&model(), ITEMS, state.parameters.clone(), 1).unwrap();
    let all: Vec<u32> = (1..=ITEMS as u32).collect();
    let scores = scorer.score(&batch, &vec![&all[..]; batch.row_count()]).unwrap();
    for (row, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
        let own = scores[row][batch.targets[row] as usize - 1];
        let ties = scores[row].iter().filter(|&&score| (score - own).abs() < 1e-5 * own.abs());
        let ties = ties.count() as u32 - 1;
        assert!(
            got.abs_diff(expected) <= ties,
            "row {row}: {got}, on the CPU {expected}, {ties} ties"
        );
    }
    let mut rounded = cuda::<bf16>();
    rounded.load_state(&state).unwrap();
    let share = |ranks: &[u32]| ranks.iter().map(|&r| 1.0 / f64::from(r)).sum::<f64>();
    let rounded = share(&rounded.rank(&batch, &seen).unwrap()) / share(&expected);
    assert!((rounded - 1.0).abs() <= 0.01, "reciprocal ranks in bf16 are {rounded} of the CPU's");
}

/// `count` rows of the catalogue's items, none twice in a row.
fn listed(rows: usize, count: u32) -> Vec<Vec<u32>> {
    let first = |row: usize| 17 * row as u32;
    (0..rows)
        .map(|row| (0..count).map(|i| (first(row) + 5 * i) % ITEMS as u32 + 1).collect())
        .collect()
}

/// Also after the weights have changed.
#[test]
fn scores_are_the_cpus() {
    let batch = batch(7);
    let lists = listed(batch.row_count(), 60);
    let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
    let mut reference = CpuEngine::new(&model(), &train(), ITEMS, 1).unwrap();
    let (mut exact, mut rounded) = (cuda::<f32>(), cuda::<bf16>());
    for steps in [1, 4] {
        let (_, state) = run(&mut reference, steps);
        let expected = reference.score(&batch, &lists).unwrap();
        let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (engine, allowed) in [(&mut exact as &mut dyn Engine, 1e-5), (&mut rounded, 3e-2)] {
            engine.load_state(&state).unwrap();
            let got = engine.score(&batch, &lists).unwrap();
            assert_eq!(got.len(), expected.len());
            let off = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(off <= allowed * largest, "{steps} steps: off by {off} of {largest}");
        }
    }
}

/// More than the kernel gives, too; of the best few, which the kernel orders, all but near ties are the CPU's.
#[test]
fn best_items_are_the_cpus() {
    let batch = batch(7);
    let mut seen = listed(batch.row_count(), 300);
    seen.iter_mut().for_each(|list| list.sort_unstable());
    let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
    let mut reference = CpuEngine::new(&model(), &train(), ITEMS, 1).unwrap();
    let (_, state) = run(&mut reference, 3);
    let mut engine = cuda::<f32>();
    engine.load_state(&state).unwrap();
    for k in [10, 256, 257, ITEMS] {
        let expected = reference.top_k(&batch, &seen, k).unwrap();
        let got = engine.top_k(&batch, &seen, k).unwrap();
        assert_eq!(got.len(), expected.len());
        let mut differing = 0;
        for ((got, expected), seen) in got.iter().zip(&expected).zip(&seen) {
            assert_eq!(got.len(), k.min(ITEMS - seen.len()));
            assert!(got.iter().all(|item| seen.binary_search(item).is_err()), "seen: {got:?}");
            differing += got.iter().zip(expected).filter(|(got, expected)| got != expected).count();
        }
        let all: usize = expected.iter().map(Vec::len).sum();
        assert!(20 * differing <= all, "k {k}: {differing} of {all} items stand elsewhere");
    }
}

/// Kernels of a fourth step, by name: of a graph that is replayed.
fn launches(model: &ModelConfig, train: &TrainConfig) -> BTreeMap<String, u64> {
    let mut engine = CudaEngine::<bf16>::new(device(), model, train, ITEMS).unwrap();
    run(&mut engine, 3);
    softgpu::reset_launches();
    let step = Step { number: 4, seed: 3, learning_rate: 2e-3 };
    engine.train_step(&batch(4), &step).unwrap();
    engine.outcomes(true).unwrap();
    softgpu::launch_counts()
}

/// As docs/kernels.md says: 10 a layer and 12 outside; with norms before the sublayers 4 more a layer.
#[test]
fn a_step_takes_few_launches() {
    if real_driver() {
        eprintln!("skipped: only the software GPU counts launches");
        return;
    }
    for (n_layers, norm, tied, of_norms) in [
        (2, NormPlacement::Post, true, 0),
        (1, NormPlacement::Post, false, 0),
        (3, NormPlacement::Pre, true, 4),
    ] {
        let model = ModelConfig { n_layers, norm, tied, ..model() };
        let counts = launches(&model, &train());
        let layers = n_layers as u64;
        let of = |prefix: &str| -> u64 {
            let named = counts.iter().filter(|(name, _)| name.starts_with(prefix));
            named.map(|(_, count)| count).sum()
        };
        for forward in ["qkv_forward", "attention_forward", "projection_forward", "ffn_forward"] {
            assert_eq!(of(forward), layers, "{forward}: {counts:?}");
        }
        for backward in ["ffn_backward", "projection_backward", "attention_backward"] {
            assert_eq!(of(backward), layers, "{backward}: {counts:?}");
        }
        assert_eq!(of("qkv_backward"), layers, "{counts:?}");
        // Of each feed-forward network, the last one with the head, and of the maps around each attention.
        assert_eq!(of("linear_gradients"), 2 * layers, "{counts:?}");
        assert_eq!(of("layernorm"), of_norms * layers, "{counts:?}");
        assert_eq!(of(""), (OF_A_LAYER + of_norms) * layers + OUTSIDE, "{counts:?}");
    }
}
