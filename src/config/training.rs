//! The part of a configuration that training follows: batches, loss, optimizer and stopping.

use std::path::PathBuf;

/// Batches, optimizer and stopping.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// `seed`.
    pub seed: u64,
    /// `init_from`: the run directory whose weights training begins with.
    pub init_from: Option<PathBuf>,
    /// `init_from_sha256`: hash of that run's `model.safetensors`. Filled in when a run starts; a start from
    /// any other file is then refused.
    pub init_from_sha256: Option<String>,
    /// `keep_expired`: whether items of `init_from` that the data no longer has stay in the catalogue.
    pub keep_expired: bool,
    /// `epochs`.
    pub epochs: u32,
    /// `train_batch_size` (interactions) or `train_batch_sequences`.
    pub batch_size: BatchSize,
    /// `shift_windows`: whether the windows of a long history begin elsewhere in every epoch.
    pub shift_windows: bool,
    /// `max_steps`: end early after this many optimizer steps.
    pub max_steps: Option<u64>,
    /// `mask_ratio`: chance that a position is masked.
    pub mask_ratio: f64,
    /// `ft_ratio`: share of windows that mask only their last item.
    pub last_item_ratio: f64,
    /// `loss_type`: what is minimised.
    pub loss: Loss,
    /// `n_negatives`: items that a step draws for all its rows, where the loss does not look at all.
    pub negatives: usize,
    /// `gbce_t`: calibration of [`Loss::Gbce`], from 0 to 1.
    pub calibration: f64,
    /// `learner`: what `weight_decay` means.
    pub learner: Learner,
    /// `learning_rate`: the peak.
    pub learning_rate: f64,
    /// `lr_fallback`: the peak of a second training, where the first ranked no better than popularity.
    pub fallback_rate: Option<f64>,
    /// `lr_schedule`.
    pub schedule: Schedule,
    /// `warmup_steps`: linear rise from 0.
    pub warmup_steps: u64,
    /// `weight_decay`: see [`Learner`].
    pub weight_decay: f64,
    /// `adam_beta1`.
    pub beta1: f64,
    /// `adam_beta2`.
    pub beta2: f64,
    /// `adam_eps`.
    pub epsilon: f64,
    /// `clip_grad_norm`: bound of the global gradient norm.
    pub clip_norm: Option<f64>,
    /// `eval_step`: epochs between evaluations.
    pub eval_step: u32,
    /// `stopping_step`: stop when more than this many evaluations in a row did not improve.
    pub stopping_step: u32,
}

/// How large a training batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// New training interactions a batch (RecBole's prefix rows).
    Interactions(usize),
    /// Sequences (windows) a batch.
    Sequences(usize),
}

/// What training minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// `CE`: cross-entropy of the softmax over all items.
    CrossEntropy,
    /// `sampled_softmax`: an estimate of it from the batch's targets and a sample of the other items.
    SampledSoftmax,
    /// `gBCE`: generalised binary cross-entropy of the target and a sample of negatives.
    Gbce,
}

/// The optimizer: two readings of `weight_decay`, otherwise the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learner {
    /// `adamw`: weights decay by themselves; layer norms and biases do not.
    AdamW,
    /// `adam`: the decay is added to the gradient of every weight, as RecBole and PyTorch do it.
    Adam,
}

/// Learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls linearly to 0 at the last step.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// Chosen on validation data, see `docs/search.md`; RecBole's where that was no worse.
impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            seed: 2020,
            init_from: None,
            init_from_sha256: None,
            keep_expired: false,
            epochs: 300,
            batch_size: BatchSize::Interactions(2048),
            shift_windows: true,
            max_steps: None,
            mask_ratio: 0.2,
            last_item_ratio: 0.0,
            loss: Loss::CrossEntropy,
            negatives: 1024,
            calibration: 0.75,
            learner: Learner::AdamW,
            learning_rate: 1e-3,
            fallback_rate: Some(1e-3),
            schedule: Schedule::Constant,
            warmup_steps: 0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip_norm: None,
            eval_step: 1,
            stopping_step: 20,
        }
    }
}
