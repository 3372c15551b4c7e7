//! Metrics of which items are recommended, wherever the targets are.
//!
//! RecBole counts PAD as an item, divides the entropy by the number of distinct items and looks for rare items
//! among those that were trained on only; under [`EvalUnit::RecBole`] so do we.

use super::ranking::{Catalogue, Ranking};
use crate::config::{EvalUnit, Metric};

/// `metric` of the first `k` items of all lists.
pub fn item_metric(metric: Metric, ranking: &Ranking, k: usize, catalogue: &Catalogue<'_>) -> f64 {
    let as_recbole = catalogue.unit == EvalUnit::RecBole;
    let all = catalogue.counts.len() + usize::from(as_recbole);
    match metric {
        Metric::AveragePopularity => {
            mean(ranking, k, |item| f64::from(catalogue.counts[item as usize - 1]))
        }
        Metric::TailPercentage => {
            let rare = rare_items(catalogue);
            mean(ranking, k, |item| f64::from(u8::from(rare[item as usize - 1])))
        }
        Metric::ItemCoverage => occurrences(ranking, k, catalogue).len() as f64 / all as f64,
        Metric::GiniIndex => gini(&occurrences(ranking, k, catalogue), all),
        _ => {
            let counts = occurrences(ranking, k, catalogue);
            let entropy = entropy(&counts);
            if as_recbole { entropy / counts.len().max(1) as f64 } else { entropy }
        }
    }
}

/// Mean over lists of the mean over their items.
fn mean(ranking: &Ranking, k: usize, value: impl Fn(u32) -> f64) -> f64 {
    let of_list = |items: &[u32]| {
        let sum: f64 = items.iter().map(|&item| value(item)).sum();
        sum / items.len().max(1) as f64
    };
    ranking.items(k).map(of_list).sum::<f64>() / ranking.len() as f64
}

/// How often each recommended item is recommended, ascending.
fn occurrences(ranking: &Ranking, k: usize, catalogue: &Catalogue<'_>) -> Vec<u64> {
    let mut counts = vec![0u64; catalogue.counts.len()];
    for &item in ranking.items(k).flatten() {
        counts[item as usize - 1] += 1;
    }
    counts.retain(|&count| count > 0);
    counts.sort_unstable();
    counts
}

/// 0 when all items are recommended equally often, or none is, near 1 when one item is recommended to everybody.
fn gini(counts: &[u64], all: usize) -> f64 {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return 0.0;
    }
    let first = all - counts.len() + 1;
    let weighted = (first..)
        .zip(counts)
        .map(|(place, &count)| (2.0 * place as f64 - all as f64 - 1.0) * count as f64);
    weighted.sum::<f64>() / (total as f64 * all as f64)
}

/// In nats.
fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let share = |&count: &u64| count as f64 / total as f64;
    counts.iter().map(share).map(|p| -p * p.ln()).sum()
}

/// `[V]` which items are rare: a share of all up to 1, else those with at most so many interactions.
fn rare_items(catalogue: &Catalogue<'_>) -> Vec<bool> {
    let (counts, ratio) = (catalogue.counts, catalogue.tail_ratio);
    let counted = |count: u32| count > 0 || catalogue.unit == EvalUnit::Row;
    if ratio > 1.0 {
        return counts.iter().map(|&n| counted(n) && f64::from(n) <= ratio).collect();
    }
    let mut items: Vec<usize> = (0..counts.len()).filter(|&item| counted(counts[item])).collect();
    items.sort_by_key(|&item| counts[item]);
    let number = ((items.len() as f64 * ratio) as usize).max(1);
    let mut rare = vec![false; counts.len()];
    items.into_iter().take(number).for_each(|item| rare[item] = true);
    rare
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small data may leave every list empty; a checkpoint could not hold what 0 / 0 makes.
    #[test]
    fn inequality_without_recommendations_is_none() {
        assert_eq!(gini(&[], 5), 0.0);
        assert_eq!(gini(&[2, 2, 2], 3), 0.0);
        assert!(gini(&[7], 1000) > 0.99);
    }
}
