//! The resolved configuration of a run: plain values, named as RecBole names them where it has a name.
//!
//! Files and flags become [`Entry`](resolve::Entry)s ([`yaml`], [`cli`]); the registry ([`keys`]) and the
//! list of RecBole's other keys ([`foreign`]) say what each means; [`resolve`](mod@resolve) merges them,
//! [`validate`](mod@validate) checks the outcome and [`explain`](mod@explain) writes it out.

pub mod cli;
pub mod evaluation;
pub mod explain;
pub mod foreign;
pub mod keys;
pub mod legacy;
pub mod parse;
pub mod protocol;
pub mod resolve;
mod settle;
pub mod training;
pub mod validate;
pub mod value;
pub mod yaml;

use std::fmt;
use std::path::PathBuf;

pub use evaluation::{
    EvalConfig, EvalUnit, Grouping, HeldOut, Metric, Mode, Negatives, Shares, SplitRule,
};
pub use explain::{differences, explain, to_yaml};
pub use protocol::Protocol;
pub use resolve::{CONFIG_FILE, Invocation, Resolved, invocation, parse, read, resolve};
pub use training::{BatchSize, Learner, Loss, Schedule, TrainConfig};
pub use validate::validate;

/// Everything a run is determined by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Which interactions to read and how.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// Batches, optimizer and stopping.
    pub train: TrainConfig,
    /// Splits, ranking and metrics.
    pub eval: EvalConfig,
    /// Where and on what the run happens; of this, only `precision` changes the result.
    pub run: RunConfig,
}

impl Config {
    /// Seed of negatives and validation users.
    pub fn eval_seed(&self) -> u64 {
        self.eval.seed.unwrap_or(self.train.seed)
    }
}

/// Which interactions to read and how to prepare them.
#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// `dataset`: a known name (`ml-100k`, ...) or a path.
    pub dataset: String,
    /// `data_path`: folder that holds `<dataset>/<dataset>.inter`, RecBole's layout.
    pub data_path: Option<PathBuf>,
    /// `format`: `None` sniffs.
    pub format: Option<DataFormat>,
    /// `field_separator` of delimited files with a header; `None` sniffs.
    pub field_separator: Option<char>,
    /// `USER_ID_FIELD`.
    pub user_field: String,
    /// `ITEM_ID_FIELD`.
    pub item_field: String,
    /// `RATING_FIELD`.
    pub rating_field: Option<String>,
    /// `TIME_FIELD`.
    pub time_field: Option<String>,
    /// `val_interval` on the rating: closed lower and upper bound.
    pub rating_interval: Option<Interval>,
    /// `user_inter_num_interval`: k-core bounds on interactions a user.
    pub user_interval: Interval,
    /// `item_inter_num_interval`: k-core bounds on interactions an item.
    pub item_interval: Interval,
    /// `rm_dup_inter`: which of several interactions of one user with one item to keep.
    pub duplicates: Duplicates,
    /// `rm_consecutive_dup`: collapse runs of the same item in a user's history.
    pub remove_consecutive: bool,
    /// `all_data`: train on every interaction; nothing is held out, so nothing is evaluated.
    pub all_data: bool,
}

/// Layout of an interaction file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// RecBole atomic file: header of `name:type`, tab separated.
    Inter,
    /// Delimited text with a header line.
    Csv,
    /// MovieLens `ratings.dat`: `user::item::rating::time`.
    RatingsDat,
    /// MovieLens `u.data`: tab separated user, item, rating, time, no header.
    UData,
    /// `user item` a line, in time order.
    Pairs,
    /// `user item item ...` a line, in time order.
    Sequences,
}

/// A numeric interval; RecBole writes `[5,inf)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Whether `low` itself belongs to it.
    pub low_closed: bool,
    /// Upper end.
    pub high: f64,
    /// Whether `high` itself belongs to it.
    pub high_closed: bool,
}

impl Interval {
    /// `[low, inf)`.
    pub fn at_least(low: f64) -> Self {
        Interval { low, low_closed: true, high: f64::INFINITY, high_closed: false }
    }

    /// Whether `x` lies inside.
    pub fn contains(&self, x: f64) -> bool {
        (x > self.low || (self.low_closed && x == self.low))
            && (x < self.high || (self.high_closed && x == self.high))
    }
}

