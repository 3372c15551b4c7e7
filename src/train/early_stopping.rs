//! Which epoch is best, and when to give up.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The evaluation that stands above all others so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Optimizer steps before it.
    pub step: u64,
    /// Its `valid_metric`.
    pub value: f64,
    /// All its validation metrics.
    pub metrics: Map<String, Value>,
}

/// Keeps the best evaluation and counts those since that did not improve on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// The best so far.
    pub best: Option<Best>,
    /// Evaluations since the best.
    pub misses: u32,
}

impl EarlyStopping {
    /// Takes an evaluation in; says whether it is the new best. Equal is not better: the earlier stays.
    pub fn observe(&mut self, evaluation: Best) -> bool {
        let improved = self.best.as_ref().is_none_or(|best| evaluation.value > best.value);
        if improved {
            self.best = Some(evaluation);
            self.misses = 0;
        } else {
            self.misses = self.misses.saturating_add(1);
        }
        improved
    }

    /// Whether more than `patience` evaluations in a row did not improve: RecBole's `stopping_step`.
    pub fn exhausted(&self, patience: u32) -> bool {
        self.misses > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[f64], patience: u32) -> (u32, usize) {
        let mut stopping = EarlyStopping::default();
        for (i, &value) in values.iter().enumerate() {
            let epoch = i as u32 + 1;
            stopping.observe(Best { epoch, step: 0, value, metrics: Map::new() });
            if stopping.exhausted(patience) {
                return (stopping.best.unwrap().epoch, i + 1);
            }
        }
        (stopping.best.unwrap().epoch, values.len())
    }

    #[test]
    fn stops_after_one_more_than_the_patience() {
        assert_eq!(run(&[0.3, 0.1, 0.1, 0.1, 0.9], 2), (1, 4));
        assert_eq!(run(&[0.3, 0.1, 0.1, 0.4, 0.1], 2), (4, 5));
        assert_eq!(run(&[0.3, 0.1, 0.9], 0), (1, 2));
    }

    #[test]
    fn an_equal_value_is_no_improvement() {
        assert_eq!(run(&[0.3, 0.3, 0.3], 1), (1, 3));
        assert_eq!(run(&[0.0, 0.0], 5), (1, 2));
    }
}
