//! Feed-forward network with each activation, dropout, residual and norm; inner widths of any size.

use super::{LinearCase, NormCase, hidden_dropout};
use crate::util::fixture::{Case, Dropout, Results, activation, hold};
use b4r::cpu::ffn::{self, FeedForward, FeedForwardGradient, Scratch};
use b4r::cpu::lane::Rows;
use b4r::cpu::projection::{NormSaved, Residual, Tail};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
    norm: String,
    hidden_act: String,
    site: usize,
    #[serde(flatten)]
    dropout: Dropout,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let parameters = &case.parameters;
    let (x, residual) = (case.input("x"), case.input("residual"));
    let rows = case.shape("x")[0];
    let mut kept = NormCase::new(case, parameters.layer_norm_eps, rows);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let (mut inner, mut outer) = (LinearCase::new(case, "in"), LinearCase::new(case, "out"));
    let mut hidden = vec![0.0; rows * inner.bias.len()];
    let (inner_map, d_inner) = inner.split();
    let (outer_map, d_outer) = outer.split();
    let network = FeedForward {
        inner: inner_map,
        outer: outer_map,
        activation: activation(&parameters.hidden_act),
    };
    let post = parameters.norm == "post";
    let tail = Tail {
        rows: Rows::All,
        first_token: 0,
        dropout: hidden_dropout(&parameters.dropout, parameters.site),
        norm: post.then_some(norm),
    };
    let mut scratch = Scratch::default();
    let mut y = case.zeros("upstream");
    ffn::forward(
        &network,
        &tail,
        &x,
        Residual::Rows(&residual),
        &mut scratch,
        &mut hidden,
        NormSaved { normalized, rstd },
        &mut y,
    );
    let (mut d_residual, mut d_linear) = (case.input("upstream"), case.zeros("upstream"));
    let mut d_x = case.zeros("x");
    ffn::backward(
        &network,
        &tail,
        &x,
        &mut scratch,
        &hidden,
        normalized,
        rstd,
        &mut FeedForwardGradient { inner: d_inner, outer: d_outer },
        &mut d_norm,
        &mut d_residual,
        &mut d_linear,
        Some(&mut d_x),
    );
    let results = Results::default().out("y", y).grad("x", d_x).grad("residual", d_residual);
    let results = outer.into_results(inner.into_results(results));
    if post { kept.into_results(results) } else { results }
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("ffn", "cpu", cpu);
}
