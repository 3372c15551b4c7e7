//! Everything before the first step: data, split, batches, and whether it all fits into memory.

use super::init_from::{self, Source};
use super::judge::{self, Judge};
use super::progress::{draws_bars, say};
use super::schedule;
use crate::batch::TrainingBatches;
use crate::config::{Config, ModelConfig};
use crate::cpu::memory::{BatchSizes, answer_bytes, batch_bytes, model_bytes};
use crate::data::{self, Dataset, EvalRow, Sequences, Split, SplitCounts, Statistics};
use crate::eval;
use crate::model::params::ParameterTable;
use crate::{Error, Result, memory};
use std::fmt;
use std::sync::Arc;

/// Sizes are cut to this before they are multiplied, so that nothing overflows; still beyond any machine.
const SIZE_LIMIT: usize = 1 << 30;
/// Arenas beside the engine's own: the best weights.
const KEPT_ARENAS: u128 = 1;
/// On resuming also weights and moments on their way from the checkpoint.
const RESUMED_ARENAS: u128 = 4;
const REMEDY: &str = "lower hidden_size, inner_size, n_layers or max_len";
const BATCH_REMEDY: &str = "lower train_batch_size (or train_batch_sequences), eval_batch_size, max_len, \
                            hidden_size, inner_size or n_layers";

/// Data ready to train on.
pub struct Prepared {
    /// Names and vocabularies; its sequences have moved to the field beside.
    pub dataset: Dataset,
    /// Figures of the data.
    pub statistics: Statistics,
    /// Histories of all users.
    pub sequences: Arc<Sequences>,
    /// Items at the end of the catalogue that the data no longer has: `keep_expired`.
    pub expired: usize,
    /// What trains and what is predicted.
    pub split: Arc<Split>,
    /// What the predictions are compared with.
    pub judge: Judge,
    /// Training batches.
    pub batches: Arc<TrainingBatches>,
    /// Sizes, for people.
    pub plan: Plan,
}

/// What a run will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of weights.
    pub parameters: u128,
    /// Rows and users of each part.
    pub split: SplitCounts,
    /// Training interactions an epoch visits.
    pub interactions: u64,
    /// Optimizer steps an epoch.
    pub steps_per_epoch: u64,
    /// Last step the run can take.
    pub planned_steps: u64,
    /// Bytes for weights, moments, gradients, copies and activations.
    pub memory: u128,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mebibytes, steps) = (self.memory.div_ceil(1 << 20), self.steps_per_epoch);
        write!(
            f,
            "{} parameters, {} training interactions and {steps} steps an epoch, at most {} steps, \
             about {mebibytes} MiB beside the data\n{}",
            self.parameters, self.interactions, self.planned_steps, self.split
        )
    }
}

/// Loads the data, prints its statistics and plans the batches. Writes nothing.
///
/// # Errors
/// Those of the data, and [`Error::Memory`] when the run would not fit; nothing large is allocated before.
pub fn prepare(config: &Config) -> Result<Prepared> {
    prepare_with(config, None, None)
}

/// [`prepare`] with what may be at hand already: the data in memory, and the run to begin from.
///
/// # Errors
/// As there, and those of [`init_from::expired`].
pub fn prepare_with(
    config: &Config,
    dataset: Option<Dataset>,
    source: Option<&Source>,
) -> Result<Prepared> {
    check_valid_metric(config)?;
    // Every model has an item: what does not fit now will not fit when the data has been read.
    memory::require("the model", model_memory(config, 1), REMEDY)?;
    let (mut dataset, statistics) = match dataset {
        Some(dataset) => {
            let statistics = Statistics::of(&dataset);
            (dataset, statistics)
        }
        None => {
            let (dataset, statistics) = data::load(&config.data, draws_bars(config.run.progress))?;
            say(&statistics);
            (dataset, statistics)
        }
    };
    let expired = init_from::expired(config, source, &dataset.items)?;
    expired.iter().for_each(|item| dataset.items.push(item));
    let items = dataset.item_count();
    memory::require("the model", model_memory(config, items), REMEDY)?;
    let sequences = Arc::new(std::mem::take(&mut dataset.sequences));
    let all_data = config.data.all_data;
    let split = Arc::new(match all_data {
        true => data::keep_all(&sequences),
        false => {
            let times = dataset.times.as_deref();
            data::split(&sequences, times, &config.eval, config.eval_seed())?
        }
    });
    if !all_data {
        judge::refuse_empty_parts(config, &split)?;
    }
    let (of_sequences, of_split) = (sequences.clone(), split.clone());
    let batches =
        TrainingBatches::new(of_sequences, of_split, items, &config.model, &config.train)?;
    let plan = plan(config, &sequences, &split, &batches);
    memory::require("training", plan.memory, BATCH_REMEDY)?;
    let judge = Judge::new(config, &sequences, &split, items)?;
    Ok(Prepared {
        dataset,
        statistics,
        sequences,
        expired: expired.len(),
        split,
        judge,
        batches: Arc::new(batches),
        plan,
    })
}

