//! Losses over a sample of the items, on the CPU: the whole model against PyTorch, and the full softmax as the limit.

use super::{Model, engine, results};
use crate::util::fixture::{Case, Dropout, Results, cases, hold};
use b4r::config::{Loss, TrainConfig};
use b4r::cpu::lane::Randomness;
use b4r::model::engine::Engine;
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

fn gradients(case: &Case<LossCase>, train: &TrainConfig) -> Results {
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
    hold("losses", "cpu", |case: &Case<LossCase>| gradients(case, &case.parameters.train()));
}

/// With every item in the sample, sampled softmax is the softmax over all items.
#[test]
fn a_sample_of_the_whole_catalogue_is_the_full_softmax() {
    let cases = cases::<LossCase>("losses");
    let case = cases.iter().find(|case| case.name == "sampled_whole").unwrap();
    let sampled = gradients(case, &case.parameters.train());
    let full = gradients(case, &TrainConfig::default());
    for name in
        ["out.loss", "grad.item_embedding.weight", "grad.output_bias", "grad.LayerNorm.bias"]
    {
        for (got, expected) in sampled.get(name).iter().zip(full.get(name)) {
            assert!((got - expected).abs() < 1e-6, "{name}: {got} and {expected}");
        }
    }
}
