//! Cross-entropy over all items without kept tiles: against the same references as with them.

use crate::util::fixture::{Case, Results, hold, segments};
use b4r::cpu::engine::ItemSoftmax;
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::streamed_softmax::{is_due, span};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    items: usize,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let (rows, table, bias) = (case.input("rows"), case.input("table"), case.input("bias"));
    let (d, items) = (case.shape("rows")[1], case.parameters.items);
    let problem = Problem {
        rows: &rows,
        targets: case.integers("targets"),
        table: &table[d..(items + 1) * d],
        bias: &bias[1..],
    };
    let (mut d_table, mut d_bias) = (case.zeros("table"), case.zeros("bias"));
    // What an earlier step left must not matter.
    d_table[d..(items + 1) * d].fill(f32::NAN);
    d_bias[1..].fill(f32::NAN);
    let mut softmax = ItemSoftmax::default();
    let targets = segments(problem.targets);
    let (d_items, d_item_bias) = (&mut d_table[d..(items + 1) * d], &mut d_bias[1..]);
    let loss = softmax.run_streamed(&problem, &targets, d_items, d_item_bias);
    Results::default()
        .out("loss", [loss as f32])
        .grad("rows", softmax.d_rows)
        .grad("table", d_table)
        .grad("bias", d_bias)
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("item_softmax", "cpu, streamed", cpu);
}

#[test]
fn large_catalogues_are_streamed_in_whole_tiles() {
    assert!(!is_due(60_000) && is_due(100_000) && is_due(usize::MAX / 2));
    for items in [1, 256, 257, 60_000, 1 << 20] {
        assert!(span(items) * 16 >= items && span(items).is_multiple_of(256));
    }
}
