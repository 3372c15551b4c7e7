//! Scores of all items and the target's rank among those not seen.

use crate::util::fixture::{Case, Results, cases, hold};
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::rank::{rank, scores};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    items: usize,
}

/// `[P, V]`
fn cpu_scores(case: &Case<Parameters>) -> Vec<f32> {
    let (rows, table, bias) = (case.input("rows"), case.input("table"), case.input("bias"));
    let d = case.shape("rows")[1];
    let problem = Problem {
        rows: &rows,
        targets: case.integers("targets"),
        table: &table[d..(case.parameters.items + 1) * d],
        bias: &bias[1..],
    };
    let mut out = Vec::new();
    scores(&problem, &mut out);
    out
}

#[test]
fn cpu_scores_agree_with_pytorch() {
    hold("rank", "cpu", |case| Results::default().out("scores", cpu_scores(case)));
}

#[test]
fn cpu_ranks_agree_with_pytorch() {
    for case in cases::<Parameters>("rank") {
        let scores = cpu_scores(&case);
        let mut seen = case.integers("seen");
        let rows = scores.chunks(case.parameters.items).zip(case.integers("targets"));
        let expected = case.integers("ranks").iter().zip(case.integers("seen_counts"));
        for ((scores, &target), (&expected, &seen_count)) in rows.zip(expected) {
            let (own, rest) = seen.split_at(seen_count as usize);
            assert_eq!(rank(scores, target, own), expected, "{}: target {target}", case.name);
            seen = rest;
        }
    }
}
