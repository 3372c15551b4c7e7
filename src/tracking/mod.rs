//! A run's numbers where other tools look for them: TensorBoard's event files, Weights & Biases.
//!
//! `metrics.jsonl`, `config.yaml` and `results.json` are the record of a run; whatever is made here is made from
//! them, can be made again, and never ends a run when it fails.

pub mod tensorboard;
pub mod wandb;
