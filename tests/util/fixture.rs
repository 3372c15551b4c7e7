//! Reads the fixtures that `tests/fixtures/make.py` wrote and holds computations to them.

use super::draw;
use super::tolerance::{Bf16Error, Expected, Nearness};
use b4r::batch::Segments;
use b4r::config::Activation;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// One case: its parameters `P`, inputs by name and what should come of them.
pub struct Case<P> {
    /// Unique within its file.
    pub name: String,
    /// What the file says of it, as a type of the test's.
    pub parameters: P,
    seed: u64,
    /// Float inputs, in the order in which they were drawn.
    pub inputs: Vec<Input>,
    integers: BTreeMap<String, Vec<u32>>,
    expected: BTreeMap<String, Expected>,
    bf16: BTreeMap<String, Bf16Error>,
}

/// How a float input is drawn.
#[derive(Clone, Debug, Deserialize)]
pub struct Input {
    /// Its name within the case.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    scale: f64,
    offset: f64,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    seed: u64,
    inputs: Vec<Input>,
}

/// Dropout of a case.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Dropout {
    /// Probability at hidden sites.
    pub hidden_dropout: f64,
    /// Probability in attention.
    pub attention_dropout: f64,
    /// Seed of the run.
    pub dropout_seed: u64,
    /// Optimizer step.
    pub step: u64,
}

/// Results of a computation, named as in the fixture: `out.<name>` and `grad.<name>`.
#[derive(Default)]
pub struct Results(BTreeMap<String, Vec<f32>>);

impl Results {
    /// Adds an output.
    pub fn out(mut self, name: &str, values: impl Into<Vec<f32>>) -> Self {
        self.0.insert(format!("out.{name}"), values.into());
        self
    }

    /// Adds the gradient of an input.
    pub fn grad(mut self, name: &str, values: impl Into<Vec<f32>>) -> Self {
        self.0.insert(format!("grad.{name}"), values.into());
        self
    }

    /// What was added as `out.<name>` or `grad.<name>`.
    pub fn get(&self, name: &str) -> &[f32] {
        &self.0[name]
    }
}

/// How near an engine came to a case.
pub struct Row {
    /// Name of the case.
    pub case: String,
    /// Name and sizes of its first input.
    pub shape: String,
    /// Whether the bounds are those for bf16.
    pub bf16: bool,
    /// Over all tensors.
    pub nearness: Nearness,
    /// Whether every tensor is within bounds.
    pub holds: bool,
}

thread_local! {
    static ROWS: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
}

/// A row for each case that this thread has held since it last asked.
pub fn take_rows() -> Vec<Row> {
    ROWS.take()
}

/// All cases of `tests/fixtures/<file>.safetensors`.
pub fn cases<P: DeserializeOwned>(file: &str) -> Vec<Case<P>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(file)
        .with_extension("safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let described = &metadata.metadata().as_ref().unwrap()["cases"];
    let described: Vec<serde_json::Value> = serde_json::from_str(described).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    described.into_iter().map(|value| case(value, &tensors)).collect()
}

fn case<P: DeserializeOwned>(described: serde_json::Value, tensors: &SafeTensors) -> Case<P> {
    let header: Header = serde_json::from_value(described.clone()).unwrap();
    let mut case = Case {
        parameters: serde_json::from_value(described).unwrap(),
        seed: header.seed,
        inputs: header.inputs,
        integers: BTreeMap::new(),
        expected: BTreeMap::new(),
        bf16: BTreeMap::new(),
        name: header.name,
    };
    let prefix = format!("{}/", case.name);
    for (name, view) in tensors.iter() {
        let Some(name) = name.strip_prefix(&prefix) else { continue };
        if let Some(name) = name.strip_prefix("int.") {
            case.integers.insert(name.to_string(), integers(&view));
        } else if let Some(name) = name.strip_suffix(".bf16") {
            let [largest, norm, reference] = doubles(&view).try_into().unwrap();
            case.bf16.insert(name.to_string(), Bf16Error { largest, norm, reference });
        } else if let Some(name) = name.strip_suffix(".summary") {
            let part = |part: &str| tensors.tensor(&format!("{prefix}{name}.{part}")).unwrap();
            let expected = summary(&doubles(&view), &part("rows"), &part("values"));
            case.expected.insert(name.to_string(), expected);
        } else if !name.ends_with(".rows") && !name.ends_with(".values") {
            case.expected.insert(name.to_string(), whole(&view));
        }
    }
    case
}

fn whole(view: &TensorView) -> Expected {
    let values = floats(view);
    let width = view.shape().last().copied().unwrap_or(1);
    let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let count = values.len() / width;
    Expected { width, count, norm, rows: (0..count as u32).collect(), values, projections: None }
}

fn summary(summary: &[f64], rows: &TensorView, values: &TensorView) -> Expected {
    let [width, count, norm, projections @ ..] = summary else { panic!("a short summary") };
    Expected {
        width: *width as usize,
        count: *count as usize,
        norm: *norm,
        rows: integers(rows),
        values: floats(values),
        projections: Some(projections.try_into().unwrap()),
    }
}

fn elements<const N: usize, T>(
    view: &TensorView,
    dtype: Dtype,
    f: impl Fn([u8; N]) -> T,
) -> Vec<T> {
    assert_eq!(view.dtype(), dtype);
    view.data().as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect()
}

fn floats(view: &TensorView) -> Vec<f32> {
    elements(view, Dtype::F32, f32::from_le_bytes)
}

fn doubles(view: &TensorView) -> Vec<f64> {
    elements(view, Dtype::F64, f64::from_le_bytes)
}

