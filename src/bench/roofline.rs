//! A model of a training step on a GPU: what each kernel must move and multiply, counted from the shapes of a
//! real batch, and the least time that takes at a chip's peak rates. Not a measurement.

mod shape;

use super::workload::Workload;
use crate::Result;
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use shape::MODELS;
pub use shape::Shape;

/// Bytes of an activation or of a weight that a product reads.
const STORED: f64 = 2.0;
/// Bytes of a gradient, a moment or a master weight.
const FULL: f64 = 4.0;

/// Peak rates as its maker states them, without sparsity.
#[derive(Clone, Copy, Debug)]
pub struct Chip {
    /// As given on the command line.
    pub name: &'static str,
    /// bf16 FLOPs a second of the tensor cores, with f32 accumulation.
    flops: f64,
    /// Bytes a second of the memory.
    bandwidth: f64,
    /// Exponentials a second: 16 a clock and multiprocessor.
    exponentials: f64,
}

/// Chips whose rates are known.
pub const CHIPS: [Chip; 4] = [
    Chip { name: "A100", flops: 312e12, bandwidth: 2.04e12, exponentials: 2.44e12 },
    Chip { name: "H100", flops: 990e12, bandwidth: 3.35e12, exponentials: 3.9e12 },
    Chip { name: "H200", flops: 990e12, bandwidth: 4.8e12, exponentials: 3.9e12 },
    Chip { name: "L4", flops: 121e12, bandwidth: 0.3e12, exponentials: 1.9e12 },
];

/// What a kernel does in one step, over all its launches.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Its name, without class and storage.
    pub kernel: &'static str,
    /// Launches.
    pub launches: usize,
    /// Floating-point operations of matrix products.
    pub flops: f64,
    /// Bytes read from and written to memory, each tensor once.
    pub bytes: f64,
    /// Exponentials.
    pub exponentials: f64,
}

impl Work {
    /// Seconds at the chip's peak rates.
    pub fn least_seconds(&self, chip: &Chip) -> f64 {
        let rates = [
            self.flops / chip.flops,
            self.bytes / chip.bandwidth,
            self.exponentials / chip.exponentials,
        ];
        rates.into_iter().fold(0.0, f64::max)
    }
}

/// Adds up the work of one kernel over several calls.
struct Ledger(Vec<Work>);

impl Ledger {
    /// `elements` of activations and weights as products read them, `full` bytes of anything else.
    fn add(
        &mut self,
        kernel: &'static str,
        flops: f64,
        elements: f64,
        full: f64,
        exponentials: f64,
    ) {
        let bytes = STORED * elements + full;
        match self.0.iter_mut().find(|work| work.kernel == kernel) {
            Some(work) => {
                work.launches += 1;
                work.flops += flops;
                work.bytes += bytes;
                work.exponentials += exponentials;
            }
            None => self.0.push(Work { kernel, launches: 1, flops, bytes, exponentials }),
        }
    }
}

/// The kernels of a step for norms after the sublayers, tied tables, the softmax over all items and D up to 256, in the
/// order of their first launch.
pub fn step(shape: &Shape) -> Vec<Work> {
    let Shape { tokens: t, rows: p, width: d, items: v, parameters, .. } = *shape;
    let mut ledger = Ledger(Vec::new());
    ledger.add("embedding_forward", 0.0, 4.0 * t * d, 12.0 * t, 0.0);
    for layer in 0..shape.layers {
        forward_layer(&mut ledger, shape, layer + 1 == shape.layers);
    }
    ledger.add("head_forward", 2.0 * p * d * d, 4.0 * p * d + d * d, FULL * p, 0.0);
    item_softmax(&mut ledger, shape);
    ledger.add("head_backward", 2.0 * p * d * d, 5.0 * p * d + d * d, FULL * p, 0.0);
    for layer in (0..shape.layers).rev() {
        backward_layer(&mut ledger, shape, layer + 1 == shape.layers);
    }
    ledger.add("embedding_backward", 0.0, 3.0 * t * d, FULL * t, 0.0);
    let table = (v + 2.0) * d;
    ledger.add(
        "item_softmax_table",
        4.0 * p * d * v,
        table + 2.0 * p * d,
        FULL * (table + v),
        p * v,
    );
    ledger.add("embedding_tables", 0.0, 2.0 * t * d, 8.0 * t, 0.0);
    ledger.add("gradient_norm", 0.0, 0.0, FULL * parameters, 0.0);
    // Reads gradient, weight and both moments; writes weight, moments and the copy that products read.
    ledger.add("adamw_update", 0.0, parameters, 7.0 * FULL * parameters, 0.0);
    ledger.0
}

