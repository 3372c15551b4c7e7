//! Queries, keys and values: q = a Wqᵀ + bq at the rows that are read, (k, v) = a Wkvᵀ + bkv everywhere;
//! `a` is the layer's input, or its layer norm where norms stand before the sublayers.

use super::gemm::Into;
use super::lane::Rows;
use super::linear::{self, Linear, LinearGradient};

/// Writes `q [Tq, D]` and `kv [T, 2D]` from `input [T, D]`; `gathered` is scratch.
pub fn forward(
    query: &Linear,
    key_value: &Linear,
    rows: Rows,
    input: &[f32],
    gathered: &mut Vec<f32>,
    q: &mut [f32],
    kv: &mut [f32],
) {
    let d = query.inputs();
    let tokens = input.len() / d;
    let query_input = rows.gather(input, d, gathered);
    linear::forward(query, rows.count(tokens), query_input, q);
    linear::forward(key_value, tokens, input, kv);
}

/// Gradients of q `[Tq, D]` and of keys and values `[T, 2D]`.
pub struct Upstream<'a> {
    /// dq
    pub q: &'a [f32],
    /// dkv
    pub kv: &'a [f32],
}

/// Writes `d_input [T, D]` and adds to the weights' gradients.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    query: &Linear,
    key_value: &Linear,
    rows: Rows,
    input: &[f32],
    upstream: &Upstream,
    gathered: &mut Vec<f32>,
    d_query: &mut LinearGradient,
    d_key_value: &mut LinearGradient,
    d_input: &mut [f32],
) {
    let tokens = input.len() / query.inputs();
    linear::backward_weight(d_key_value, tokens, input, upstream.kv);
    linear::backward_input(key_value, tokens, upstream.kv, Into::Assign, d_input);
    backward_queries(query, rows, input, upstream.q, gathered, d_query, d_input);
}

/// From `d_q [Tq, D]`: adds to `d_input [T, D]` and to the weights' gradients.
pub fn backward_queries(
    query: &Linear,
    rows: Rows,
    input: &[f32],
    d_q: &[f32],
    gathered: &mut Vec<f32>,
    d_query: &mut LinearGradient,
    d_input: &mut [f32],
) {
    let d = query.inputs();
    let tokens = input.len() / d;
    let queries = rows.count(tokens);
    let query_input = rows.gather(input, d, gathered);
    linear::backward_weight(d_query, queries, query_input, d_q);
    match rows {
        Rows::All => linear::backward_input(query, tokens, d_q, Into::Add, d_input),
        Rows::Selected(_) => {
            gathered.resize(queries * d, 0.0);
            linear::backward_input(query, queries, d_q, Into::Assign, gathered);
            rows.scatter_add(&gathered[..queries * d], d, d_input);
        }
    }
}
