//! Layer norm by itself.

use super::NormCase;
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Results, cases, hold, hold_bf16, hold_taken};
use b4r::cpu::layernorm::{backward_rows, forward_rows};
use b4r::cuda;
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::{NormPartials, Rows};
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
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
    let mut y = vec![0.0; rows * d];
    forward_rows(&norm, &case.input("x"), normalized, rstd, &mut y);
    backward_rows(&norm, &mut gradient, normalized, rstd, &mut d_x);
    kept.into_results(Results::default().out("y", y).grad("x", d_x))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("layernorm", "cpu", cpu);
}

/// A layer norm on the GPU that has gone forward.
struct Forward<S> {
    gpu: Gpu,
    shape: [usize; 2],
    norm: cuda::operands::Norm,
    saved: cuda::operands::NormSaved<S>,
    y: Slice<S>,
}

impl<S: Storage> Forward<S> {
    fn new(case: &Case<Parameters>) -> Self {
        let [rows, d] = *case.shape("x") else { panic!("x is a matrix") };
        let gpu = Gpu::new(StepBlock { tokens: rows as u32, ..StepBlock::default() });
        let norm = gpu.norm(case, case.parameters.layer_norm_eps);
        let (x, saved) = (gpu.store_rows::<S>(&case.input("x"), d), gpu.norm_saved(rows, d));
        let y = gpu.rows(rows, d);
        let tokens = count(Size::Tokens, rows + SPARE);
        cuda::layernorm::forward(gpu.launcher(), tokens, d, norm, x, saved, y).unwrap();
        Forward { gpu, shape: [rows, d], norm, saved, y }
    }

    /// d_x, in the place of `upstream`, and the parts of the norm's gradients.
    fn backward(
        &self,
        upstream: &[f32],
        residual: Option<(Slice<S>, Rows)>,
    ) -> (Slice<S>, NormPartials) {
        let [rows, d] = self.shape;
        let partials = self.gpu.norm_partials(d);
        let d_y = self.gpu.store_rows::<S>(upstream, d);
        cuda::layernorm::backward(
            self.gpu.launcher(),
            count(Size::Tokens, rows + SPARE),
            d,
            self.norm,
            self.saved,
            d_y,
            residual,
            partials,
            d_y,
        )
        .unwrap();
        (d_y, partials)
    }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let on = Forward::<S>::new(case);
    let (gpu, [_, d]) = (&on.gpu, on.shape);
    let (d_x, partials) = on.backward(&case.input("upstream"), None);
    gpu.load_rows(on.saved.normalized, d);
    gpu.load_rows(on.saved.rstd, 1);
    let results = Results::default().out("y", gpu.load_rows(on.y, d));
    Some(gpu.norm_gradients(results.grad("x", gpu.load_rows(d_x, d)), partials))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("layernorm", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("layernorm", "cuda bf16", cuda::<bf16>);
}

/// Adds a residual's gradient row by row, and scattered over every third token, to that of the norm's input.
#[test]
fn cuda_adds_the_gradient_of_a_residual() {
    for case in cases::<Parameters>("layernorm") {
        let on = Forward::<f32>::new(&case);
        let (gpu, [rows, d]) = (&on.gpu, on.shape);
        let upstream = case.input("upstream");
        let alone = gpu.load_rows(on.backward(&upstream, None).0, d);
        let residual = case.input("x");
        let added = gpu.store_rows::<f32>(&residual, d);
        let whole = gpu.load_rows(on.backward(&upstream, Some((added, Rows::All))).0, d);
        let expected: Vec<f32> = alone.iter().zip(&residual).map(|(a, r)| a + r).collect();
        assert_eq!(whole, expected, "{}", case.name);

        // Row i of the residual belongs to token 3 i.
        let tokens: Vec<u32> = (0..rows as u32).step_by(3).collect();
        let mut map = vec![u32::MAX; rows + SPARE];
        for (row, &token) in tokens.iter().enumerate() {
            map[token as usize] = row as u32;
        }
        let scattered = gpu.store::<f32>(&residual[..tokens.len() * d]);
        let selected = Rows::Selected { tokens: gpu.copy(&tokens), rows: gpu.copy(&map) };
        let some = gpu.load_rows(on.backward(&upstream, Some((scattered, selected))).0, d);
        for (token, row) in some.chunks(d).enumerate() {
            let alone = &alone[token * d..][..d];
            let expected: Vec<f32> = match map[token] {
                u32::MAX => alone.to_vec(),
                row => {
                    alone.iter().zip(&residual[row as usize * d..]).map(|(a, r)| a + r).collect()
                }
            };
            assert_eq!(row, expected, "{}: token {token}", case.name);
        }
    }
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let case = cases::<Parameters>("layernorm").remove(0);
    let on = Forward::<f32>::new(&case);
    let (rows, [_, d]) = (count(Size::Tokens, 1 + SPARE), on.shape);
    let forward = |width, x| {
        cuda::layernorm::forward(on.gpu.launcher(), rows, width, on.norm, x, on.saved, on.y)
            .unwrap_err()
            .to_string()
    };
    for width in [0, 8, 1040] {
        assert!(forward(width, on.y).contains(&format!("width {width}")));
    }
    let short = forward(d, on.y.part(0, d));
    assert!(short.contains("layernorm forward: input"), "{short}");
    let backward = |residual, partials| {
        cuda::layernorm::backward(
            on.gpu.launcher(),
            rows,
            d,
            on.norm,
            on.saved,
            on.y,
            residual,
            partials,
            on.y,
        )
        .unwrap_err()
        .to_string()
    };
    let partials = on.gpu.norm_partials(d);
    let short = backward(Some((on.y.part(0, d), Rows::All)), partials);
    assert!(short.contains("gradient of the residual"), "{short}");
    let mut overlapping = partials;
    overlapping.bias.stride = 8;
    let refused = backward(None, overlapping);
    assert!(refused.contains("do not fit together or overlap"), "{refused}");
}
