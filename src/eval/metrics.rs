//! From ranks to ranking metrics at K.

use super::FILTERED;
use crate::config::Metric;
use serde::{Serialize, Serializer};

/// Means of ranking metrics over all rows, in the order in which metrics and cut-offs were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    values: Vec<(String, f64)>,
    /// Rows averaged over. When there is none, there are no values either: a mean of nothing is not 0.
    pub rows: usize,
    /// Rows whose target was filtered out as seen before; each counts as a miss.
    pub seen_targets: usize,
}

impl Metrics {
    /// Every metric at every cut-off of `topk`, from the rank (from 1) of each row's one target.
    pub fn from_ranks(ranks: &[u32], metrics: &[Metric], topk: &[usize]) -> Self {
        let mut values = Vec::new();
        if !ranks.is_empty() {
            for &metric in metrics {
                for &k in topk {
                    let sum: f64 = ranks.iter().map(|&rank| value_at(metric, rank, k)).sum();
                    values.push((metric.key(k), sum / ranks.len() as f64));
                }
            }
        }
        let seen_targets = ranks.iter().filter(|&&rank| rank == FILTERED).count();
        Metrics { values, rows: ranks.len(), seen_targets }
    }

    /// The value under `key`, such as `ndcg@10`.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.iter().find(|&(other, _)| other == key).map(|(_, value)| value)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(key, value)| (key.as_str(), *value))
    }
}

/// As a map from key to value.
impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// `metric` of a list of `k` items in which the only target stands at `rank`.
fn value_at(metric: Metric, rank: u32, k: usize) -> f64 {
    if rank == FILTERED || rank as usize > k {
        return 0.0;
    }
    let rank = f64::from(rank);
    match metric {
        Metric::Recall | Metric::Hit => 1.0,
        // The best list has the target first, with a gain of 1 / log2(2) = 1.
        Metric::Ndcg => 1.0 / (rank + 1.0).log2(),
        // With one target, average precision is the precision at the target's own rank.
        Metric::Mrr | Metric::Map => 1.0 / rank,
        Metric::Precision => 1.0 / k as f64,
    }
}
