//! What a step's work is counted from: sizes of a batch and its model.

use crate::Result;
use crate::batch::Batch;
use crate::bench::workload::{Lengths, Workload};
use crate::config::ModelConfig;
use crate::model::params::ParameterTable;

/// Sizes of one batch and its model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// `T`
    pub tokens: f64,
    /// `P`
    pub rows: f64,
    /// Pairs of query and key over all sequences where every token asks.
    pub pairs: f64,
    /// The same where only the rows ask.
    pub row_pairs: f64,
    /// `D`
    pub width: f64,
    /// `H`
    pub heads: f64,
    /// `F`
    pub inner: f64,
    /// `V`
    pub items: f64,
    /// `N`
    pub layers: usize,
    /// Elements of the arena.
    pub parameters: f64,
}

impl Shape {
    /// Of a workload's first batch.
    ///
    /// # Errors
    /// Those of reading its histories.
    pub fn of(workload: &Workload) -> Result<Self> {
        let (batch, items) = workload.first_batch()?;
        Ok(Shape::new(&batch, &workload.model(0.1), items))
    }

    /// Of a batch.
    pub fn new(batch: &Batch, model: &ModelConfig, items: usize) -> Self {
        let spans = |bounds: &[u32]| -> Vec<f64> {
            bounds.windows(2).map(|pair| f64::from(pair[1] - pair[0])).collect()
        };
        let (lengths, rows) = (spans(&batch.cu_seqlens), spans(&batch.cu_rows));
        Shape {
            tokens: batch.token_count() as f64,
            rows: batch.row_count() as f64,
            pairs: lengths.iter().map(|length| length * length).sum(),
            row_pairs: lengths.iter().zip(&rows).map(|(length, rows)| length * rows).sum(),
            width: model.hidden_size as f64,
            heads: model.n_heads as f64,
            inner: model.inner_size as f64,
            items: items as f64,
            layers: model.n_layers,
            parameters: ParameterTable::count(model, items) as f64,
        }
    }
}

/// A model and its batch.
pub struct Model {
    /// As given on the command line.
    pub name: &'static str,
    /// `N`
    pub n_layers: usize,
    hidden_size: usize,
    n_heads: usize,
    inner_size: usize,
    items: usize,
    max_len: usize,
    sequences: usize,
    /// Of histories, cut at `max_len`; `None`: all sequences are that long.
    lengths: Option<Lengths>,
    tied: bool,
}

/// Share of the tokens that is masked.
const MASKED: f64 = 0.2;

const ML_25M: Model = Model {
    name: "ML-25M",
    hidden_size: 128,
    n_heads: 4,
    n_layers: 6,
    inner_size: 2048,
    items: 59_047,
    max_len: 512,
    sequences: 128,
    lengths: None,
    tied: true,
};

/// Models of common benchmarks, from small and narrow to a million items.
pub const MODELS: [Model; 6] = [
    Model {
        name: "ML-1M",
        hidden_size: 64,
        n_heads: 2,
        n_layers: 2,
        inner_size: 256,
        items: 3418,
        max_len: 200,
        sequences: 256,
        lengths: None,
        tied: true,
    },
    Model {
        name: "ML-20M",
        hidden_size: 256,
        n_heads: 8,
        n_layers: 2,
        inner_size: 1024,
        items: 26_746,
        max_len: 200,
        sequences: 256,
        lengths: None,
        tied: true,
    },
    ML_25M,
    Model { name: "ML-25M-packed", lengths: Some(Lengths::LogNormal(71.0, 154.0, 20.0)), ..ML_25M },
    // Small batches with tables of their own for input and output.
    Model { name: "ML-25M-120", max_len: 120, sequences: 32, tied: false, ..ML_25M },
    Model {
        name: "V-1M",
        hidden_size: 128,
        n_heads: 4,
        n_layers: 2,
        inner_size: 512,
        items: 1_000_000,
        max_len: 100,
        sequences: 1024,
        lengths: None,
        tied: true,
    },
];

impl Model {
    /// A fifth of the positions is masked.
    pub fn shape(&self) -> Shape {
        let model = ModelConfig {
            hidden_size: self.hidden_size,
            n_heads: self.n_heads,
            n_layers: self.n_layers,
            inner_size: self.inner_size,
            max_len: self.max_len,
            tied: self.tied,
            ..ModelConfig::default()
        };
        let full = || vec![self.max_len; self.sequences];
        let draw = |law: Lengths| law.draw_many(self.sequences, self.max_len);
        let lengths = self.lengths.map_or_else(full, draw);
        let tokens = lengths.iter().sum::<usize>() as f64;
        let pairs = lengths.iter().map(|length| length * length).sum::<usize>() as f64;
        Shape {
            tokens,
            rows: (MASKED * tokens).round(),
            pairs,
            row_pairs: MASKED * pairs,
            width: self.hidden_size as f64,
            heads: self.n_heads as f64,
            inner: self.inner_size as f64,
            items: self.items as f64,
            layers: self.n_layers,
            parameters: ParameterTable::count(&model, self.items) as f64,
        }
    }
}
