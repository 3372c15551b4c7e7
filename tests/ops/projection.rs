//! Output projection, dropout, residual and norm.

use super::{LinearCase, NormCase, cuda_hidden_dropout, hidden_dropout, step_block};
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Dropout, Results, cases, hold, hold_bf16, hold_taken};
use b4r::cpu::lane::Rows;
use b4r::cpu::projection::{self, NormSaved, Residual, Tail};
use b4r::cuda;
use b4r::cuda::linear::{Gradient, gradients};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::NormPartials;
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
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

/// The projection of some rows on the GPU, forward and backward.
struct Run<S> {
    y: Slice<S>,
    d_residual: Slice<S>,
    d_linear: Slice<S>,
    d_context: Slice<S>,
    norm_partials: Option<NormPartials>,
}

/// All buffers have spare rows; `residual` has a row for each token.
fn run<S: Storage>(
    gpu: &Gpu,
    case: &Case<Parameters>,
    rows: cuda::operands::Rows,
    [context, residual, upstream]: [&[f32]; 3],
) -> Run<S> {
    let parameters = &case.parameters;
    let d = case.shape("context")[1];
    let t = context.len() / d;
    let size = match rows {
        cuda::operands::Rows::All => Size::Tokens,
        cuda::operands::Rows::Selected { .. } => Size::Rows,
    };
    let norm = (parameters.norm == "post").then(|| gpu.norm(case, parameters.layer_norm_eps));
    let dropout = cuda_hidden_dropout(&parameters.dropout, parameters.site);
    let tail = cuda::operands::Tail { rows, dropout, norm };
    let (rows, map) = (count(size, t + SPARE), gpu.linear::<S, _>(case, "projection"));
    let norm_partials = norm.map(|_| gpu.norm_partials(d));
    let context = gpu.store_rows::<S>(context, d);
    let residual = gpu.store_rows::<S>(residual, d);
    let (saved, y) = (gpu.norm_saved(t, d), gpu.rows(t, d));
    let launcher = gpu.launcher();
    cuda::projection::forward(launcher, rows, d, map, tail, context, residual, saved, y).unwrap();
    let d_residual = gpu.store_rows::<S>(upstream, d);
    let (d_linear, d_context) = (gpu.rows(t, d), gpu.rows(t, d));
    cuda::projection::backward(
        launcher,
        rows,
        d,
        map,
        tail,
        saved,
        d_residual,
        norm_partials,
        d_linear,
        d_context,
    )
    .unwrap();
    gpu.load_rows(saved.normalized, d);
    gpu.load_rows(saved.rstd, 1);
    Run { y, d_residual, d_linear, d_context, norm_partials }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let [t, d] = *case.shape("context") else { panic!("context is a matrix") };
    let gpu = Gpu::new(step_block(&case.parameters.dropout, t));
    let inputs = ["context", "residual", "upstream"].map(|name| case.input(name));
    let inputs = inputs.each_ref().map(Vec::as_slice);
    let run = run::<S>(&gpu, case, cuda::operands::Rows::All, inputs);
    let partials = gpu.linear_partials(d, d);
    let gradient = Gradient {
        rows: count(Size::Tokens, t + SPARE),
        outputs: d,
        inputs: d,
        upstream: run.d_linear,
        input: gpu.store_rows::<S>(inputs[0], d),
        tokens: Slice::default(),
        activation: None,
        partials,
    };
    gradients(gpu.launcher(), &[gradient]).unwrap();
    gpu.load_rows(run.d_linear, d);
    let results = Results::default()
        .out("y", gpu.load_rows(run.y, d))
        .grad("context", gpu.load_rows(run.d_context, d))
        .grad("residual", gpu.load_rows(run.d_residual, d));
    let results = gpu.linear_gradients(results, "projection", partials);
    Some(match run.norm_partials {
        Some(partials) => gpu.norm_gradients(results, partials),
        None => results,
    })
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("projection", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("projection", "cuda bf16", cuda::<bf16>);
}

/// Every fourth token alone comes to the same, bit for bit, as it does among all.
#[test]
fn cuda_selected_rows_are_those_of_all_tokens() {
    for case in cases::<Parameters>("projection") {
        let [t, d] = *case.shape("context") else { panic!("context is a matrix") };
        let tokens: Vec<u32> = (0..t as u32).step_by(4).collect();
        let picked = |values: &[f32]| -> Vec<f32> {
            tokens.iter().flat_map(|&token| &values[token as usize * d..][..d]).copied().collect()
        };
        let step = step_block(&case.parameters.dropout, t);
        let gpu = Gpu::new(StepBlock { rows: tokens.len() as u32, ..step });
        let inputs = ["context", "residual", "upstream"].map(|name| case.input(name));
        let [context, residual, upstream] = inputs.each_ref().map(Vec::as_slice);
        let rows = cuda::operands::Rows::All;
        let all = run::<f32>(&gpu, &case, rows, [context, residual, upstream]);
        // Spare entries lead nowhere.
        let padded = [tokens.as_slice(), &[u32::MAX; SPARE]].concat();
        let rows = cuda::operands::Rows::Selected {
            tokens: gpu.copy(&padded),
            rows: gpu.copy(&vec![u32::MAX; t + SPARE]),
        };
        let inputs = [&picked(context), residual, &picked(upstream)];
        let some = run::<f32>(&gpu, &case, rows, inputs);
        let pairs = [
            (all.y, some.y),
            (all.d_residual, some.d_residual),
            (all.d_linear, some.d_linear),
            (all.d_context, some.d_context),
        ];
        for (of_all, of_some) in pairs {
            let expected = picked(&gpu.load_rows(of_all, d));
            assert_eq!(gpu.load_rows(of_some, d), expected, "{}", case.name);
        }
    }
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let case = cases::<Parameters>("projection").remove(0);
    let gpu = Gpu::new(StepBlock { tokens: 1, ..StepBlock::default() });
    let (map, norm) = (gpu.linear::<f32, _>(&case, "projection"), gpu.norm(&case, 1e-12));
    let dropout = cuda_hidden_dropout(&case.parameters.dropout, 5);
    let rows = count(Size::Tokens, 1 + SPARE);
    let all = cuda::operands::Rows::All;
    let tail = cuda::operands::Tail { rows: all, dropout, norm: Some(norm) };
    let (x, saved) = (gpu.rows::<f32>(1, 16), gpu.norm_saved(1, 16));
    let forward = |width, tail, residual| {
        cuda::projection::forward(gpu.launcher(), rows, width, map, tail, x, residual, saved, x)
            .unwrap_err()
            .to_string()
    };
    for width in [0, 40, 2048] {
        assert!(forward(width, tail, x).contains(&format!("width {width}")));
    }
    let short = forward(16, tail, x.part(0, 16));
    assert!(short.contains("projection forward: residual"), "{short}");
    let tokens = gpu.copy(&[0_u32]);
    let selected = cuda::operands::Rows::Selected { tokens, rows: gpu.copy(&[0_u32; 1 + SPARE]) };
    let short = forward(16, cuda::operands::Tail { rows: selected, ..tail }, x);
    assert!(short.contains("projection forward: tokens of the rows"), "{short}");
    let refused = cuda::projection::backward(
        gpu.launcher(),
        rows,
        16,
        map,
        tail,
        saved,
        x,
        None,
        gpu.rows(1, 16),
        gpu.rows(1, 16),
    );
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no room for the norm's gradients"), "{refused}");
}
