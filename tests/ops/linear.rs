//! y = x Wᵀ + b.

use super::LinearCase;
use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::gemm::Into;
use b4r::cpu::linear;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {}

fn cpu(case: &Case<Parameters>) -> Results {
    let (x, upstream) = (case.input("x"), case.input("upstream"));
    let rows = case.shape("x")[0];
    let mut map = LinearCase::new(case, "linear");
    let (linear, mut gradient) = map.split();
    let (mut y, mut d_x) = (case.zeros("upstream"), case.zeros("x"));
    linear::forward(&linear, rows, &x, &mut y);
    linear::backward_input(&linear, rows, &upstream, Into::Assign, &mut d_x);
    linear::backward_weight(&mut gradient, rows, &x, &upstream);
    map.into_results(Results::default().out("y", y).grad("x", d_x))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("linear", "cpu", cpu);
}
