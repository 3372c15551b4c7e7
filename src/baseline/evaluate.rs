//! The baselines on the rows of a run.

use super::Baseline;
use crate::eval::Metrics;
use crate::train::judge::{Judged, Part, Tested};
use crate::{Result, memory};

/// What a baseline came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// [`Baseline::name`].
    pub name: &'static str,
    /// Validation metrics.
    pub valid: Metrics,
    /// The test.
    pub tested: Tested,
}

/// Counts on the training interactions and judges the validation and test rows exactly as the model's are.
/// `interrupted` is asked between passes.
///
/// # Errors
/// Those of `interrupted`; [`crate::Error::Memory`].
pub fn evaluate(
    judged: &Judged<'_>,
    interrupted: &dyn Fn() -> Result<()>,
) -> Result<Vec<Evaluation>> {
    let Judged { sequences, split, items, .. } = *judged;
    // Pairs before and after they are counted, and a few lists by item.
    let needed = 16 * (sequences.items.len() as u128 + 4 * items as u128);
    memory::require("counting for the baselines", needed, "close other programs")?;
    let mut evaluations = Vec::new();
    for mut baseline in Baseline::all(sequences, split, items) {
        interrupted()?;
        let valid = judged.metrics(&mut baseline, Part::Valid, false)?;
        interrupted()?;
        let tested = judged.test(&mut baseline, false)?;
        evaluations.push(Evaluation { name: baseline.name, valid, tested });
    }
    Ok(evaluations)
}
