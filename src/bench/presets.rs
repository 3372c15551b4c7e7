//! Shapes that are measured: those of public data sets, with histories drawn to match.

use crate::config::{BatchSize, ModelConfig, TrainConfig};
use crate::data::{Sequences, Split};
use crate::{Error, Result, philox};

/// Sizes of a measured configuration.
pub struct Preset {
    /// A, B, C or D.
    pub name: &'static str,
    /// `V`
    pub items: usize,
    /// Histories.
    pub users: usize,
    lengths: Lengths,
    /// `L`
    pub max_len: usize,
    /// `D`
    pub hidden_size: usize,
    /// `H`
    pub n_heads: usize,
    /// `B`
    pub sequences: usize,
}

/// How history lengths are distributed.
enum Lengths {
    /// Median, mean, least.
    LogNormal(f64, f64, f64),
    /// Mean, least.
    Geometric(f64, f64),
}

/// A: ml-100k; B: ml-1m; C: Beauty (short histories); D: ML-20M, width 256.
pub const PRESETS: [Preset; 4] = [
    Preset {
        name: "A",
        items: 1682,
        users: 943,
        lengths: Lengths::LogNormal(65.0, 106.0, 20.0),
        max_len: 50,
        hidden_size: 64,
        n_heads: 2,
        sequences: 128,
    },
    Preset {
        name: "B",
        items: 3416,
        users: 6040,
        lengths: Lengths::LogNormal(96.0, 165.0, 20.0),
        max_len: 200,
        hidden_size: 64,
        n_heads: 2,
        sequences: 128,
    },
    Preset {
        name: "C",
        items: 12_101,
        users: 22_363,
        lengths: Lengths::Geometric(8.9, 3.0),
        max_len: 50,
        hidden_size: 64,
        n_heads: 2,
        sequences: 256,
    },
    Preset {
        name: "D",
        items: 26_744,
        users: 20_000,
        lengths: Lengths::LogNormal(68.0, 144.0, 20.0),
        max_len: 200,
        hidden_size: 256,
        n_heads: 8,
        sequences: 64,
    },
];

impl Preset {
    /// The preset of this name.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none.
    pub fn find(name: &str) -> Result<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
            Error::config("configs", format!("no preset `{name}`"), "use A, B, C or D")
        })
    }

    /// Its network, with hidden dropout of 0.1.
    pub fn model(&self, attention_dropout: f64) -> ModelConfig {
        ModelConfig {
            hidden_size: self.hidden_size,
            n_heads: self.n_heads,
            inner_size: 4 * self.hidden_size,
            max_len: self.max_len,
            hidden_dropout: 0.1,
            attention_dropout,
            ..ModelConfig::default()
        }
    }

    /// How it is trained.
    pub fn train(&self) -> TrainConfig {
        TrainConfig {
            batch_size: BatchSize::Sequences(self.sequences),
            last_item_ratio: 0.0,
            weight_decay: 0.01,
            ..TrainConfig::default()
        }
    }

    /// Its histories, of which the first `L` items train.
    pub fn data(&self) -> (Sequences, Split) {
        let sequences = synthetic(self);
        let lengths = sequences.offsets.windows(2).map(|w| (w[1] - w[0]) as u32);
        let train_lengths = lengths.map(|n| n.min(self.max_len as u32)).collect();
        (sequences, Split { train_lengths, ..Split::default() })
    }
}

/// Histories whose lengths follow the preset's law and whose items fall off like real popularity.
fn synthetic(preset: &Preset) -> Sequences {
    let mut counter = 0;
    let mut uniform = || {
        counter += 1;
        philox::unit(philox::block(philox::key(7), [counter, 0, 0, 0])[0])
    };
    let weights = (0..preset.items).map(|i| (i as f64 + 10.0).powf(-0.8));
    let cumulative: Vec<f64> = weights
        .scan(0.0, |sum, w| {
            *sum += w;
            Some(*sum)
        })
        .collect();
    let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
    for _ in 0..preset.users {
        let length = match preset.lengths {
            Lengths::LogNormal(median, mean, least) => {
                let normal =
                    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
                (median.ln() + (2.0 * (mean / median).ln()).sqrt() * normal).exp().max(least)
            }
            Lengths::Geometric(mean, least) => {
                least + (uniform().ln() / (1.0 - 1.0 / (mean - least + 1.0)).ln()).floor()
            }
        };
        for _ in 0..(length as usize).min(preset.items) {
            let at = uniform() * cumulative[preset.items - 1];
            let item = cumulative.partition_point(|&c| c < at).min(preset.items - 1);
            sequences.items.push(item as u32 + 1);
        }
        sequences.offsets.push(sequences.items.len() as u64);
    }
    sequences
}