/// Rows and pairs of queries and keys of a layer.
fn queries(shape: &Shape, last: bool) -> (f64, f64) {
    if last { (shape.rows, shape.row_pairs) } else { (shape.tokens, shape.pairs) }
}

fn forward_layer(ledger: &mut Ledger, shape: &Shape, last: bool) {
    let Shape { tokens: t, width: d, inner: f, heads, .. } = *shape;
    let (q, pairs) = queries(shape, last);
    ledger.add(
        "qkv_forward",
        2.0 * q * d * d + 4.0 * t * d * d,
        t * d + q * d + 2.0 * t * d + 3.0 * d * d,
        0.0,
        0.0,
    );
    ledger.add(
        "attention_forward",
        4.0 * pairs * d,
        2.0 * q * d + 2.0 * t * d,
        FULL * q * heads,
        pairs * heads,
    );
    ledger.add("projection_forward", 2.0 * q * d * d, 4.0 * q * d + d * d, FULL * q, 0.0);
    ledger.add("ffn_forward", 4.0 * q * d * f, 3.0 * q * d + q * f + 2.0 * d * f, FULL * q, q * f);
}

fn item_softmax(ledger: &mut Ledger, shape: &Shape) {
    let Shape { rows: p, width: d, items: v, .. } = *shape;
    let read = p * d + v * d;
    ledger.add("item_softmax_forward", 2.0 * p * d * v, read, FULL * (3.0 * p + v), p * v);
    // What blocks found in their splits of the items, counted for one split, is put together with the target's bias.
    ledger.add("item_softmax_combine", 0.0, 0.0, FULL * 7.0 * p, 0.0);
    // Logits are made again.
    let full = FULL * (p + v);
    ledger.add("item_softmax_rows", 4.0 * p * d * v, read, full + FULL * p * d, p * v);
    ledger.add("item_softmax_rows_combine", 0.0, p * d, FULL * p * d, 0.0);
}

fn backward_layer(ledger: &mut Ledger, shape: &Shape, last: bool) {
    let Shape { tokens: t, width: d, inner: f, heads, .. } = *shape;
    let (q, pairs) = queries(shape, last);
    // The head's map shares the last layer's launch.
    let head_rows = if last { shape.rows } else { 0.0 };
    ledger.add(
        "ffn_backward",
        4.0 * q * d * f,
        4.0 * q * d + 2.0 * q * f + 2.0 * d * f,
        FULL * q,
        q * f,
    );
    ledger.add(
        "linear_gradients",
        4.0 * q * d * f + 2.0 * head_rows * d * d,
        2.0 * q * d + 2.0 * q * f + 2.0 * head_rows * d,
        2.0 * FULL * d * f + if last { FULL * d * d } else { 0.0 },
        q * f,
    );
    ledger.add("projection_backward", 2.0 * q * d * d, 5.0 * q * d + d * d, FULL * q, 0.0);
    // Seven products instead of five: both roles make the probabilities and their gradients again.
    ledger.add(
        "attention_backward",
        14.0 * pairs * d,
        4.0 * q * d + 4.0 * t * d,
        FULL * q * heads,
        2.0 * pairs * heads,
    );
    ledger.add(
        "qkv_backward",
        2.0 * q * d * d + 4.0 * t * d * d,
        2.0 * q * d + 3.0 * t * d + 3.0 * d * d,
        0.0,
        0.0,
    );
    ledger.add(
        "linear_gradients",
        4.0 * q * d * d + 4.0 * t * d * d,
        4.0 * q * d + 3.0 * t * d,
        4.0 * FULL * d * d,
        0.0,
    );
}

