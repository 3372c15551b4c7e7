//! Keys of splits, ranking and metrics.

use super::{Key, Scope, Section};
use crate::config::parse::{Parsed, Problem, boolean, list, metric, metric_at, put, size};
use crate::config::value::Value;
use crate::config::{Metric, SplitRule};

pub(super) const KEYS: &[Key] = &[
    Section::Evaluation.key(
        "eval_args.split",
        "RULE",
        "{LS: valid_and_test}: the last item of each user tests, the one before it validates",
        |c| match c.eval.split {
            SplitRule::LeaveOneOut => {
                Some(Value::Map(vec![("LS".to_string(), "valid_and_test".into())]))
            }
        },
        |c, v| put(&mut c.eval.split, split(v)),
    ),
    Section::Evaluation.key(
        "eval_args.mode",
        "MODE",
        "full: every target is ranked among all items",
        |_| Some("full".into()),
        |_, v| mode(v),
    ),
    Section::Evaluation.key(
        "filter_seen",
        "",
        "Leave the items of the history out of the ranking",
        |c| Some(c.eval.filter_seen.into()),
        |c, v| put(&mut c.eval.filter_seen, boolean(v)),
    ),
    Section::Evaluation
        .key(
            "repeatable",
            "",
            "RecBole's spelling: true means filter_seen false",
            |_| None,
            |c, v| put(&mut c.eval.filter_seen, boolean(v).map(|repeatable| !repeatable)),
        )
        .hidden(),
    Section::Evaluation.key(
        "metrics",
        "LIST",
        "Any of recall, hit, ndcg, mrr, map, precision",
        |c| Some(Value::List(c.eval.metrics.iter().map(|metric| metric.name().into()).collect())),
        |c, v| put(&mut c.eval.metrics, metrics(v)),
    ),
    Section::Evaluation.key(
        "topk",
        "LIST",
        "Lengths of the recommendation list to judge",
        |c| Some(Value::List(c.eval.topk.iter().map(|&k| k.into()).collect())),
        |c, v| put(&mut c.eval.topk, cut_offs(v)),
    ),
    Section::Evaluation.key(
        "valid_metric",
        "METRIC@K",
        "Decides on the validation items which epoch is best; computed even if not listed above",
        |c| {
            let (metric, k) = c.eval.valid_metric;
            Some(metric.key(k).into())
        },
        |c, v| put(&mut c.eval.valid_metric, metric_at(v)),
    ),
    Section::Evaluation
        .key(
            "eval_batch_size",
            "N",
            "Sequences ranked at once",
            |c| Some(c.eval.batch_size.into()),
            |c, v| put(&mut c.eval.batch_size, size(v, 1)),
        )
        .scope(Scope::Run),
];

fn split(value: &Value) -> Parsed<SplitRule> {
    let remedy = "write eval_args: {split: {LS: valid_and_test}}";
    let Value::Map(rules) = value else {
        return Err(Problem::new(format!("`{}` is not a split rule", value.brief()), remedy));
    };
    match rules.as_slice() {
        [(rule, Value::Text(what))] if rule == "LS" && what == "valid_and_test" => {
            Ok(SplitRule::LeaveOneOut)
        }
        _ => Err(Problem::new(
            format!("the split {} is not available yet in this version", value.brief()),
            remedy,
        )),
    }
}

/// One mode, or one each for validation and test; there is only `full`.
fn mode(value: &Value) -> Parsed<()> {
    let full = |value: &Value| matches!(value, Value::Text(mode) if mode == "full");
    let accepted = match value {
        Value::Map(phases) => {
            !phases.is_empty()
                && phases
                    .iter()
                    .all(|(phase, mode)| matches!(phase.as_str(), "valid" | "test") && full(mode))
        }
        other => full(other),
    };
    if accepted {
        return Ok(());
    }
    Err(Problem::new(
        format!("the mode {} is not available yet in this version", value.brief()),
        "write eval_args: {mode: full}, which ranks among all items",
    ))
}

/// In the order of the result table, each once.
fn metrics(value: &Value) -> Parsed<Vec<Metric>> {
    let named = list(value)?.iter().map(metric).collect::<Parsed<Vec<_>>>()?;
    Ok(Metric::ALL.into_iter().filter(|metric| named.contains(metric)).collect())
}

/// Ascending, each once.
fn cut_offs(value: &Value) -> Parsed<Vec<usize>> {
    let mut cut_offs = list(value)?.iter().map(|k| size(k, 1)).collect::<Parsed<Vec<_>>>()?;
    cut_offs.sort_unstable();
    cut_offs.dedup();
    Ok(cut_offs)
}