fn integers(view: &TensorView) -> Vec<u32> {
    elements(view, Dtype::U32, u32::from_le_bytes)
}

impl<P> Case<P> {
    /// Draws a float input.
    pub fn input(&self, name: &str) -> Vec<f32> {
        let input = self.described(name);
        let count = input.shape.iter().product();
        draw::uniform(self.seed, name, count, input.scale as f32, input.offset as f32)
    }

    /// Sizes of a float input, outermost first.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.described(name).shape
    }

    /// A zeroed buffer of the size of a float input, for its gradient.
    pub fn zeros(&self, name: &str) -> Vec<f32> {
        vec![0.0; self.shape(name).iter().product()]
    }

    fn described(&self, name: &str) -> &Input {
        let found = self.inputs.iter().find(|input| input.name == name);
        found.unwrap_or_else(|| panic!("{}: no input {name}", self.name))
    }

    /// An integer input.
    pub fn integers(&self, name: &str) -> &[u32] {
        self.integers.get(name).unwrap_or_else(|| panic!("{}: no integers {name}", self.name))
    }

    /// A reference tensor.
    pub fn expected(&self, name: &str) -> &Expected {
        self.expected.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// The largest gradient norm of the case. A loss counts with its own gradient, 1.
    fn scale(&self) -> f64 {
        let loss = if self.expected.contains_key("out.loss") { 1.0 } else { 0.0 };
        let gradients = self.expected.iter().filter(|(name, _)| name.starts_with("grad."));
        gradients.map(|(_, gradient)| gradient.norm).fold(loss, f64::max)
    }

    /// Compares all results, by the rule for f32 or that for bf16; each expected tensor must be among them.
    /// Adds a line for each failure.
    fn compare(&self, results: &Results, bf16: bool, failures: &mut Vec<String>) -> Nearness {
        let mut worst = Nearness::default();
        for (name, expected) in self.expected.iter().filter(|(name, _)| !name.starts_with("in.")) {
            let Some(got) = results.0.get(name) else {
                failures.push(format!("{}: {name} was not computed", self.name));
                continue;
            };
            let nearness = match bf16 {
                true => expected.compare_bf16(got, &self.bf16[name], self.scale()),
                false => expected.compare(got, self.scale()),
            };
            worst = worst.worse(nearness);
            if !nearness.holds() {
                failures.push(format!(
                    "{}: {name} [{} x {}], norm {:.3e} of {:.3e}: {nearness}",
                    self.name,
                    expected.count,
                    expected.width,
                    expected.norm,
                    self.scale()
                ));
            }
        }
        worst
    }
}

/// Holds `compute` to every case of a file. The one place where an engine meets the fixtures: another engine
/// comes with another `compute`.
///
/// # Panics
/// With a line for each tensor that is out of bounds.
pub fn hold<P: DeserializeOwned>(file: &str, engine: &str, compute: impl Fn(&Case<P>) -> Results) {
    hold_all(file, engine, false, |case| Some(compute(case)));
}

/// The same for an engine that need not take every case; `None` where it does not.
///
/// # Panics
/// As [`hold`], and when the engine takes less than half of the cases.
pub fn hold_taken<P: DeserializeOwned>(
    file: &str,
    engine: &str,
    compute: impl Fn(&Case<P>) -> Option<Results>,
) {
    hold_all(file, engine, false, compute);
}

/// The same for storage in bf16, held to the error that PyTorch makes with it.
///
/// # Panics
/// As [`hold_taken`].
pub fn hold_bf16<P: DeserializeOwned>(
    file: &str,
    engine: &str,
    compute: impl Fn(&Case<P>) -> Option<Results>,
) {
    hold_all(file, engine, true, compute);
}

fn hold_all<P: DeserializeOwned>(
    file: &str,
    engine: &str,
    bf16: bool,
    compute: impl Fn(&Case<P>) -> Option<Results>,
) {
    let (mut failures, mut worst) = (Vec::new(), Nearness::default());
    let (cases, mut taken) = (cases::<P>(file), 0);
    for case in &cases {
        let Some(results) = compute(case) else { continue };
        let before = failures.len();
        let nearness = case.compare(&results, bf16, &mut failures);
        // Functions of one variable have a reference, but no drawn input.
        let input = case.inputs.first();
        let row = Row {
            case: case.name.clone(),
            shape: input.map_or("points".to_string(), |i| format!("{} {:?}", i.name, i.shape)),
            bf16,
            nearness,
            holds: failures.len() == before,
        };
        ROWS.with_borrow_mut(|rows| rows.push(row));
        worst = worst.worse(nearness);
        taken += 1;
    }
    println!("{file} on {engine}: {taken} of {} cases, at most {worst}", cases.len());
    assert!(failures.is_empty(), "{file} on {engine}:\n{}", failures.join("\n"));
    assert!(2 * taken >= cases.len(), "{file} on {engine}: {taken} of {} cases", cases.len());
}

/// The activation that a configuration calls `name`.
pub fn activation(name: &str) -> Activation {
    match name {
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => panic!("no activation {other}"),
    }
}

/// Groups indices by key, the plain way.
pub fn segments(keys: &[u32]) -> Segments {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, &key) in keys.iter().enumerate() {
        groups.entry(key).or_default().push(index as u32);
    }
    let mut out = Segments { offsets: vec![0], ..Segments::default() };
    for (key, indices) in groups {
        out.keys.push(key);
        out.indices.extend(indices);
        out.offsets.push(out.indices.len() as u32);
    }
    out
}
