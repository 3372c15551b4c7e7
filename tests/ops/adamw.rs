//! AdamW with clipping and decay, a few steps.

use crate::util::cuda::{Gpu, count};
use crate::util::fixture::{Case, Results, cases, hold};
use b4r::cpu::adamw::{AdamW, squared_norm};
use b4r::cuda::adamw::{self as on_gpu, Arenas, Chunk, OUTCOMES, Outcome};
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::{Launcher, Partials};
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    learning_rate: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    steps: u64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

/// A tensor with its moments; `decays` unless it is a norm or bias.
struct Tensor {
    name: &'static str,
    decays: bool,
    start: Vec<f32>,
    now: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Tensor {
    fn new(case: &Case<Parameters>, name: &'static str, decays: bool) -> Self {
        let (start, zeros) = (case.input(name), case.zeros(name));
        Tensor { name, decays, now: start.clone(), start, first: zeros.clone(), second: zeros }
    }

    fn into_results(self, results: Results) -> Results {
        let change: Vec<f32> = self.now.iter().zip(&self.start).map(|(n, s)| n - s).collect();
        results
            .out(&format!("change_{}", self.name), change)
            .out(&format!("first_moment_{}", self.name), self.first)
            .out(&format!("second_moment_{}", self.name), self.second)
    }
}

fn cpu(case: &Case<Parameters>) -> Results {
    let (norms, tensors) = on_cpu(case, false);
    let results = Results::default().out("norms", norms);
    tensors.into_iter().fold(results, |results, tensor| tensor.into_results(results))
}

/// Gradient norms of all steps and the tensors after them. `coupled`: Adam, whose decay joins the gradient of
/// every tensor.
fn on_cpu(case: &Case<Parameters>, coupled: bool) -> (Vec<f32>, [Tensor; 2]) {
    let p = &case.parameters;
    let mut tensors = [Tensor::new(case, "matrix", true), Tensor::new(case, "norm", false)];
    let mut norms = Vec::new();
    for step in 0..p.steps {
        let gradients = tensors
            .each_ref()
            .map(|tensor| case.input(&format!("gradient_{}_{step}", tensor.name)));
        let norm = gradients.iter().map(|g| squared_norm(g)).sum::<f64>().sqrt();
        norms.push(norm as f32);
        let scale = p.clip_norm.map_or(1.0, |bound| (bound / norm).min(1.0)) as f32;
        let betas = (p.beta1, p.beta2);
        let mut adamw = AdamW::new(step + 1, p.learning_rate as f32, betas, p.epsilon, scale);
        adamw.coupled = coupled;
        for (tensor, gradient) in tensors.iter_mut().zip(&gradients) {
            let decay = if tensor.decays || coupled { p.weight_decay as f32 } else { 0.0 };
            let Tensor { now, first, second, .. } = tensor;
            adamw.update(decay, now, gradient, first, second);
        }
    }
    (norms, tensors)
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("adamw", "cpu", cpu);
}

/// The two tensors of a case in one arena on the device: the matrix's gradient is there, the norm's comes in
/// parts.
struct Arena<S> {
    arenas: Arenas<S>,
    squares: Slice<f32>,
    norm_parts: Partials,
    norm_start: usize,
    losses: Slice<f32>,
    halted: Slice<u32>,
    outcomes: Slice<Outcome>,
    coupled: bool,
}

/// Rows of the batch, and of the buffer for their losses.
const ROWS: [usize; 2] = [300, 310];

impl<S: Storage> Arena<S> {
    fn new(gpu: &Gpu, case: &Case<Parameters>) -> Self {
        let (matrix, norm) = (case.input("matrix"), case.input("norm"));
        let norm_start = matrix.len().next_multiple_of(4);
        let mut values = matrix.clone();
        values.resize(norm_start, 7.0);
        values.extend(&norm);
        values.resize(values.len().next_multiple_of(4), 7.0);
        let norm_parts = gpu.partials(norm.len());
        let chunks: Vec<Chunk> = Chunk::cut(0, matrix.len(), true, None)
            .chain(Chunk::cut(norm_start, norm.len(), false, Some(norm_parts)))
            .collect();
        let parameters = gpu.copy(&values);
        let stored = if S::NAME == "f32" {
            let mut same = gpu.buffer(values.len());
            same.address = parameters.address;
            same
        } else {
            gpu.store(&values)
        };
        let arenas = Arenas {
            chunks: gpu.copy(&chunks),
            parameters,
            stored,
            gradient: gpu.copy(&vec![7.0; values.len()]),
            first_moment: gpu.copy(&vec![0.0; values.len()]),
            second_moment: gpu.copy(&vec![0.0; values.len()]),
        };
        let squares = gpu.buffer(chunks.len());
        let losses = gpu.copy(&vec![2.5; ROWS[1]]);
        let (halted, outcomes) = (gpu.copy(&[0]), gpu.copy(&[Outcome::default(); OUTCOMES]));
        Arena { arenas, squares, norm_parts, norm_start, losses, halted, outcomes, coupled: false }
    }

