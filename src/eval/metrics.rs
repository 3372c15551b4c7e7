//! From ranked lists to ranking metrics at K.

use super::items::item_metric;
use super::ranking::{Catalogue, FILTERED, Ranking};
use crate::config::Metric;
use serde::{Serialize, Serializer};

/// Means of ranking metrics over all lists, in the order in which metrics and cut-offs were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    values: Vec<(String, f64)>,
    /// Lists averaged over. When there is none, there are no values either: a mean of nothing is not 0.
    pub lists: usize,
    /// Targets that were filtered out as seen before; each counts as a miss.
    pub seen_targets: usize,
}

impl Metrics {
    /// Every metric at every cut-off of `topk`.
    pub fn new(
        ranking: &Ranking,
        metrics: &[Metric],
        topk: &[usize],
        catalogue: &Catalogue<'_>,
    ) -> Self {
        let mut values = Vec::new();
        for &metric in metrics.iter().filter(|_| !ranking.is_empty()) {
            if !metric.has_cutoff() {
                values.push((metric.key(0), grouped_auc(ranking)));
                continue;
            }
            for &k in topk {
                let value = match metric.needs_items() {
                    true => item_metric(metric, ranking, k, catalogue),
                    false => mean(ranking, metric, k),
                };
                values.push((metric.key(k), value));
            }
        }
        let seen = ranking.places().iter().filter(|&&place| place == FILTERED);
        Metrics { values, lists: ranking.len(), seen_targets: seen.count() }
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

fn mean(ranking: &Ranking, metric: Metric, k: usize) -> f64 {
    let sum: f64 = ranking.lists().map(|(places, _)| value_at(metric, places, k)).sum();
    sum / ranking.len() as f64
}

/// `metric` of the first `k` items of a list whose targets stand at `places`, ascending.
fn value_at(metric: Metric, places: &[u32], k: usize) -> f64 {
    let hits = &places[..places.partition_point(|&place| place != FILTERED && place as usize <= k)];
    let Some(&first) = hits.first() else { return 0.0 };
    // The best list has as many targets first as fit.
    let best = places.len().min(k);
    let gain = |place: u32| 1.0 / (f64::from(place) + 1.0).log2();
    match metric {
        Metric::Recall => hits.len() as f64 / places.len() as f64,
        Metric::Hit => 1.0,
        Metric::Mrr => 1.0 / f64::from(first),
        Metric::Precision => hits.len() as f64 / k as f64,
        Metric::Ndcg => {
            let found: f64 = hits.iter().map(|&place| gain(place)).sum();
            found / (1..=best as u32).map(gain).sum::<f64>()
        }
        // Each hit with the precision of the list up to it.
        Metric::Map => {
            let precisions = (1u32..).zip(hits).map(|(n, &place)| f64::from(n) / f64::from(place));
            precisions.sum::<f64>() / best as f64
        }
        // Metrics of whole lists, and of items, are not computed here.
        _ => 0.0,
    }
}

/// The share of pairs of a target and another item that stand in the right order, averaged over targets.
/// Lists that have nothing but targets say nothing; a target filtered out as seen is behind everything.
fn grouped_auc(ranking: &Ranking) -> f64 {
    let (mut sum, mut targets) = (0.0, 0.0);
    for (places, length) in ranking.lists() {
        let (p, n) = (places.len() as f64, f64::from(length));
        if places.contains(&FILTERED) {
            targets += p;
        } else if n > p {
            let places: f64 = places.iter().map(|&place| f64::from(place)).sum();
            sum += (p * (n + 1.0) - p * (p + 1.0) / 2.0 - places) / (n - p);
            targets += p;
        }
    }
    if targets > 0.0 { sum / targets } else { 0.0 }
}
