//! AdamW with clipping and decay, a few steps.

use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::adamw::{AdamW, squared_norm};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    learning_rate: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    steps: u64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

/// A tensor with its moments; `decays` unless it is a norm or bias.
struct Tensor {
    name: &'static str,
    decays: bool,
    start: Vec<f32>,
    now: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Tensor {
    fn new(case: &Case<Parameters>, name: &'static str, decays: bool) -> Self {
        let (start, zeros) = (case.input(name), case.zeros(name));
        Tensor { name, decays, now: start.clone(), start, first: zeros.clone(), second: zeros }
    }

    fn into_results(self, results: Results) -> Results {
        let change: Vec<f32> = self.now.iter().zip(&self.start).map(|(n, s)| n - s).collect();
        results
            .out(&format!("change_{}", self.name), change)
            .out(&format!("first_moment_{}", self.name), self.first)
            .out(&format!("second_moment_{}", self.name), self.second)
    }
}

fn cpu(case: &Case<Parameters>) -> Results {
    let p = &case.parameters;
    let mut tensors = [Tensor::new(case, "matrix", true), Tensor::new(case, "norm", false)];
    let mut norms = Vec::new();
    for step in 0..p.steps {
        let gradients = tensors
            .each_ref()
            .map(|tensor| case.input(&format!("gradient_{}_{step}", tensor.name)));
        let norm = gradients.iter().map(|g| squared_norm(g)).sum::<f64>().sqrt();
        norms.push(norm as f32);
        let scale = p.clip_norm.map_or(1.0, |bound| (bound / norm).min(1.0)) as f32;
        let betas = (p.beta1, p.beta2);
        let adamw = AdamW::new(step + 1, p.learning_rate as f32, betas, p.epsilon, scale);
        for (tensor, gradient) in tensors.iter_mut().zip(&gradients) {
            let decay = if tensor.decays { p.weight_decay as f32 } else { 0.0 };
            let Tensor { now, first, second, .. } = tensor;
            adamw.update(decay, now, gradient, first, second);
        }
    }
    let results = Results::default().out("norms", norms);
    tensors.into_iter().fold(results, |results, tensor| tensor.into_results(results))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("adamw", "cpu", cpu);
}