/// Prints the table of a preset's first batch, or of a model of common benchmarks, on the chip of this name.
///
/// # Errors
/// [`crate::Error::Config`] for an unknown preset.
pub fn print(name: &str, chip: &str) -> Result<()> {
    let Some(chip) = CHIPS.iter().find(|known| known.name == chip) else { return Ok(()) };
    let shape = match MODELS.iter().find(|model| model.name == name) {
        Some(model) => model.shape(),
        None => Shape::of(&Workload::preset(name)?)?,
    };
    println!(
        "{name}: T {}, P {}, D {}, N {}, V {}; {} at its peak rates (a model, not a measurement)\n",
        shape.tokens, shape.rows, shape.width, shape.layers, shape.items, chip.name
    );
    println!("{}\n", table(&step(&shape), chip, shape.tokens));
    Ok(())
}

fn table(kernels: &[Work], chip: &Chip, tokens: f64) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["kernel", "launches", "MFLOP", "MB", "FLOP/byte", "least µs", "limit"]);
    let mut seconds = 0.0;
    for work in kernels {
        let least = work.least_seconds(chip);
        seconds += least;
        let limit = if least == work.bytes / chip.bandwidth {
            "memory"
        } else if least == work.flops / chip.flops {
            "tensor cores"
        } else {
            "exponentials"
        };
        table.add_row([
            work.kernel.to_string(),
            work.launches.to_string(),
            format!("{:.0}", work.flops / 1e6),
            format!("{:.1}", work.bytes / 1e6),
            format!("{:.0}", work.flops / work.bytes),
            format!("{:.1}", least * 1e6),
            limit.to_string(),
        ]);
    }
    let launches: usize = kernels.iter().map(|work| work.launches).sum();
    let [flops, bytes] = [|work: &Work| work.flops, |work: &Work| work.bytes]
        .map(|of| kernels.iter().map(of).sum::<f64>());
    table.add_row([
        "whole step".to_string(),
        launches.to_string(),
        format!("{:.0}", flops / 1e6),
        format!("{:.1}", bytes / 1e6),
        format!("{:.0}", flops / bytes),
        format!("{:.1}", seconds * 1e6),
        format!("{:.1} M tokens/s", tokens / seconds / 1e6),
    ]);
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three times the forward products of every layer, softmax and head, plus what is computed twice.
    #[test]
    fn products_add_up() {
        for model in &MODELS {
            let shape = model.shape();
            let Shape { tokens: t, rows: p, pairs, row_pairs, width: d, inner: f, .. } = shape;
            let (full, last) = (shape.layers as f64 - 1.0, 1.0);
            let products = |q: f64| 4.0 * t * d * d + 4.0 * q * d * d + 4.0 * q * d * f;
            let layers = full * products(t) + last * products(p);
            let attention = (full * pairs + last * row_pairs) * d;
            // Attention: 4 forward, 14 backward; item softmax: logits three times, two products of gradients.
            let expected = 3.0 * layers
                + 18.0 * attention
                + 10.0 * p * d * shape.items
                + 3.0 * 2.0 * p * d * d;
            let got: f64 = step(&shape).iter().map(|work| work.flops).sum();
            assert!((got / expected - 1.0).abs() < 1e-12, "{}: {got:e}, {expected:e}", model.name);
        }
    }

    #[test]
    fn launches_are_those_of_a_step() {
        for model in &MODELS {
            let launches: usize = step(&model.shape()).iter().map(|work| work.launches).sum();
            assert_eq!(launches, 10 * model.n_layers + 12);
        }
    }
}