/// What to do with several interactions of one user with one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// Keep all.
    Keep,
    /// Keep the earliest.
    First,
    /// Keep the latest.
    Last,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            dataset: "ml-100k".to_string(),
            data_path: None,
            format: None,
            field_separator: None,
            user_field: "user_id".to_string(),
            item_field: "item_id".to_string(),
            rating_field: Some("rating".to_string()),
            time_field: Some("timestamp".to_string()),
            rating_interval: None,
            user_interval: Interval::at_least(0.0),
            item_interval: Interval::at_least(0.0),
            duplicates: Duplicates::Keep,
            remove_consecutive: false,
            all_data: false,
        }
    }
}

/// The network's sizes and options.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `hidden_size`, `D`.
    pub hidden_size: usize,
    /// `n_layers`, `N`.
    pub n_layers: usize,
    /// `n_heads`, `H`; divides `hidden_size`.
    pub n_heads: usize,
    /// `inner_size`, `F`.
    pub inner_size: usize,
    /// `MAX_ITEM_LIST_LENGTH` (`max_len`), `L`.
    pub max_len: usize,
    /// `hidden_act` of the feed-forward layers; the head always has exact GELU.
    pub hidden_act: Activation,
    /// `norm`: where layer normalisation stands.
    pub norm: NormPlacement,
    /// `positions`: what the position index counts.
    pub positions: Positions,
    /// `objective`: what is predicted, and so which tokens attention sees.
    pub objective: Objective,
    /// `tie_embeddings`: whether the head multiplies by the item embedding itself.
    pub tied: bool,
    /// `hidden_dropout_prob`.
    pub hidden_dropout: f64,
    /// `attn_dropout_prob`.
    pub attention_dropout: f64,
    /// `layer_norm_eps`.
    pub layer_norm_eps: f32,
    /// `initializer_range`: standard deviation of initial weights.
    pub initializer_range: f64,
}

/// Feed-forward activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: exact, by the error function.
    Gelu,
    /// `gelu_tanh`: the tanh approximation.
    GeluTanh,
    /// `relu`.
    Relu,
}

/// Where layer normalisation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// After the residual sum, as in the paper.
    Post,
    /// Before each sublayer.
    Pre,
}

/// What the position index counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// From the first item of the window.
    Absolute,
    /// From the last item of the window.
    FromEnd,
}

/// What the network learns to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// `cloze`: masked items, from the items on both sides, as BERT4Rec does.
    Cloze,
    /// `causal`: at every item the next one, from that item and those before it, as SASRec does.
    Causal,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            hidden_size: 64,
            n_layers: 2,
            n_heads: 2,
            inner_size: 256,
            max_len: 50,
            hidden_act: Activation::Gelu,
            norm: NormPlacement::Post,
            positions: Positions::Absolute,
            objective: Objective::Cloze,
            tied: true,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
        }
    }
}

/// Where and on what the run happens; of this, only `precision` changes the result.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// `run_dir`; `None` makes one below `runs`, see [`crate::train::rundir::locate`].
    pub run_dir: Option<PathBuf>,
    /// `resume`.
    pub resume: bool,
    /// `overwrite`.
    pub overwrite: bool,
    /// `threads`; 0 takes every core.
    pub threads: usize,
    /// `device`. What `auto` chose is filled in when a run starts.
    pub device: Device,
    /// `precision`; `None`: bf16 on a GPU, f32 on the CPU. Filled in when a run starts.
    pub precision: Option<Precision>,
    /// `show_progress`.
    pub progress: Option<bool>,
    /// `log_wandb`.
    pub log_wandb: bool,
    /// `wandb_project`.
    pub wandb_project: String,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            run_dir: None,
            resume: false,
            overwrite: false,
            threads: 0,
            device: Device::default(),
            precision: None,
            progress: None,
            log_wandb: false,
            wandb_project: "b4r".to_string(),
        }
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `auto`, `auto:1`: the GPU of this number where it can, else the processor.
    Auto(u32),
    /// `cpu`: the processor.
    Cpu,
    /// `cuda`, `cuda:1`: the GPU of this number, or an error that says why not.
    Cuda(u32),
}

impl Default for Device {
    fn default() -> Self {
        Device::Auto(0)
    }
}

/// As the key is written.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Auto(0) => f.write_str("auto"),
            Device::Auto(number) => write!(f, "auto:{number}"),
            Device::Cuda(0) => f.write_str("cuda"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Numbers that matrix products are computed with; sums, statistics and the weights themselves are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `f32`.
    F32,
    /// `bf16`: on tensor cores.
    Bf16,
}

impl Precision {
    /// As the key is written.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}
