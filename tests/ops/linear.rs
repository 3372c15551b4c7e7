//! y = x Wᵀ + b.

use super::LinearCase;
use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::draw::uniform;
use crate::util::fixture::{Case, Results, hold, hold_bf16, hold_taken};
use b4r::config::Activation;
use b4r::cpu::gemm::Into;
use b4r::cpu::linear;
use b4r::cpu::math;
use b4r::cuda::linear::{Gradient, gradients};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::Count;
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {}

fn cpu(case: &Case<Parameters>) -> Results {
    let (x, upstream) = (case.input("x"), case.input("upstream"));
    let rows = case.shape("x")[0];
    let mut map = LinearCase::new(case, "linear");
    let (linear, mut gradient) = map.split();
    let (mut y, mut d_x) = (case.zeros("upstream"), case.zeros("x"));
    linear::forward(&linear, rows, &x, &mut y);
    linear::backward_input(&linear, rows, &upstream, Into::Assign, &mut d_x);
    linear::backward_weight(&mut gradient, rows, &x, &upstream);
    map.into_results(Results::default().out("y", y).grad("x", d_x))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("linear", "cpu", cpu);
}

/// Only the weight's gradients: the map itself is part of other operations, here it is the CPU's.
fn cuda<S: Storage>(case: &Case<Parameters>) -> Option<Results> {
    let [rows, inputs] = *case.shape("x") else { panic!("x is a matrix") };
    let outputs = case.shape("upstream")[1];
    if !outputs.is_multiple_of(16) {
        return None;
    }
    let gpu = Gpu::new(StepBlock { tokens: rows as u32, ..StepBlock::default() });
    let partials = gpu.linear_partials(outputs, inputs);
    let map = Gradient {
        rows: count(Size::Tokens, rows + SPARE),
        outputs,
        inputs,
        upstream: gpu.store_rows::<S>(&case.input("upstream"), outputs),
        input: gpu.store_rows::<S>(&case.input("x"), inputs),
        tokens: Slice::default(),
        activation: None,
        partials,
    };
    gradients(gpu.launcher(), &[map]).unwrap();
    Some(gpu.linear_gradients(cpu(case), "linear", partials))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold_taken("linear", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("linear", "cuda bf16", cuda::<bf16>);
}

/// A map of a launch with several.
struct Map {
    size: Size,
    rows: usize,
    outputs: usize,
    inputs: usize,
    tokens: Option<Vec<u32>>,
    activation: Option<Activation>,
    upstream: Vec<f32>,
    input: Vec<f32>,
}

impl Map {
    fn new(size: Size, rows: usize, outputs: usize, inputs: usize) -> Self {
        let seed = (outputs * inputs) as u64;
        Map {
            size,
            rows,
            outputs,
            inputs,
            tokens: None,
            activation: None,
            upstream: uniform(seed, "upstream", rows * outputs, 1.0, 0.0),
            input: uniform(seed, "input", rows * inputs, 3.0, 0.0),
        }
    }

    /// Reads every third of `3 rows` inputs.
    fn picked(mut self) -> Self {
        self.input = uniform(7, "picked", 3 * self.rows * self.inputs, 3.0, 0.0);
        self.tokens = Some((0..self.rows as u32).map(|row| 3 * row + 1).collect());
        self
    }

    fn activated(self, activation: Activation) -> Self {
        Map { activation: Some(activation), ..self }
    }

    fn on<S: Storage>(&self, gpu: &Gpu) -> Gradient<S> {
        Gradient {
            rows: count(self.size, self.rows + SPARE),
            outputs: self.outputs,
            inputs: self.inputs,
            upstream: gpu.store_rows(&self.upstream, self.outputs),
            input: gpu.store_rows(&self.input, self.inputs),
            tokens: self.tokens.as_ref().map_or(Slice::default(), |tokens| {
                gpu.copy(&[&tokens[..], &[u32::MAX - 1; SPARE]].concat())
            }),
            activation: self.activation,
            partials: gpu.linear_partials(self.outputs, self.inputs),
        }
    }

    /// dW and db in f64, from what `S` makes of the inputs.
    fn expected<S: Storage>(&self) -> (Vec<f64>, Vec<f64>) {
        let stored = |x: f32| f64::from(S::from_f32(x).to_f32());
        let activated = |x: f32| match self.activation {
            None => stored(x),
            Some(Activation::Gelu) => stored(math::gelu(stored(x) as f32).value),
            Some(Activation::GeluTanh) => stored(math::gelu_tanh(stored(x) as f32).value),
            Some(Activation::Relu) => stored(x).max(0.0),
        };
        let (mut weight, mut bias) =
            (vec![0.0; self.outputs * self.inputs], vec![0.0; self.outputs]);
        for row in 0..self.rows {
            let token = self.tokens.as_ref().map_or(row, |tokens| tokens[row] as usize);
            let input: Vec<f64> = self.input[token * self.inputs..][..self.inputs]
                .iter()
                .map(|&x| activated(x))
                .collect();
            for (output, &upstream) in
                self.upstream[row * self.outputs..][..self.outputs].iter().enumerate()
            {
                bias[output] += stored(upstream);
                for (sum, x) in weight[output * self.inputs..][..self.inputs].iter_mut().zip(&input)
                {
                    *sum += stored(upstream) * x;
                }
            }
        }
        (weight, bias)
    }
}

fn assert_near(what: &str, got: &[f32], expected: &[f64], share: f64) {
    let largest = expected.iter().fold(0.0, |top: f64, x| top.max(x.abs()));
    for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= share * largest, "{what}, element {index}: {got} instead of {expected}");
    }
}

