//! Prediction head up to the product with the items.

use super::{LinearCase, NormCase};
use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::head;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let input = case.input("hidden");
    let mut kept = NormCase::new(case, case.parameters.layer_norm_eps, case.shape("hidden")[0]);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let mut map = LinearCase::new(case, "head");
    let (dense, mut d_dense) = map.split();
    let (mut hidden, mut y) = (case.zeros("hidden"), case.zeros("hidden"));
    head::forward(&dense, &norm, &input, &mut hidden, normalized, rstd, &mut y);
    let (mut d_y, mut d_input) = (case.input("upstream"), vec![f32::NAN; input.len()]);
    head::backward(
        &dense,
        &norm,
        &input,
        &hidden,
        normalized,
        rstd,
        &mut d_dense,
        &mut d_norm,
        &mut d_y,
        &mut d_input,
    );
    let results = Results::default().out("y", y).grad("hidden", d_input);
    kept.into_results(map.into_results(results))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("head", "cpu", cpu);
}
