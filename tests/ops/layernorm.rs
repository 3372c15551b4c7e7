//! Layer norm by itself.

use super::NormCase;
use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::layernorm::{backward_row, forward_row};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let mut d_x = case.input("upstream");
    let [rows, d] = *case.shape("x") else { panic!("x is a matrix") };
    let mut kept = NormCase::new(case, case.parameters.layer_norm_eps, rows);
    let (norm, mut gradient, normalized, rstd) = kept.split();
    normalized.copy_from_slice(&case.input("x"));
    let mut y = vec![0.0; rows * d];
    for ((z, y), rstd) in normalized.chunks_mut(d).zip(y.chunks_mut(d)).zip(&mut *rstd) {
        *rstd = forward_row(&norm, z, y);
    }
    for ((dy, z), &mut rstd) in d_x.chunks_mut(d).zip(normalized.chunks(d)).zip(rstd) {
        backward_row(&norm, &mut gradient, z, rstd, dy);
    }
    kept.into_results(Results::default().out("y", y).grad("x", d_x))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("layernorm", "cpu", cpu);
}