    /// One step with these gradients; the outcome.
    fn step(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
        number: u32,
        matrix: &[f32],
        norm: &[f32],
    ) -> Outcome {
        gpu.write(self.arenas.gradient.part(0, matrix.len()), matrix);
        // Parts that add up to the gradient again, but for rounding.
        for slot in 0..self.norm_parts.slots {
            let share = [0.5, 0.25, 0.25][slot as usize];
            let mut part = self.norm_parts.first;
            part.address += 4 * u64::from(slot) * self.norm_parts.stride as u64;
            gpu.write(part, &norm.iter().map(|x| x * share).collect::<Vec<_>>());
        }
        let correction = |beta: f64| (1.0 / (1.0 - beta.powi(number as i32))) as f32;
        let block = gpu.copy(&[StepBlock {
            rows: ROWS[0] as u32,
            number,
            learning_rate: parameters.learning_rate as f32,
            mean_correction: correction(parameters.beta1),
            square_correction: correction(parameters.beta2),
            ..StepBlock::default()
        }]);
        let launcher = Launcher { step: block, ..gpu.launcher() };
        let constants = on_gpu::AdamW {
            betas: (parameters.beta1, parameters.beta2),
            epsilon: parameters.epsilon,
            weight_decay: parameters.weight_decay,
            coupled: self.coupled,
            clip_norm: parameters.clip_norm,
        };
        let (arenas, squares) = (self.arenas, self.squares);
        let rows = count(Size::Rows, ROWS[1]);
        on_gpu::gradient_norm(launcher, arenas, squares).unwrap();
        let Arena { losses, halted, outcomes, .. } = *self;
        on_gpu::update(launcher, constants, arenas, squares, rows, losses, halted, outcomes)
            .unwrap();
        gpu.read(self.outcomes)[number as usize % OUTCOMES]
    }

