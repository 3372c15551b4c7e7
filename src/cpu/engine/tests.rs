//! Gradients against finite differences, and what threads and NaN must not change.

use super::*;
use crate::batch::segments::{Scratch, Segments};
use crate::config::{Activation, Loss, NormPlacement, Objective};
use crate::cpu::absorbed_attention;

fn segments(keys: &[u32], largest: u32) -> Segments {
    let mut segments = Segments::default();
    segments.group(keys, largest, &mut Scratch::default());
    segments
}

/// Four sequences, one without rows to read, one of a single token.
fn batch(items: u32) -> Batch {
    let lengths = [5usize, 1, 7, 3];
    let read: [&[u32]; 4] = [&[0, 4], &[0], &[2, 3, 6], &[]];
    let mut batch = Batch { cu_seqlens: vec![0], cu_rows: vec![0], ..Batch::default() };
    for (length, read) in lengths.into_iter().zip(read) {
        let first = batch.ids.len() as u32;
        for position in 0..length as u32 {
            let item = (first * 7 + position * 3) % items + 1;
            let masked = read.contains(&position);
            batch.ids.push(if masked { items + 1 } else { item });
            batch.positions.push(position);
            if masked {
                batch.rows.push(first + position);
                batch.targets.push(item);
            }
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.cu_rows.push(batch.rows.len() as u32);
    }
    batch.token_segments = segments(&batch.ids, items + 1);
    batch.target_segments = segments(&batch.targets, items);
    batch
}

/// Every tensor's gradient, along its own direction, against central differences, dropout on.
#[test]
fn gradients_agree_with_finite_differences() {
    let full = Loss::CrossEntropy;
    // With one or two heads, the lanes with the first and the third sequence absorb keys and values, with three none does
    // that has rows.
    for (norm, tied, hidden_act, n_layers, n_heads, objective, loss) in [
        (NormPlacement::Post, true, Activation::Gelu, 2, 3, Objective::Cloze, full),
        (NormPlacement::Pre, false, Activation::GeluTanh, 2, 2, Objective::Cloze, full),
        (NormPlacement::Post, false, Activation::Relu, 1, 1, Objective::Causal, full),
        (NormPlacement::Pre, true, Activation::Gelu, 3, 3, Objective::Causal, full),
        (NormPlacement::Post, true, Activation::Gelu, 1, 2, Objective::Cloze, Loss::SampledSoftmax),
        (NormPlacement::Post, false, Activation::Gelu, 1, 3, Objective::Cloze, Loss::Gbce),
    ] {
        let batch = batch(11);
        for (sequence, absorbs) in [(0, n_heads < 3), (1, false), (2, n_heads < 3)] {
            let bounds = sequence..sequence + 2;
            let (tokens, rows) = (&batch.cu_seqlens[bounds.clone()], &batch.cu_rows[bounds]);
            assert_eq!(absorbed_attention::pays(tokens, rows, n_heads, 12), absorbs);
        }
        let model = ModelConfig {
            hidden_size: 12,
            n_layers,
            n_heads,
            inner_size: 20,
            max_len: 9,
            hidden_act,
            norm,
            tied,
            objective,
            initializer_range: 0.4,
            layer_norm_eps: 1e-5,
            ..ModelConfig::default()
        };
        let train = TrainConfig { loss, negatives: 6, ..TrainConfig::default() };
        let mut engine = CpuEngine::new(&model, &train, 11, 2).unwrap();
        // Biases that are zeros, as they are at first, would hide what is multiplied by them.
        for (index, weight) in engine.state.parameters.iter_mut().enumerate() {
            *weight += (index * 37 % 101) as f32 / 250.0 - 0.2;
        }
        let randomness = Some(Randomness { seed: 5, step: 3 });
        engine.loss_and_gradient(&batch, randomness);
        let gradient = engine.gradient().to_vec();
        let start = engine.state.parameters.clone();
        for tensor in engine.table.tensors.clone() {
            let own = &gradient[tensor.range()];
            let norm = own.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let direction: Vec<f32> = own.iter().map(|&g| g / norm.max(1e-9) as f32).collect();
            let mut loss_at = |distance: f32| {
                engine.state.parameters.copy_from_slice(&start);
                let values = &mut engine.state.parameters[tensor.range()];
                add_scaled(values, distance, &direction);
                engine.loss_and_gradient(&batch, randomness)
            };
            let h = 2e-3;
            let slope = (loss_at(h) - loss_at(-h)) / f64::from(2.0 * h);
            let error = (slope - norm).abs();
            assert!(error < 2e-3 + 0.01 * norm, "{}: {slope} against {norm}", tensor.name);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let model = ModelConfig { max_len: 9, ..ModelConfig::default() };
    for loss in [Loss::CrossEntropy, Loss::SampledSoftmax, Loss::Gbce] {
        let train = TrainConfig {
            loss,
            negatives: 150,
            clip_norm: Some(0.1),
            weight_decay: 0.01,
            ..TrainConfig::default()
        };
        let run = |threads| {
            let mut engine = CpuEngine::new(&model, &train, 300, threads).unwrap();
            for number in 1..=3 {
                let step = Step { number, seed: 1, learning_rate: 1e-2 };
                engine.train_step(&batch(300), &step).unwrap();
            }
            engine.state().unwrap().into_owned()
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(5));
    }
}

/// Under `adam` the decay reaches layer norms too, under `adamw` it does not.
#[test]
fn the_learner_decides_which_weights_decay() {
    let model = ModelConfig { max_len: 9, ..ModelConfig::default() };
    let norm_after = |learner, weight_decay| {
        let train = TrainConfig { learner, weight_decay, ..TrainConfig::default() };
        let mut engine = CpuEngine::new(&model, &train, 300, 1).unwrap();
        let step = Step { number: 1, seed: 1, learning_rate: 1e-2 };
        engine.train_step(&batch(300), &step).unwrap();
        let norm = engine.table.tensors.iter().find(|tensor| tensor.name == "LayerNorm.weight");
        engine.state.parameters[norm.unwrap().range()].to_vec()
    };
    assert_eq!(norm_after(Learner::AdamW, 1.0), norm_after(Learner::AdamW, 0.0));
    assert_eq!(norm_after(Learner::Adam, 0.0), norm_after(Learner::AdamW, 0.0));
    assert_ne!(norm_after(Learner::Adam, 1.0), norm_after(Learner::Adam, 0.0));
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let model = ModelConfig { max_len: 9, ..ModelConfig::default() };
    let mut engine = CpuEngine::new(&model, &TrainConfig::default(), 300, 1).unwrap();
    let place = engine.table.layers[0].ffn_in.weight.start;
    engine.state.parameters[place] = f32::NAN;
    let before = engine.state().unwrap().into_owned();
    let step = Step { number: 1, seed: 1, learning_rate: 1e-3 };
    let error = engine.train_step(&batch(300), &step).unwrap_err();
    assert!(error.to_string().contains("step 1: loss"), "{error}");
    let bits = |state: &State| state.parameters.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&before), bits(&engine.state().unwrap()));
}
