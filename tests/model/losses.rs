//! Losses over a sample of the items: the whole model against PyTorch, and the full softmax as the limit.

use super::{Model, engine, results, with_weights};
use crate::util::cuda::device;
use crate::util::fixture::{Case, Dropout, Results, cases, hold, hold_bf16};
use b4r::config::{Loss, TrainConfig};
use b4r::cpu::lane::Randomness;
use b4r::cuda::engine::CudaEngine;
use b4r::cuda::memory::Storage;
use b4r::model::engine::Engine;
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct LossCase {
    #[serde(flatten)]
    model: Model,
    #[serde(flatten)]
    dropout: Dropout,
    loss: String,
    negatives: usize,
    #[serde(default)]
    gbce_t: f64,
}

impl LossCase {
    fn train(&self) -> TrainConfig {
        let loss = match self.loss.as_str() {
            "sampled_softmax" => Loss::SampledSoftmax,
            "gBCE" => Loss::Gbce,
            other => panic!("no loss {other}"),
        };
        let (negatives, calibration) = (self.negatives, self.gbce_t);
        TrainConfig { loss, negatives, calibration, ..TrainConfig::default() }
    }
}

fn cpu_gradients(case: &Case<LossCase>, train: &TrainConfig) -> Results {
    let LossCase { model, dropout, .. } = &case.parameters;
    let config = model.config(Some(dropout));
    let mut engine = engine(case, &config, train, model.items, 2);
    let batch = model.batch(case, "");
    // What an earlier step left in the buffers and gradients must not matter.
    engine.loss_and_gradient(&batch, Some(Randomness { seed: 1, step: 1 }));
    let randomness = Randomness { seed: dropout.dropout_seed, step: dropout.step };
    let loss = engine.loss_and_gradient(&batch, Some(randomness));
    results(engine.table(), loss, engine.gradient())
}

#[test]
fn cpu_gradients_agree_with_pytorch() {
    hold("losses", "cpu", |case: &Case<LossCase>| cpu_gradients(case, &case.parameters.train()));
}

fn cuda_gradients<S: Storage>(case: &Case<LossCase>) -> Results {
    let LossCase { model, dropout, .. } = &case.parameters;
    let (config, train) = (model.config(Some(dropout)), case.parameters.train());
    let engine = CudaEngine::<S>::new(device(), &config, &train, model.items).unwrap();
    let mut engine = with_weights(case, engine);
    let batch = model.batch(case, "");
    // What an earlier step left in the buffers and gradients must not matter.
    engine.loss_and_gradient(&batch, Some((1, 1))).unwrap();
    let address = (dropout.dropout_seed, dropout.step);
    let (loss, gradient) = engine.loss_and_gradient(&batch, Some(address)).unwrap();
    results(engine.table(), loss, &gradient)
}

#[test]
pub fn cuda_f32_gradients_agree_with_pytorch() {
    hold("losses", "cuda f32", cuda_gradients::<f32>);
}

#[test]
pub fn cuda_bf16_gradients_agree_with_pytorch() {
    hold_bf16("losses", "cuda bf16", |case| Some(cuda_gradients::<bf16>(case)));
}

/// With every item in the sample, sampled softmax is the softmax over all items.
#[test]
fn a_sample_of_the_whole_catalogue_is_the_full_softmax() {
    let cases = cases::<LossCase>("losses");
    let case = cases.iter().find(|case| case.name == "sampled_whole").unwrap();
    let sampled = cpu_gradients(case, &case.parameters.train());
    let full = cpu_gradients(case, &TrainConfig::default());
    for name in
        ["out.loss", "grad.item_embedding.weight", "grad.output_bias", "grad.LayerNorm.bias"]
    {
        for (got, expected) in sampled.get(name).iter().zip(full.get(name)) {
            assert!((got - expected).abs() < 1e-6, "{name}: {got} and {expected}");
        }
    }
}
