//! Output projection, dropout, residual and norm.

use super::{LinearCase, NormCase, hidden_dropout};
use crate::util::fixture::{Case, Dropout, Results, hold};
use b4r::cpu::lane::Rows;
use b4r::cpu::projection::{self, NormSaved, Residual, Tail};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
    norm: String,
    site: usize,
    #[serde(flatten)]
    dropout: Dropout,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let parameters = &case.parameters;
    let (context, residual) = (case.input("context"), case.input("residual"));
    let mut kept = NormCase::new(case, parameters.layer_norm_eps, case.shape("context")[0]);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let mut map = LinearCase::new(case, "projection");
    let (linear, mut d_linear_map) = map.split();
    let post = parameters.norm == "post";
    let tail = Tail {
        rows: Rows::All,
        first_token: 0,
        dropout: hidden_dropout(&parameters.dropout, parameters.site),
        norm: post.then_some(norm),
    };
    let mut y = case.zeros("upstream");
    projection::forward(
        &linear,
        &tail,
        &context,
        Residual::Tokens(&residual),
        NormSaved { normalized, rstd },
        &mut y,
    );
    let (mut d_residual, mut d_linear) = (case.input("upstream"), case.zeros("upstream"));
    let mut d_context = vec![f32::NAN; context.len()];
    projection::backward(
        &linear,
        &tail,
        &context,
        normalized,
        rstd,
        &mut d_linear_map,
        &mut d_norm,
        &mut d_residual,
        &mut d_linear,
        &mut d_context,
    );
    let results = Results::default().out("y", y);
    let results = results.grad("context", d_context).grad("residual", d_residual);
    let results = map.into_results(results);
    if post { kept.into_results(results) } else { results }
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("projection", "cpu", cpu);
}