    /// The tensor's elements within an arena; what pads it must be as it was.
    fn tensors(&self, gpu: &Gpu, arena: Slice<f32>, padding: f32) -> [Vec<f32>; 2] {
        let (mut matrix, norm_len) = (gpu.read(arena), self.norm_parts.first.len);
        let mut norm = matrix.split_off(self.norm_start);
        let rest = [matrix.split_off(37 * 29), norm.split_off(norm_len)].concat();
        assert!(rest.iter().all(|&x| x == padding), "padding was written: {rest:?}");
        [matrix, norm]
    }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Results {
    let gpu = Gpu::new(StepBlock::default());
    let arena = Arena::<S>::new(&gpu, case);
    let p = &case.parameters;
    let mut norms = Vec::new();
    for step in 0..p.steps {
        let gradient = |name: &str| case.input(&format!("gradient_{name}_{step}"));
        let number = step as u32 + 1;
        let outcome = arena.step(&gpu, p, number, &gradient("matrix"), &gradient("norm"));
        assert_eq!((outcome.number, outcome.skipped, outcome.loss), (number, 0, 2.5));
        norms.push(outcome.gradient_norm);
    }
    let Arenas { parameters, stored, first_moment, second_moment, .. } = arena.arenas;
    let rounded: Vec<S> = gpu.read(parameters).into_iter().map(S::from_f32).collect();
    assert_eq!(gpu.read(stored), rounded, "{}: the stored copy", case.name);
    let mut results = Results::default().out("norms", norms);
    let change = arena.tensors(&gpu, parameters, 7.0);
    let moments = [first_moment, second_moment].map(|moment| arena.tensors(&gpu, moment, 0.0));
    for (index, name) in ["matrix", "norm"].into_iter().enumerate() {
        let start = case.input(name);
        let change: Vec<f32> = change[index].iter().zip(start).map(|(now, s)| now - s).collect();
        results = results
            .out(&format!("change_{name}"), change)
            .out(&format!("first_moment_{name}"), moments[0][index].clone())
            .out(&format!("second_moment_{name}"), moments[1][index].clone());
    }
    results
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold("adamw", "cuda f32", cuda::<f32>);
}

/// Weights, gradients and moments are in full precision whatever the storage.
#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold("adamw", "cuda bf16", cuda::<bf16>);
}

/// The processor's coupled Adam is compared with its definition in src/cpu/adamw.rs.
#[test]
fn cuda_coupled_decay_joins_every_gradient() {
    let mut decaying = 0;
    for case in cases::<Parameters>("adamw") {
        let p = &case.parameters;
        let gpu = Gpu::new(StepBlock::default());
        let arena = Arena::<bf16> { coupled: true, ..Arena::new(&gpu, &case) };
        for step in 0..p.steps {
            let gradient = |name: &str| case.input(&format!("gradient_{name}_{step}"));
            arena.step(&gpu, p, step as u32 + 1, &gradient("matrix"), &gradient("norm"));
        }
        let found = arena.tensors(&gpu, arena.arenas.parameters, 7.0);
        let (expected, decoupled) = (on_cpu(&case, true).1, on_cpu(&case, false).1);
        for ((found, expected), decoupled) in found.iter().zip(&expected).zip(&decoupled) {
            let distance = |other: &[f32]| {
                let pairs = found.iter().zip(other);
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            // A weight moves by about a learning rate a step.
            let moved = p.steps as f32 * p.learning_rate as f32;
            let off = distance(&expected.now);
            assert!(off <= 1e-4 * moved, "{}: {} is off by {off}", case.name, expected.name);
            if p.weight_decay > 0.0 {
                decaying += 1;
                assert!(distance(&decoupled.now) > 1e-2 * moved, "{}: no other", case.name);
            }
        }
    }
    assert!(decaying > 0);
}

/// A step that is not finite changes nothing but the flag, and nothing changes any more after it.
#[test]
fn cuda_stops_at_what_is_not_finite() {
    let case = &cases::<Parameters>("adamw")[0];
    let (matrix, norm) = (case.input("gradient_matrix_0"), case.input("gradient_norm_0"));
    let mut spoiled = norm.clone();
    spoiled[52] = f32::NAN;
    for spoiled_loss in [false, true] {
        let gpu = Gpu::new(StepBlock::default());
        let arena = Arena::<bf16>::new(&gpu, case);
        let step =
            |number: u32, norm: &[f32]| arena.step(&gpu, &case.parameters, number, &matrix, norm);
        assert_eq!(step(1, &norm).skipped, 0);
        let Arenas { parameters, stored, first_moment, second_moment, .. } = arena.arenas;
        let state = || {
            let floats = [parameters, first_moment, second_moment].map(|slice| gpu.read(slice));
            (floats, gpu.read(stored))
        };
        let before = state();
        if spoiled_loss {
            let mut losses = vec![2.5; ROWS[1]];
            losses[ROWS[0] - 1] = f32::INFINITY;
            gpu.write(arena.losses, &losses);
        }
        let outcome = step(2, if spoiled_loss { &norm } else { &spoiled });
        assert_eq!((outcome.number, outcome.skipped), (2, 1));
        let at_fault = if spoiled_loss { outcome.loss } else { outcome.gradient_norm };
        assert!(!at_fault.is_finite());
        gpu.write(arena.losses, &vec![2.5; ROWS[1]]);
        let outcome = step(3, &norm);
        assert_eq!((outcome.skipped, outcome.loss), (1, 2.5), "the flag stays");
        assert_eq!(gpu.read(arena.halted), [1]);
        assert!(state() == before, "weights or moments changed");
    }
}

/// Every buffer of the wrong length is named, with both lengths, before anything is launched.
#[test]
fn cuda_refuses_wrong_lengths() {
    type Change = fn(&mut Arena<f32>);
    let case = &cases::<Parameters>("adamw")[0];
    let gpu = Gpu::new(StepBlock::default());
    let whole = Arena::<f32>::new(&gpu, case);
    let len = whole.arenas.parameters.len;
    let constants = on_gpu::AdamW {
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        weight_decay: 0.0,
        coupled: false,
        clip_norm: None,
    };
    let norm = |change: Change| {
        let mut arena = Arena { ..whole };
        change(&mut arena);
        let refused = on_gpu::gradient_norm(gpu.launcher(), arena.arenas, arena.squares);
        refused.unwrap_err().to_string()
    };
    let update = |change: Change| {
        let mut arena = Arena { ..whole };
        change(&mut arena);
        let Arena { arenas, squares, losses, halted, outcomes, .. } = arena;
        let rows = count(Size::Rows, ROWS[1]);
        let launcher = gpu.launcher();
        on_gpu::update(launcher, constants, arenas, squares, rows, losses, halted, outcomes)
            .unwrap_err()
            .to_string()
    };
    let odd: Change = |arena| arena.arenas.parameters.len -= 1;
    let of_arenas: [(&str, Change); 4] = [
        ("stored weights", |arena| arena.arenas.stored.len -= 4),
        ("gradient", |arena| arena.arenas.gradient.len -= 4),
        ("first moment", |arena| arena.arenas.first_moment.len -= 4),
        ("second moment", |arena| arena.arenas.second_moment.len -= 4),
    ];
    for (buffer, change) in of_arenas {
        let lengths = format!("{buffer}: has {} elements where {len} belong", len - 4);
        for (operation, error) in [("gradient norm", norm(change)), ("adamw", update(change))] {
            assert!(error.contains(&format!("{operation}: {lengths}")), "{error}");
        }
    }
    for (operation, error) in [("gradient norm", norm(odd)), ("adamw", update(odd))] {
        let expected =
            format!("{operation}: arena: has {} elements, which is no multiple", len - 1);
        assert!(error.contains(&expected), "{error}");
    }
    assert!(norm(|arena| arena.squares.len -= 1).contains("gradient norm: squares: has"));
    for (buffer, change) in [
        ("squares", (|arena| arena.squares.len -= 1) as Change),
        ("losses", |arena| arena.losses.len -= 1),
        ("halted", |arena| arena.halted.len = 0),
        ("outcomes", |arena| arena.outcomes.len -= 1),
    ] {
        let error = update(change);
        assert!(error.contains(&format!("adamw: {buffer}: has")), "{error}");
    }
}
