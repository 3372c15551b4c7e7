//! Queries at some tokens or all, keys and values side by side at every token.

use super::LinearCase;
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::draw::uniform;
use crate::util::fixture::{Case, Results, cases, hold, hold_bf16, hold_taken};
use b4r::cpu::lane::Rows;
use b4r::cpu::qkv::{self, Upstream};
use b4r::cuda;
use b4r::cuda::linear::{Gradient, gradients};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::{Linear, LinearPartials};
use b4r::cuda::qkv::Shape;
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
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

/// A case on the GPU.
struct OnGpu<S> {
    gpu: Gpu,
    shape: Shape,
    query: Linear<S>,
    key_value: Linear<S>,
    rows: cuda::operands::Rows,
    /// Token of each row, empty where all are.
    tokens: Slice<u32>,
    input: Slice<S>,
    d_q: Slice<S>,
    d_kv: Slice<S>,
}

impl<S: Storage> OnGpu<S> {
    fn new(case: &Case<Parameters>) -> Self {
        let [t, d] = *case.shape("x") else { panic!("x is a matrix") };
        let selected = case.integers("rows");
        let step =
            StepBlock { tokens: t as u32, rows: selected.len() as u32, ..StepBlock::default() };
        let gpu = Gpu::new(step);
        let tokens = count(Size::Tokens, t + SPARE);
        // Nothing may follow what stands in the spare rows.
        let spare = [u32::MAX - 1; SPARE];
        let (queries, rows, row_tokens) = if case.parameters.all_rows {
            (tokens, cuda::operands::Rows::All, Slice::default())
        } else {
            let mut rows = vec![u32::MAX; t];
            for (row, &token) in selected.iter().enumerate() {
                rows[token as usize] = row as u32;
            }
            let row_tokens = gpu.copy(&[selected, &spare].concat());
            let rows = gpu.copy(&[&rows[..], &spare].concat());
            let rows = cuda::operands::Rows::Selected { tokens: row_tokens, rows };
            (count(Size::Rows, selected.len() + SPARE), rows, row_tokens)
        };
        OnGpu {
            shape: Shape { tokens, queries, width: d },
            query: gpu.linear(case, "query"),
            key_value: gpu.linear(case, "key_value"),
            rows,
            tokens: row_tokens,
            input: gpu.store_rows(&case.input("x"), d),
            d_q: gpu.store_rows(&case.input("upstream_q"), d),
            d_kv: gpu.store_rows(&case.input("upstream_kv"), 2 * d),
            gpu,
        }
    }

    fn forward(&self, q: Slice<S>, kv: Slice<S>) -> b4r::Result<()> {
        let OnGpu { gpu, shape, query, key_value, rows, input, .. } = self;
        let launcher = gpu.launcher();
        cuda::qkv::forward(launcher, *shape, *query, *key_value, *rows, *input, q, kv)
    }

    fn backward(&self, residual: Option<Slice<S>>, d_input: Slice<S>) -> b4r::Result<()> {
        let OnGpu { gpu, shape, query, key_value, rows, d_q, d_kv, .. } = self;
        let (launcher, maps) = (gpu.launcher(), (*query, *key_value));
        cuda::qkv::backward(launcher, *shape, maps.0, maps.1, *rows, *d_q, *d_kv, residual, d_input)
    }

    fn weight_gradients(&self) -> [LinearPartials; 2] {
        let Shape { tokens, queries, width } = self.shape;
        let map = |rows, outputs, upstream, tokens| Gradient {
            rows,
            outputs,
            inputs: width,
            upstream,
            input: self.input,
            tokens,
            activation: None,
            partials: self.gpu.linear_partials(outputs, width),
        };
        let maps = [
            map(queries, width, self.d_q, self.tokens),
            map(tokens, 2 * width, self.d_kv, Slice::default()),
        ];
        gradients(self.gpu.launcher(), &maps).unwrap();
        maps.map(|map| map.partials)
    }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let [t, d] = *case.shape("x") else { panic!("x is a matrix") };
    let on = OnGpu::<S>::new(case);
    let gpu = &on.gpu;
    let (q, kv) = (gpu.rows(case.shape("upstream_q")[0], d), gpu.rows(t, 2 * d));
    on.forward(q, kv).unwrap();
    let d_x = gpu.rows(t, d);
    on.backward(None, d_x).unwrap();
    let results = Results::default()
        .out("q", gpu.load_rows(q, d))
        .out("kv", gpu.load_rows(kv, 2 * d))
        .grad("x", gpu.load_rows(d_x, d));
    let [query, key_value] = on.weight_gradients();
    let results = gpu.linear_gradients(results, "query", query);
    Some(gpu.linear_gradients(results, "key_value", key_value))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("qkv", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("qkv", "cuda bf16", cuda::<bf16>);
}

/// The residual's gradient joins where its row is, and nowhere else.
#[test]
fn the_residual_is_added_at_its_rows() {
    for case in cases::<Parameters>("qkv") {
        let [t, d] = *case.shape("x") else { panic!("x is a matrix") };
        let on = OnGpu::<f32>::new(&case);
        let [without, with] = [on.gpu.rows(t, d), on.gpu.rows(t, d)];
        let selected = case.integers("rows");
        let residual = uniform(3, "residual", selected.len() * d, 1.0, 0.0);
        on.backward(None, without).unwrap();
        on.backward(Some(on.gpu.store_rows(&residual, d)), with).unwrap();
        let (mut expected, got) = (on.gpu.load_rows(without, d), on.gpu.load_rows(with, d));
        for (&token, residual) in selected.iter().zip(residual.chunks(d)) {
            for (x, r) in expected[token as usize * d..].iter_mut().zip(residual) {
                *x += r;
            }
        }
        assert_eq!(got, expected, "{}", case.name);
    }
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let case = cases::<Parameters>("qkv").remove(1);
    let mut on = OnGpu::<f32>::new(&case);
    let (t, q) = (on.shape.tokens.most, on.shape.queries.most);
    let [short, right] = [q - 1, q].map(|rows| on.gpu.buffer::<f32>(rows * 64));
    let kv = on.gpu.buffer(t * 128);
    let refused = on.forward(short, kv).unwrap_err().to_string();
    assert!(refused.contains("qkv forward: q"), "{refused}");
    let refused = on.backward(Some(short), on.input).unwrap_err().to_string();
    assert!(refused.contains("qkv backward: gradient of the residual"), "{refused}");
    for width in [0, 40, 1040] {
        on.shape.width = width;
        let refused = on.forward(right, kv).unwrap_err().to_string();
        assert!(refused.contains(&format!("width {width}")), "{refused}");
    }
}
