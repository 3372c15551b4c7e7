//! Keys of splits, ranking and metrics.

use super::{Key, Scope, Section};
use crate::config::parse::{
    Parsed, Problem, boolean, choice, integer, list, metric, metric_at, name_of, number, optional,
    put, size,
};
use crate::config::value::Value;
use crate::config::{
    Config, EvalUnit, Grouping, HeldOut, Metric, Mode, Negatives, Protocol, Shares, SplitRule,
};

const HELD_OUT: &[(&str, HeldOut)] = &[
    ("valid_and_test", HeldOut::ValidAndTest),
    ("valid_only", HeldOut::ValidOnly),
    ("test_only", HeldOut::TestOnly),
];

const UNITS: &[(&str, EvalUnit)] = &[("row", EvalUnit::Row), ("recbole", EvalUnit::RecBole)];

const SPLIT_REMEDY: &str =
    "write {LS: valid_and_test}, {RS: [8, 1, 1]} or {TS: [8, 1, 1]}, as eval_args: {split: ...}";

pub(super) const KEYS: &[Key] = &[
    Section::Evaluation.key(
        "protocol",
        "NAME",
        "Published protocol to begin from: sun2019, petrov2022, klenitskiy2023 or recbole; it sets split, mode, \
         seen items and validation users, and other keys win over it",
        |c| c.eval.protocol.map(|protocol| protocol.name().into()),
        |c, v| put(&mut c.eval.protocol, optional(v, |v| choice(v, &Protocol::NAMES))),
    ),
    Section::Evaluation.key(
        "eval_args.split",
        "RULE",
        "{LS: valid_and_test} holds out the last items of each user (also valid_only, test_only); {RS: [8, 1, 1]} \
         divides by shares, {TS: [8, 1, 1]} at a point in time",
        |c| Some(split_value(c.eval.split)),
        |c, v| put(&mut c.eval.split, split(v)),
    ),
    Section::Evaluation.key(
        "eval_args.group_by",
        "WHAT",
        "What {RS: ...} divides: user: the rows of each user; none: all rows in time order",
        |c| match (c.eval.split, c.eval.grouping) {
            (SplitRule::Ratio(_), Grouping::User) => Some("user".into()),
            (SplitRule::Ratio(_), Grouping::None) => Some("none".into()),
            _ => None,
        },
        |c, v| put(&mut c.eval.grouping, grouping(v)),
    ),
    Section::Evaluation.key(
        "eval_args.mode",
        "MODE",
        "full ranks each target among all items; uni100 or pop100 among so many negatives drawn uniformly or by \
         popularity; {valid: uni100, test: full} for each part",
        |c| Some(mode_value(c)),
        set_mode,
    ),
    Section::Evaluation.key(
        "eval_unit",
        "UNIT",
        "row: each row is a list of its own; recbole: as RecBole merges and draws, to compare with its numbers",
        |c| Some(name_of(c.eval.unit, UNITS)),
        |c, v| put(&mut c.eval.unit, choice(v, UNITS)),
    ),
    Section::Evaluation.key(
        "eval_negatives",
        "WHICH",
        "What uniN and popN draw from: unseen: items outside the user's history; any: all but the target, by \
         popularity in the whole file, of which filter_seen then leaves out what was seen",
        |c| Some(c.eval.negatives.name().into()),
        |c, v| put(&mut c.eval.negatives, choice(v, &Negatives::NAMES)),
    ),
    Section::Evaluation.key(
        "valid_users",
        "N",
        "Validate on so many users drawn at random; the validation items of all others train",
        |c| Some(c.eval.valid_users.into()),
        |c, v| put(&mut c.eval.valid_users, optional(v, |v| size(v, 1))),
    ),
    Section::Evaluation.key(
        "eval_seed",
        "N",
        "Decides negatives and validation users, in place of seed",
        |c| Some(c.eval.seed.into()),
        |c, v| put(&mut c.eval.seed, optional(v, |v| integer(v, 0, u64::MAX))),
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
        "Any of recall, hit, ndcg, mrr, map, precision, gauc, itemcoverage, averagepopularity, shannonentropy, \
         giniindex, tailpercentage",
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
    Section::Evaluation.key(
        "tail_ratio",
        "X",
        "What tailpercentage counts: up to 1 the share of rarest items, above it items with so many interactions",
        |c| Some(c.eval.tail_ratio.into()),
        |c, v| put(&mut c.eval.tail_ratio, number(v)),
    ),
    Section::Evaluation
        .key(
            "eval_batch_size",
            "N",
            "Most sequences ranked at once; long ones come in smaller batches",
            |c| Some(c.eval.batch_size.into()),
            |c, v| put(&mut c.eval.batch_size, size(v, 1)),
        )
        .scope(Scope::Run),
];

fn split_value(rule: SplitRule) -> Value {
    // Whole shares read back the same and look better.
    let number = |&share: &f64| match share.fract() == 0.0 && share < 1e9 {
        true => Value::Integer(share as i128),
        false => share.into(),
    };
    let list = |Shares(shares): Shares| Value::List(shares.iter().map(number).collect());
    let (name, value) = match rule {
        SplitRule::LeaveOneOut(held_out) => ("LS", name_of(held_out, HELD_OUT)),
        SplitRule::Ratio(shares) => ("RS", list(shares)),
        SplitRule::Time(shares) => ("TS", list(shares)),
    };
    Value::Map(vec![(name.to_string(), value)])
}

fn split(value: &Value) -> Parsed<SplitRule> {
    let unreadable =
        || Problem::new(format!("`{}` is not a split rule", value.brief()), SPLIT_REMEDY);
    let Value::Map(rules) = value else { return Err(unreadable()) };
    let [(rule, value)] = rules.as_slice() else { return Err(unreadable()) };
    match rule.to_ascii_uppercase().as_str() {
        "LS" => choice(value, HELD_OUT).map(SplitRule::LeaveOneOut),
        "RS" => shares(value).map(SplitRule::Ratio),
        "TS" => shares(value).map(SplitRule::Time),
        _ => Err(unreadable()),
    }
}

/// Three shares of any scale; training gets some.
fn shares(value: &Value) -> Parsed<Shares> {
    let remedy = "write the shares of training, validation and test, such as [8, 1, 1]";
    let numbers = list(value)?.iter().map(number).collect::<Parsed<Vec<f64>>>()?;
    let Ok(shares) = <[f64; 3]>::try_from(numbers) else {
        return Err(Problem::new(format!("`{}` are not three shares", value.brief()), remedy));
    };
    let fit = shares.iter().all(|share| share.is_finite() && *share >= 0.0);
    // Shares beyond this could not be divided by their sum.
    if fit && shares[0] > 0.0 && shares.iter().all(|share| *share < 1e300) {
        return Ok(Shares(shares));
    }
    Err(Problem::new(format!("`{}` leave nothing to train on", value.brief()), remedy))
}

fn grouping(value: &Value) -> Parsed<Grouping> {
    if value.is_null() {
        return Ok(Grouping::None);
    }
    choice(value, &[("user", Grouping::User)]).map_err(|_| {
        Problem::new(
            format!("`{}` is neither user nor none", value.brief()),
            "write user (each user's rows by themselves) or none (all rows in time order)",
        )
    })
}

fn mode_value(config: &Config) -> Value {
    let (valid, test) = (config.eval.valid_mode, config.eval.test_mode);
    if valid == test {
        return valid.name().into();
    }
    let phases = [("valid", valid), ("test", test)];
    Value::Map(phases.map(|(phase, mode)| (phase.to_string(), mode.name().into())).to_vec())
}

/// One mode, or one each for validation and test.
fn set_mode(config: &mut Config, value: &Value) -> Parsed<()> {
    let eval = &mut config.eval;
    let Value::Map(phases) = value else {
        eval.valid_mode = mode(value)?;
        eval.test_mode = eval.valid_mode;
        return Ok(());
    };
    for (phase, value) in phases {
        match phase.as_str() {
            "valid" => eval.valid_mode = mode(value)?,
            "test" => eval.test_mode = mode(value)?,
            other => {
                return Err(Problem::new(
                    format!("`{other}` has no mode"),
                    "write {valid: full, test: uni100}",
                ));
            }
        }
    }
    Ok(())
}

fn mode(value: &Value) -> Parsed<Mode> {
    let remedy = "write full, uniN or popN, such as uni100";
    let text = match value {
        Value::Text(text) => text.trim().to_ascii_lowercase(),
        _ => String::new(),
    };
    let count = |digits: &str| size(&digits.into(), 1);
    match (text.as_str(), text.strip_prefix("uni"), text.strip_prefix("pop")) {
        ("full", _, _) => Ok(Mode::Full),
        (_, Some(digits), _) => count(digits).map(Mode::Uniform),
        (_, _, Some(digits)) => count(digits).map(Mode::Popular),
        ("labeled", _, _) => Err(Problem::new(
            "`labeled` needs rows with labels, which sequences of interactions have not",
            remedy,
        )),
        _ => return Err(Problem::new(format!("`{}` is no mode", value.brief()), remedy)),
    }
    .map_err(|problem| Problem::new(format!("`{}`: {}", value.brief(), problem.problem), remedy))
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
