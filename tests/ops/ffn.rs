//! Feed-forward network with each activation, dropout, residual and norm; inner widths of any size.

use super::{LinearCase, NormCase, cuda_hidden_dropout, hidden_dropout, step_block};
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{
    Case, Dropout, Results, activation, cases, hold, hold_bf16, hold_taken,
};
use b4r::cpu::ffn::{self, FeedForward, FeedForwardGradient, Scratch};
use b4r::cpu::lane::Rows;
use b4r::cpu::projection::{NormSaved, Residual, Tail};
use b4r::cuda;
use b4r::cuda::linear::{Gradient, gradients};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::{Linear, NormPartials, NormSaved as CudaNormSaved};
use b4r::cuda::step::Size;
use half::bf16;
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
    let mut run = |hidden: Option<&mut [f32]>| {
        let mut y = case.zeros("upstream");
        let saved = NormSaved { normalized: &mut *normalized, rstd: &mut *rstd };
        let residual = Residual::Rows(&residual);
        ffn::forward(&network, &tail, &x, residual, &mut scratch, hidden, saved, &mut y);
        y
    };
    let answer = run(None);
    let y = run(Some(&mut hidden));
    assert!(answer == y, "without what the backward pass needs, the same output");
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

/// Each row of `values` with zeros behind it up to `width`.
fn padded(values: &[f32], row: usize, width: usize) -> Vec<f32> {
    let fill = vec![0.0; width - row];
    values.chunks(row).flat_map(|row| [row, &fill].concat()).collect()
}

/// The network of a case on the GPU. Kernels take inner widths that are multiples of 16: others get channels whose
/// weights are 0.
struct Network<'a, S> {
    gpu: Gpu,
    case: &'a Case<Parameters>,
    rows: usize,
    maps: cuda::ffn::FeedForward<S>,
    tail: cuda::operands::Tail,
    input: Slice<S>,
    hidden: Slice<S>,
    saved: CudaNormSaved<S>,
}

impl<'a, S: Storage> Network<'a, S> {
    fn new(case: &'a Case<Parameters>) -> Self {
        let parameters = &case.parameters;
        let [rows, d] = *case.shape("x") else { panic!("x is a matrix") };
        let gpu = Gpu::new(step_block(&parameters.dropout, rows));
        let f = case.shape("in_bias")[0];
        let inner_width = f.next_multiple_of(16);
        let weight = |name, row, width| gpu.store(&padded(&case.input(name), row, width));
        let bias = |name, width| gpu.copy(&padded(&case.input(name), case.shape(name)[0], width));
        let maps = cuda::ffn::FeedForward {
            width: d,
            inner_width,
            inner: Linear {
                weight: weight("in_weight", f * d, inner_width * d),
                bias: bias("in_bias", inner_width),
            },
            outer: Linear {
                weight: weight("out_weight", f, inner_width),
                bias: bias("out_bias", d),
            },
            activation: activation(&parameters.hidden_act),
        };
        let norm = (parameters.norm == "post").then(|| gpu.norm(case, parameters.layer_norm_eps));
        let tail = cuda::operands::Tail {
            rows: cuda::operands::Rows::All,
            dropout: cuda_hidden_dropout(&parameters.dropout, parameters.site),
            norm,
        };
        let input = gpu.store_rows(&case.input("x"), d);
        let (hidden, saved) = (gpu.rows(rows, inner_width), gpu.norm_saved(rows, d));
        Network { gpu, case, rows, maps, tail, input, hidden, saved }
    }

    /// The output.
    fn forward(&self, hidden: Option<Slice<S>>) -> b4r::Result<Slice<S>> {
        let (gpu, d) = (&self.gpu, self.maps.width);
        let residual = gpu.store_rows(&self.case.input("residual"), d);
        let y = gpu.rows(self.rows, d);
        cuda::ffn::forward(
            gpu.launcher(),
            count(Size::Tokens, self.rows + SPARE),
            self.maps,
            self.tail,
            self.input,
            residual,
            hidden,
            self.saved,
            y,
        )?;
        Ok(y)
    }

    fn backward(&self, d_input: Option<Slice<S>>) -> Backward<S> {
        let (gpu, d, f) = (&self.gpu, self.maps.width, self.maps.inner_width);
        let back = Backward {
            d_residual: gpu.store_rows(&self.case.input("upstream"), d),
            d_linear: gpu.rows(self.rows, d),
            d_hidden: gpu.rows(self.rows, f),
            norm_partials: self.tail.norm.map(|_| gpu.norm_partials(d)),
        };
        cuda::ffn::backward(
            gpu.launcher(),
            count(Size::Tokens, self.rows + SPARE),
            self.maps,
            self.tail,
            self.hidden,
            self.saved,
            back.d_residual,
            back.norm_partials,
            back.d_linear,
            back.d_hidden,
            d_input,
        )
        .unwrap();
        back
    }

