//! Queries at some tokens or all, keys and values side by side at every token.

use super::LinearCase;
use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::lane::Rows;
use b4r::cpu::qkv::{self, Upstream};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    all_rows: bool,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let x = case.input("x");
    let rows =
        if case.parameters.all_rows { Rows::All } else { Rows::Selected(case.integers("rows")) };
    let (mut query, mut key_value) =
        (LinearCase::new(case, "query"), LinearCase::new(case, "key_value"));
    let (query_map, mut d_query) = query.split();
    let (key_value_map, mut d_key_value) = key_value.split();
    let (mut q, mut kv) = (case.zeros("upstream_q"), case.zeros("upstream_kv"));
    let mut gathered = Vec::new();
    qkv::forward(&query_map, &key_value_map, rows, &x, &mut gathered, &mut q, &mut kv);
    let upstream = Upstream { q: &case.input("upstream_q"), kv: &case.input("upstream_kv") };
    let mut d_x = case.zeros("x");
    qkv::backward(
        &query_map,
        &key_value_map,
        rows,
        &x,
        &upstream,
        &mut gathered,
        &mut d_query,
        &mut d_key_value,
        &mut d_x,
    );
    let results = Results::default().out("q", q).out("kv", kv).grad("x", d_x);
    key_value.into_results(query.into_results(results))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("qkv", "cpu", cpu);
}
