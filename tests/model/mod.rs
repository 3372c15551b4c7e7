//! The whole model against PyTorch in float64: gradients of every parameter under all options, training
//! steps replayed, and parameter names.

use crate::util::fixture::{Case, Dropout, Results, activation, cases, hold, segments};
use crate::util::tolerance::LOSS;
use b4r::batch::Batch;
use b4r::config::{ModelConfig, NormPlacement, Objective, Positions, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::cpu::lane::Randomness;
use b4r::model::engine::{Engine, State, Step};
use b4r::model::params::ParameterTable;
use serde::Deserialize;
use std::collections::BTreeMap;

pub mod cuda; // the same of the CUDA engine, and what it must have in common with the CPU's
pub mod every_kernel; // small steps that launch each of them, for sanitizers
pub mod losses; // losses over a sample of the items

#[derive(Deserialize)]
struct Model {
    hidden_size: usize,
    n_layers: usize,
    n_heads: usize,
    inner_size: usize,
    max_len: usize,
    hidden_act: String,
    norm: String,
    positions: String,
    tied: bool,
    #[serde(default)]
    causal: bool,
    layer_norm_eps: f64,
    items: usize,
    lengths: Vec<u32>,
}

impl Model {
    fn config(&self, dropout: Option<&Dropout>) -> ModelConfig {
        ModelConfig {
            hidden_size: self.hidden_size,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            inner_size: self.inner_size,
            max_len: self.max_len,
            hidden_act: activation(&self.hidden_act),
            norm: if self.norm == "pre" { NormPlacement::Pre } else { NormPlacement::Post },
            positions: match self.positions.as_str() {
                "from_end" => Positions::FromEnd,
                _ => Positions::Absolute,
            },
            tied: self.tied,
            objective: if self.causal { Objective::Causal } else { Objective::Cloze },
            hidden_dropout: dropout.map_or(0.0, |dropout| dropout.hidden_dropout),
            attention_dropout: dropout.map_or(0.0, |dropout| dropout.attention_dropout),
            layer_norm_eps: self.layer_norm_eps as f32,
            ..ModelConfig::default()
        }
    }

    /// The packed batch whose integers are called `<prefix>ids` and so on.
    fn batch<P>(&self, case: &Case<P>, prefix: &str) -> Batch {
        let of = |name: &str| case.integers(&format!("{prefix}{name}")).to_vec();
        let (ids, rows, targets) = (of("ids"), of("rows"), of("targets"));
        let (mut cu_seqlens, mut cu_rows) = (vec![0], vec![0]);
        let mut end = 0;
        for length in &self.lengths {
            end += length;
            cu_seqlens.push(end);
            cu_rows.push(rows.partition_point(|&row| row < end) as u32);
        }
        Batch {
            positions: of("positions"),
            cu_seqlens,
            cu_rows,
            token_segments: segments(&ids),
            target_segments: segments(&targets),
            ids,
            rows,
            targets,
        }
    }
}

/// A CPU engine with the case's weights.
fn engine<P>(
    case: &Case<P>,
    model: &ModelConfig,
    train: &TrainConfig,
    items: usize,
    threads: usize,
) -> CpuEngine {
    with_weights(case, CpuEngine::new(model, train, items, threads).unwrap())
}

/// The engine with the case's weights. Its parameter table must hold exactly the tensors of PyTorch's state
/// dict.
fn with_weights<P, E: Engine>(case: &Case<P>, mut engine: E) -> E {
    let shapes: BTreeMap<_, _> =
        case.inputs.iter().map(|input| (input.name.clone(), input.shape.clone())).collect();
    assert_eq!(names_and_shapes(engine.table()), shapes, "{}", case.name);
    let mut parameters = vec![0.0; engine.table().total];
    for tensor in &engine.table().tensors {
        parameters[tensor.range()].copy_from_slice(&case.input(&tensor.name));
    }
    let zeros = vec![0.0; parameters.len()];
    engine
        .load_state(&State { parameters, first_moment: zeros.clone(), second_moment: zeros })
        .unwrap();
    engine
}

fn names_and_shapes(table: &ParameterTable) -> BTreeMap<String, Vec<usize>> {
    table.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
}

#[derive(Deserialize)]
struct GradientCase {
    #[serde(flatten)]
    model: Model,
    #[serde(flatten)]
    dropout: Dropout,
}

fn cpu_gradients(case: &Case<GradientCase>) -> Results {
    let GradientCase { model, dropout } = &case.parameters;
    let config = model.config(Some(dropout));
    let mut engine = engine(case, &config, &TrainConfig::default(), model.items, 2);
    let batch = model.batch(case, "");
    let drops = dropout.hidden_dropout > 0.0 || dropout.attention_dropout > 0.0;
    let randomness = Randomness { seed: dropout.dropout_seed, step: dropout.step };
    // What an earlier step left in the buffers must not matter.
    engine.loss_and_gradient(&batch, Some(Randomness { seed: 1, step: 1 }));
    let loss = engine.loss_and_gradient(&batch, drops.then_some(randomness));
    results(engine.table(), loss, engine.gradient())
}

fn results(table: &ParameterTable, loss: f64, gradient: &[f32]) -> Results {
    let results = Results::default().out("loss", [loss as f32]);
    let tensors = table.tensors.iter();
    tensors.fold(results, |results, tensor| results.grad(&tensor.name, &gradient[tensor.range()]))
}

#[test]
fn cpu_gradients_agree_with_pytorch() {
    hold("model", "cpu", cpu_gradients);
}

/// The same address gives the same bits, whatever the threads; another step or seed gives other masks.
#[test]
fn dropout_is_reproducible() {
    let cases = cases::<GradientCase>("model");
    let case = cases.iter().find(|case| case.name == "post_dropout").unwrap();
    let GradientCase { model, dropout } = &case.parameters;
    let config = model.config(Some(dropout));
    let batch = model.batch(case, "");
    let run = |threads, randomness| {
        let mut engine = engine(case, &config, &TrainConfig::default(), model.items, threads);
        let loss = engine.loss_and_gradient(&batch, randomness);
        (loss, engine.gradient().to_vec())
    };
    let at = |seed, step| Some(Randomness { seed, step });
    let first = run(1, at(5, 9));
    assert!(first == run(1, at(5, 9)) && first == run(3, at(5, 9)), "other bits");
    for other in [at(5, 10), at(6, 9), None] {
        assert_ne!(first.0, run(1, other).0, "{other:?}");
    }
}

#[derive(Deserialize)]
struct TrainingCase {
    steps: u64,
    learning_rate: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    #[serde(flatten)]
    model: Model,
    #[serde(flatten)]
    dropout: Dropout,
}

impl TrainingCase {
    fn config(&self) -> TrainConfig {
        TrainConfig {
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            ..TrainConfig::default()
        }
    }
}

/// Holds the losses and gradient norms of ten steps to PyTorch's.
fn replay(case: &Case<TrainingCase>, engine: &mut dyn Engine) {
    let p = &case.parameters;
    for number in 1..=p.steps {
        let batch = p.model.batch(case, &format!("{number}."));
        let learning_rate = p.learning_rate as f32;
        let step = Step { number, seed: p.dropout.dropout_seed, learning_rate };
        engine.train_step(&batch, &step).unwrap();
    }
    let (mut worst_loss, mut worst_norm) = (0.0f64, 0.0f64);
    let outcomes = engine.outcomes(true).unwrap();
    assert_eq!(outcomes.len() as u64, p.steps);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let at = |name: &str| f64::from(case.expected(name).values[index]);
        let loss_error = (outcome.loss - at("out.losses")).abs();
        let norm_error = (outcome.gradient_norm / at("out.norms") - 1.0).abs();
        assert!(loss_error <= LOSS, "{}, step {}: {outcome:?}", case.name, index + 1);
        assert!(norm_error <= LOSS, "{}, step {}: {outcome:?}", case.name, index + 1);
        worst_loss = worst_loss.max(loss_error);
        worst_norm = worst_norm.max(norm_error);
    }
    println!(
        "training {}: losses within {worst_loss:.1e}, norms within {worst_norm:.1e}",
        case.name
    );
}

/// The losses and gradient norms of ten steps stay with PyTorch's, without and with dropout, decay, clipping.
#[test]
fn cpu_training_agrees_with_pytorch() {
    for case in cases::<TrainingCase>("training") {
        let p = &case.parameters;
        let model = p.model.config(Some(&p.dropout));
        replay(&case, &mut engine(&case, &model, &p.config(), p.model.items, 2));
    }
}

#[derive(Deserialize)]
struct NamesCase {
    state: BTreeMap<String, Vec<usize>>,
    #[serde(flatten)]
    model: Model,
}

/// Names and shapes as a PyTorch state dict of RecBole's modules lists them.
#[test]
fn parameters_are_named_as_in_pytorch() {
    for case in cases::<NamesCase>("names") {
        let model = &case.parameters.model;
        let table = ParameterTable::new(&model.config(None), model.items);
        assert_eq!(names_and_shapes(&table), case.parameters.state, "{}", case.name);
    }
}
