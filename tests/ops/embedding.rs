//! Input embedding with positions, norm and dropout; one item 500 times in a batch.

use super::{NormCase, hidden_dropout};
use crate::util::fixture::{Case, Dropout, Results, hold, segments};
use b4r::cpu::dropout::EMBEDDING_SITE;
use b4r::cpu::embedding::{self, Tables, Tokens};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
    #[serde(flatten)]
    dropout: Dropout,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let (items, positions) = (case.input("items"), case.input("positions"));
    let [rows, d] = *case.shape("upstream") else { panic!("upstream is a matrix") };
    let tables = Tables { items: &items, positions: &positions };
    let ids = case.integers("ids");
    let tokens = Tokens { ids, positions: case.integers("positions"), first: 0 };
    let dropout = hidden_dropout(&case.parameters.dropout, EMBEDDING_SITE);
    let mut kept = NormCase::new(case, case.parameters.layer_norm_eps, rows);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let mut y = case.zeros("upstream");
    embedding::forward(&tables, &tokens, &norm, dropout.as_ref(), normalized, rstd, &mut y);
    let (mut d_sums, mut d_positions) = (case.input("upstream"), case.zeros("positions"));
    embedding::backward(
        &tokens,
        &norm,
        dropout.as_ref(),
        normalized,
        rstd,
        &mut d_sums,
        &mut d_norm,
        &mut d_positions,
    );
    let (mut d_items, segments) = (case.zeros("items"), segments(ids));
    embedding::scatter(&segments, 0..segments.keys.len(), &d_sums, &mut d_items, 0, d);
    let results = Results::default().out("y", y);
    kept.into_results(results.grad("items", d_items).grad("positions", d_positions))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("embedding", "cpu", cpu);
}