fn check_valid_metric(config: &Config) -> Result<()> {
    let (metric, cutoff) = config.eval.valid_metric;
    let known = config.eval.topk.contains(&cutoff) || !metric.has_cutoff();
    if config.eval.metrics.contains(&metric) && known {
        return Ok(());
    }
    Err(Error::config(
        "valid_metric",
        format!("{} is not among the metrics that are computed", metric.key(cutoff)),
        "name it in `metrics` and `topk` too",
    ))
}

fn plan(config: &Config, sequences: &Sequences, split: &Split, batches: &TrainingBatches) -> Plan {
    let (model, items) = (bounded(&config.model), batches.item_count());
    let steps_per_epoch = batches.steps_per_epoch();
    let longest = sequences.offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
    let longest = model.max_len.min(usize::try_from(longest).unwrap_or(usize::MAX));
    let [learnt, answered] = [batches.max_tokens(), evaluated_tokens(config, split)]
        .map(|tokens| BatchSizes { tokens: tokens.into(), longest });
    let threads = super::actual_threads(config.run.threads);
    Plan {
        parameters: ParameterTable::count(&model, items),
        split: SplitCounts::new(split),
        interactions: batches.interactions(),
        steps_per_epoch,
        planned_steps: schedule::planned_steps(&config.train, steps_per_epoch),
        memory: model_memory(config, items)
            .saturating_add(batch_bytes(&model, items, threads, learnt))
            .saturating_add(answer_bytes(&model, threads, answered)),
    }
}

/// Tokens of the largest batch that is only ranked.
fn evaluated_tokens(config: &Config, split: &Split) -> u64 {
    let length = |row: &EvalRow| (u64::from(row.position) + 1).min(config.model.max_len as u64);
    let size = eval::rows_at_once(config.eval.batch_size, config.model.max_len);
    let batches = [&split.valid, &split.test]
        .into_iter()
        .flat_map(|rows| rows.chunks(size).map(|rows| rows.iter().map(length).sum()));
    batches.max().unwrap_or(0)
}

/// Bytes for everything whose size does not depend on the batch.
fn model_memory(config: &Config, items: usize) -> u128 {
    let model = bounded(&config.model);
    let copies = if config.run.resume { RESUMED_ARENAS } else { KEPT_ARENAS };
    model_bytes(&model, items) + 4 * copies * ParameterTable::count(&model, items)
}

/// The same network with sizes that can be multiplied; whatever is cut is still beyond any machine.
pub(crate) fn bounded(model: &ModelConfig) -> ModelConfig {
    let cut = |size: usize| size.min(SIZE_LIMIT);
    ModelConfig {
        hidden_size: cut(model.hidden_size),
        inner_size: cut(model.inner_size),
        n_layers: cut(model.n_layers),
        n_heads: cut(model.n_heads),
        max_len: cut(model.max_len),
        ..model.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused_before_anything_is_read() {
        let sizes: [fn(&mut ModelConfig) -> &mut usize; 4] = [
            |model| &mut model.hidden_size,
            |model| &mut model.inner_size,
            |model| &mut model.n_layers,
            |model| &mut model.max_len,
        ];
        for size in sizes {
            for value in [1_000_000_000_000, usize::MAX] {
                let mut config = Config::default();
                config.data.dataset = "/does/not/exist".to_string();
                *size(&mut config.model) = value;
                let error = prepare(&config).err().unwrap();
                assert!(matches!(error, Error::Memory { .. }), "{error}");
            }
        }
    }

    #[test]
    fn the_metric_that_decides_must_be_computed() {
        let mut config = Config::default();
        config.data.dataset = "/does/not/exist".to_string();
        config.eval.topk = vec![5];
        let error = prepare(&config).err().unwrap().to_string();
        assert!(error.contains("ndcg@10") && error.contains("topk"), "{error}");
    }
}