/// Launches all maps at once; `share` bounds the error of an activation in bf16, which rounds now and then to
/// the other side.
fn check_together<S: Storage>(step: StepBlock, maps: &[Map], share: f64) {
    let gpu = Gpu::new(step);
    let launched: Vec<Gradient<S>> = maps.iter().map(|map| map.on(&gpu)).collect();
    gradients(gpu.launcher(), &launched).unwrap();
    for (index, (map, launched)) in maps.iter().zip(&launched).enumerate() {
        let (weight, bias) = map.expected::<S>();
        assert_near(
            &format!("dW of map {index}"),
            &gpu.sum(launched.partials.weight),
            &weight,
            share,
        );
        assert_near(&format!("db of map {index}"), &gpu.sum(launched.partials.bias), &bias, 1e-6);
    }
}

fn narrow_maps() -> (StepBlock, [Map; 4]) {
    let step = StepBlock { tokens: 101, rows: 37, ..StepBlock::default() };
    let maps = [
        Map::new(Size::Rows, 37, 48, 64).picked(),
        Map::new(Size::Tokens, 101, 128, 64).activated(Activation::Gelu),
        Map::new(Size::Rows, 37, 64, 80).activated(Activation::GeluTanh),
        Map::new(Size::Tokens, 101, 16, 272).activated(Activation::Relu),
    ];
    (step, maps)
}

fn wide_maps() -> (StepBlock, [Map; 2]) {
    let step = StepBlock { tokens: 70, rows: 33, ..StepBlock::default() };
    let maps = [
        Map::new(Size::Tokens, 70, 144, 256).activated(Activation::Gelu),
        Map::new(Size::Rows, 33, 256, 128).picked(),
    ];
    (step, maps)
}

#[test]
fn maps_of_other_sizes_share_a_launch_in_f32() {
    let (step, maps) = narrow_maps();
    check_together::<f32>(step, &maps, 1e-6);
    let (step, maps) = wide_maps();
    check_together::<f32>(step, &maps, 1e-6);
}

#[test]
fn maps_of_other_sizes_share_a_launch_in_bf16() {
    let (step, maps) = narrow_maps();
    check_together::<bf16>(step, &maps, 1e-3);
    let (step, maps) = wide_maps();
    check_together::<bf16>(step, &maps, 1e-3);
}

/// A step may have no rows at all: every part is assigned all the same.
#[test]
fn without_rows_all_parts_are_zeros() {
    let step = StepBlock { tokens: 5, rows: 0, ..StepBlock::default() };
    let gpu = Gpu::new(step);
    let none = Map { size: Size::Rows, ..Map::new(Size::Tokens, 40, 32, 16) }.on::<f32>(&gpu);
    let few = Map::new(Size::Tokens, 5, 32, 16).on::<f32>(&gpu);
    gradients(gpu.launcher(), &[none, few]).unwrap();
    assert!(gpu.sum(none.partials.weight).iter().all(|&x| x == 0.0));
    assert!(gpu.sum(none.partials.bias).iter().all(|&x| x == 0.0));
    // Five rows are one chunk of the first slot.
    let mut last = few.partials.weight.first;
    last.address += 2 * 4 * few.partials.weight.stride as u64;
    assert!(gpu.read(last).iter().all(|&x| x == 0.0));
    assert!(gpu.sum(few.partials.weight).iter().all(|&x| x != 0.0));
}

#[test]
fn maps_that_no_kernel_takes_are_refused() {
    let gpu = Gpu::new(StepBlock { tokens: 5, ..StepBlock::default() });
    let good = Map::new(Size::Tokens, 5, 32, 16).on::<f32>(&gpu);
    let refused = |maps: &[Gradient<f32>]| gradients(gpu.launcher(), maps).unwrap_err().to_string();
    let odd = Gradient { outputs: 40, ..good };
    assert!(refused(&[odd]).contains("from 16 to 40"), "{}", refused(&[odd]));
    let five = refused(&[good; 5]);
    assert!(five.contains("5 maps"), "{five}");
    let long = refused(&[Gradient { rows: Count { most: 6, ..good.rows }, ..good }]);
    assert!(long.contains("gradient of the output"), "{long}");
    let mut uneven = good;
    uneven.partials.bias.slots = 2;
    assert!(refused(&[uneven]).contains("do not fit together"), "{}", refused(&[uneven]));
    let mut shifted = good;
    shifted.partials.weight.first.address += 4;
    let shifted = refused(&[shifted]);
    assert!(
        shifted.contains("weight gradients: parts of the weight's gradient: begins"),
        "{shifted}"
    );
    gradients::<f32>(gpu.launcher(), &[]).unwrap();
}
