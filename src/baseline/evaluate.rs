//! The baselines on the rows of a run.

use super::Baseline;
use crate::config::Config;
use crate::data::{EvalRow, Sequences, Split};
use crate::eval::{Metrics, RankedData, ranks};
use crate::{Result, memory};

/// What a baseline came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// [`Baseline::name`].
    pub name: &'static str,
    /// Validation metrics, seen items left out as the model's evaluation does.
    pub valid: Metrics,
    /// Test metrics: seen items left out, and ranked too.
    pub test: [Metrics; 2],
}

/// Counts on the training interactions and ranks the validation and test rows exactly as the model's are.
/// `interrupted` is asked between passes.
///
/// # Errors
/// Those of `interrupted`; [`crate::Error::Memory`].
pub fn evaluate(
    config: &Config,
    sequences: &Sequences,
    split: &Split,
    items: usize,
    interrupted: &dyn Fn() -> Result<()>,
) -> Result<Vec<Evaluation>> {
    // Pairs before and after they are counted, and a few lists by item.
    let needed = 16 * (sequences.items.len() as u128 + 4 * items as u128);
    memory::require("counting for the baselines", needed, "close other programs")?;
    let eval = &config.eval;
    let mut evaluations = Vec::new();
    for mut baseline in Baseline::all(sequences, split, items) {
        let mut measure = |rows: &[EvalRow], filters: &[bool]| -> Result<Vec<Metrics>> {
            interrupted()?;
            let data = RankedData { sequences, rows, item_count: items };
            let ranks =
                ranks(&mut baseline, &data, &config.model, eval.batch_size, filters, false)?;
            let metrics = |ranks: &Vec<u32>| Metrics::from_ranks(ranks, &eval.metrics, &eval.topk);
            Ok(ranks.iter().map(metrics).collect())
        };
        let valid = measure(&split.valid, &[eval.filter_seen])?.remove(0);
        let mut test = measure(&split.test, &[true, false])?;
        let kept = test.remove(1);
        evaluations.push(Evaluation { name: baseline.name, valid, test: [test.remove(0), kept] });
    }
    Ok(evaluations)
}