    /// Adds the gradients of both maps, without those of channels that are not the case's.
    fn map_gradients(&self, back: &Backward<S>, results: Results) -> Results {
        let (gpu, d, padded_f) = (&self.gpu, self.maps.width, self.maps.inner_width);
        let rows = count(Size::Tokens, self.rows + SPARE);
        let partials = [gpu.linear_partials(padded_f, d), gpu.linear_partials(d, padded_f)];
        let inner = Gradient {
            rows,
            outputs: padded_f,
            inputs: d,
            upstream: back.d_hidden,
            input: self.input,
            tokens: Slice::default(),
            activation: None,
            partials: partials[0],
        };
        let outer = Gradient {
            outputs: d,
            inputs: padded_f,
            upstream: back.d_linear,
            input: self.hidden,
            activation: Some(self.maps.activation),
            partials: partials[1],
            ..inner
        };
        gradients(gpu.launcher(), &[inner, outer]).unwrap();
        let f = self.case.shape("in_bias")[0];
        let outer_weight = gpu.sum(partials[1].weight);
        let outer_weight: Vec<f32> =
            outer_weight.chunks(padded_f).flat_map(|row| &row[..f]).copied().collect();
        results
            .grad("in_weight", &gpu.sum(partials[0].weight)[..f * d])
            .grad("in_bias", &gpu.sum(partials[0].bias)[..f])
            .grad("out_weight", outer_weight)
            .grad("out_bias", gpu.sum(partials[1].bias))
    }
}

/// What a backward pass assigns.
struct Backward<S> {
    d_residual: Slice<S>,
    d_linear: Slice<S>,
    d_hidden: Slice<S>,
    norm_partials: Option<NormPartials>,
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let network = Network::<S>::new(case);
    let (gpu, d) = (&network.gpu, network.maps.width);
    let y = network.forward(Some(network.hidden)).unwrap();
    let d_x = gpu.rows(network.rows, d);
    let back = network.backward(Some(d_x));
    let results = Results::default()
        .out("y", gpu.load_rows(y, d))
        .grad("x", gpu.load_rows(d_x, d))
        .grad("residual", gpu.load_rows(back.d_residual, d));
    let results = network.map_gradients(&back, results);
    for (kept, width) in [
        (network.hidden, network.maps.inner_width),
        (back.d_hidden, network.maps.inner_width),
        (back.d_linear, d),
        (network.saved.normalized, d),
    ] {
        gpu.load_rows(kept, width);
    }
    gpu.load_rows(network.saved.rstd, 1);
    Some(match back.norm_partials {
        Some(partials) => gpu.norm_gradients(results, partials),
        None => results,
    })
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("ffn", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("ffn", "cuda bf16", cuda::<bf16>);
}

/// Whether hidden is kept makes no difference to the output; where input and residual are one, so is their gradient.
#[test]
fn cuda_choices_come_to_the_same() {
    for case in cases::<Parameters>("ffn") {
        let network = Network::<f32>::new(&case);
        let (gpu, d) = (&network.gpu, network.maps.width);
        let y = gpu.load_rows(network.forward(Some(network.hidden)).unwrap(), d);
        match network.forward(None) {
            Ok(other) => assert_eq!(gpu.load_rows(other, d), y, "{}", case.name),
            Err(error) => {
                assert!(d > 256, "{}: {error}", case.name);
                assert!(error.to_string().contains("needs a buffer for hidden"), "{error}");
            }
        }
        let d_x = gpu.rows(network.rows, d);
        let apart = gpu.load_rows(network.backward(Some(d_x)).d_residual, d);
        let sum: Vec<f32> =
            apart.iter().zip(gpu.load_rows(d_x, d)).map(|(residual, x)| residual + x).collect();
        let together = gpu.load_rows(network.backward(None).d_residual, d);
        assert_eq!(together, sum, "{}", case.name);
    }
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let case = cases::<Parameters>("ffn").remove(0);
    let mut network = Network::<f32>::new(&case);
    let hidden = network.hidden;
    let forward = |network: &Network<f32>, hidden| {
        network.forward(Some(hidden)).map(|_| ()).unwrap_err().to_string()
    };
    let short = forward(&network, hidden.part(0, 16));
    assert!(short.contains("ffn forward: hidden"), "{short}");
    network.maps.inner_width = 72;
    let inner = forward(&network, hidden);
    assert!(inner.contains("inner width 72 is not a multiple of 16"), "{inner}");
    network.maps.inner_width = 64;
    network.maps.outer.bias = network.maps.inner.bias;
    let wrong = forward(&network, hidden);
    assert!(wrong.contains("ffn forward: bias"), "{wrong}");
    network.maps.width = 1040;
    let wide = forward(&network, hidden);
    assert!(wide.contains("width 1040"), "{wide}");
}
