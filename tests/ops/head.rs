//! Prediction head up to the product with the items.

use super::{LinearCase, NormCase};
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Results, cases, hold, hold_bf16, hold_taken};
use b4r::cpu::head;
use b4r::cuda;
use b4r::cuda::linear::{Gradient, gradients};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    layer_norm_eps: f64,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let input = case.input("hidden");
    let mut kept = NormCase::new(case, case.parameters.layer_norm_eps, case.shape("hidden")[0]);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let mut map = LinearCase::new(case, "head");
    let (dense, mut d_dense) = map.split();
    let (mut hidden, mut y) = (case.zeros("hidden"), case.zeros("hidden"));
    head::forward(&dense, &norm, &input, &mut hidden, normalized, rstd, &mut y);
    let (mut d_y, mut d_input) = (case.input("upstream"), vec![f32::NAN; input.len()]);
    head::backward(
        &dense,
        &norm,
        &input,
        &hidden,
        normalized,
        rstd,
        &mut d_dense,
        &mut d_norm,
        &mut d_y,
        &mut d_input,
    );
    let results = Results::default().out("y", y).grad("hidden", d_input);
    kept.into_results(map.into_results(results))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("head", "cpu", cpu);
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let [p, d] = *case.shape("hidden") else { panic!("hidden is a matrix") };
    let gpu = Gpu::new(StepBlock { rows: p as u32, ..StepBlock::default() });
    let (launcher, rows) = (gpu.launcher(), count(Size::Rows, p + SPARE));
    let (map, norm) = (gpu.linear(case, "head"), gpu.norm(case, case.parameters.layer_norm_eps));
    let (map_partials, norm_partials) = (gpu.linear_partials(d, d), gpu.norm_partials(d));
    let input = gpu.store_rows::<S>(&case.input("hidden"), d);
    let (hidden, saved, y) = (gpu.rows(p, d), gpu.norm_saved(p, d), gpu.rows(p, d));
    cuda::head::forward(launcher, rows, d, map, norm, input, hidden, saved, y).unwrap();
    let d_y = gpu.store_rows::<S>(&case.input("upstream"), d);
    let (d_hidden, d_input) = (gpu.rows(p, d), gpu.rows(p, d));
    cuda::head::backward(
        launcher,
        rows,
        d,
        map,
        norm,
        hidden,
        saved,
        d_y,
        norm_partials,
        d_hidden,
        d_input,
    )
    .unwrap();
    let gradient = Gradient {
        rows,
        outputs: d,
        inputs: d,
        upstream: d_hidden,
        input,
        tokens: Slice::default(),
        activation: None,
        partials: map_partials,
    };
    gradients(launcher, &[gradient]).unwrap();
    for kept in [hidden, saved.normalized, d_hidden] {
        gpu.load_rows(kept, d);
    }
    gpu.load_rows(saved.rstd, 1);
    let results =
        Results::default().out("y", gpu.load_rows(y, d)).grad("hidden", gpu.load_rows(d_input, d));
    let results = gpu.linear_gradients(results, "head", map_partials);
    Some(gpu.norm_gradients(results, norm_partials))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("head", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("head", "cuda bf16", cuda::<bf16>);
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let case = cases::<Parameters>("head").remove(0);
    let gpu = Gpu::new(StepBlock { rows: 1, ..StepBlock::default() });
    let (map, norm) = (gpu.linear::<f32, _>(&case, "head"), gpu.norm(&case, 1e-12));
    let rows = count(Size::Rows, 1 + SPARE);
    let [x, y, hidden] = [(); 3].map(|()| gpu.rows::<f32>(1, 16));
    let (saved, partials) = (gpu.norm_saved(1, 16), gpu.norm_partials(16));
    let forward = |width, output| {
        cuda::head::forward(gpu.launcher(), rows, width, map, norm, x, hidden, saved, output)
            .unwrap_err()
            .to_string()
    };
    for width in [0, 24, 2048] {
        assert!(forward(width, y).contains(&format!("width {width}")), "{}", forward(width, y));
    }
    let short = forward(16, y.part(0, 16));
    assert!(short.contains("head forward: output"), "{short}");
    let backward = |partials| {
        cuda::head::backward(gpu.launcher(), rows, 16, map, norm, hidden, saved, y, partials, x, x)
    };
    let mut uneven = partials;
    uneven.bias.slots = 1;
    let refused = backward(uneven).unwrap_err().to_string();
    assert!(refused.contains("do not fit together"), "{refused}");
    let mut overlapping = partials;
    overlapping.weight.stride = 8;
    assert!(backward(overlapping).is_err());
}
