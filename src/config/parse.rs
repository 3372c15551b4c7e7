//! From untyped values to what a key holds. Each function says what is wrong and what to write instead;
//! the caller knows key and place.

use std::path::PathBuf;

use super::value::Value;
use super::{Interval, Metric};

/// Largest size of anything: below it, no product of two sizes overflows 64 bits.
pub const MAX_SIZE: u64 = 1 << 24;

/// Why a value is unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// Result of reading one value.
pub type Parsed<T> = Result<T, Problem>;

impl Problem {
    /// From anything printable.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { problem: problem.into(), remedy: remedy.into() }
    }

    fn unreadable(value: &Value, wanted: &str, remedy: &str) -> Self {
        if value.is_null() {
            return Problem::new(
                "has no value",
                "write a value, or leave the key out for its default",
            );
        }
        Problem::new(format!("`{}` is not {wanted}", value.brief()), remedy)
    }
}

/// Stores a value that could be read.
pub fn put<T>(slot: &mut T, value: Parsed<T>) -> Parsed<()> {
    *slot = value?;
    Ok(())
}

/// `None` for nothing, else what `parse` makes of it.
pub fn optional<T>(value: &Value, parse: impl FnOnce(&Value) -> Parsed<T>) -> Parsed<Option<T>> {
    if value.is_null() { Ok(None) } else { parse(value).map(Some) }
}

/// A whole number between `low` and `high`; `2e3` is one, `2.5` is not.
pub fn integer(value: &Value, low: u64, high: u64) -> Parsed<u64> {
    let remedy = format!("write a whole number from {low} to {high}");
    // Every f64 that passes is a whole number below 2^63, so the conversions are exact.
    let from_float = |x: f64| (x.fract() == 0.0 && x.abs() < 9e18).then_some(x as i128);
    let number = match value {
        Value::Integer(number) => Some(*number),
        Value::Number(number) => from_float(*number),
        Value::Text(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse().ok().and_then(from_float))
        }
        _ => None,
    };
    let number = number.ok_or_else(|| Problem::unreadable(value, "a whole number", &remedy))?;
    match u64::try_from(number) {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ if number > i128::from(high) => {
            Err(Problem::new(format!("{number} is more than {high}, the most it may be"), remedy))
        }
        _ => Err(Problem::new(format!("{number} is less than {low}, the least it may be"), remedy)),
    }
}

/// A size of at least `low`.
pub fn size(value: &Value, low: u64) -> Parsed<usize> {
    Ok(integer(value, low, MAX_SIZE)? as usize)
}

/// A count that fits 32 bits.
pub fn count(value: &Value, low: u32) -> Parsed<u32> {
    Ok(integer(value, low.into(), u32::MAX.into())? as u32)
}

/// Any number, infinite and NaN included: ranges are checked once all keys are known.
pub fn number(value: &Value) -> Parsed<f64> {
    match value {
        Value::Integer(number) => Ok(*number as f64),
        Value::Number(number) => Ok(*number),
        Value::Text(text) => text.trim().parse().map_err(|_| {
            Problem::unreadable(value, "a number", "write a number, such as 0.001 or 1e-3")
        }),
        _ => Err(Problem::unreadable(value, "a number", "write a number, such as 0.001 or 1e-3")),
    }
}

/// A truth value.
pub fn boolean(value: &Value) -> Parsed<bool> {
    let known = match value {
        Value::Bool(value) => Some(*value),
        Value::Integer(0) => Some(false),
        Value::Integer(1) => Some(true),
        Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    known.ok_or_else(|| Problem::unreadable(value, "true or false", "write true or false"))
}

/// Text; numbers are taken as they read.
pub fn text(value: &Value) -> Parsed<String> {
    match value {
        Value::Text(text) if !value.is_null() => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Bool(_) | Value::Number(_) => {
            Err(Problem::unreadable(value, "text", "put it in quotes to make it text"))
        }
        _ => Err(Problem::unreadable(value, "text", "write a single word, or text in quotes")),
    }
}

/// A path.
pub fn path(value: &Value) -> Parsed<PathBuf> {
    let text = text(value)?;
    if text.contains('\0') {
        return Err(Problem::new(
            "a path cannot hold a NUL character",
            "write the path of a file or folder",
        ));
    }
    Ok(PathBuf::from(text))
}

/// One of several names, upper or lower case, with dashes or underscores.
pub fn choice<T: Copy>(value: &Value, names: &[(&str, T)]) -> Parsed<T> {
    let list = || names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let given = match value {
        Value::Text(text) => text.trim().replace('-', "_"),
        _ => String::new(),
    };
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&given));
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        Problem::unreadable(
            value,
            &format!("one of {}", list()),
            &format!("write one of {}", list()),
        )
    })
}

/// The name of a choice.
pub fn name_of<T: Copy + PartialEq>(choice: T, names: &[(&'static str, T)]) -> Value {
    names.iter().find(|(_, c)| *c == choice).map_or(Value::Null, |(name, _)| (*name).into())
}

/// A list, or its single element; flags may write `5,10,20`.
pub fn list(value: &Value) -> Parsed<Vec<Value>> {
    let items = match value {
        Value::List(items) => items.clone(),
        Value::Text(text) if !value.is_null() => text
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| Value::Text(part.to_string()))
            .collect(),
        Value::Null | Value::Text(_) => Vec::new(),
        other => vec![other.clone()],
    };
    if items.is_empty() {
        return Err(Problem::new("the list is empty", "name at least one, such as [10]"));
    }
    Ok(items)
}

/// RecBole's `[5,inf)`: square brackets include the end, round ones do not.
pub fn interval(value: &Value) -> Parsed<Interval> {
    let remedy = "write one interval in quotes, such as \"[5,inf)\"";
    let unreadable = || Problem::unreadable(value, "an interval", remedy);
    if let Value::List(ends) = value {
        let [low, high] = ends.as_slice() else { return Err(unreadable()) };
        let (low, high) = (number(low)?, number(high)?);
        return checked(Interval { low, low_closed: true, high, high_closed: true });
    }
    let Value::Text(text) = value else { return Err(unreadable()) };
    let text = text.trim();
    if text.contains(';') {
        return Err(Problem::new("several intervals joined by `;` are not available", remedy));
    }
    let low_closed = text.starts_with('[');
    let high_closed = text.ends_with(']');
    let inner = text
        .strip_prefix(['[', '('])
        .and_then(|rest| rest.strip_suffix([']', ')']))
        .ok_or_else(unreadable)?;
    let (low, high) = inner.split_once(',').ok_or_else(unreadable)?;
    let end = |text: &str| text.trim().parse::<f64>().map_err(|_| unreadable());
    checked(Interval { low: end(low)?, low_closed, high: end(high)?, high_closed })
}

fn checked(interval: Interval) -> Parsed<Interval> {
    let Interval { low, high, low_closed, high_closed } = interval;
    if low < high || (low == high && low_closed && high_closed) {
        return Ok(interval);
    }
    Err(Problem::new(
        format!("nothing lies between {low} and {high}"),
        "write the smaller number first, such as \"[5,inf)\"",
    ))
}

/// The interval as [`interval`] reads it.
pub fn interval_text(interval: &Interval) -> Value {
    let open = if interval.low_closed { '[' } else { '(' };
    let close = if interval.high_closed { ']' } else { ')' };
    Value::Text(format!("{open}{},{}{close}", interval.low, interval.high))
}

/// A metric's name, upper or lower case.
pub fn metric(value: &Value) -> Parsed<Metric> {
    let of_labels = ["auc", "mae", "rmse", "logloss"];
    match value {
        Value::Text(name) if of_labels.contains(&name.trim().to_ascii_lowercase().as_str()) => {
            Err(Problem::new(
                format!(
                    "`{}` compares scores with labels, and interactions have none",
                    value.brief()
                ),
                "use ranking metrics, such as ndcg or gauc",
            ))
        }
        other => choice(other, &Metric::ALL.map(|metric| (metric.name(), metric))),
    }
}

/// A metric with its cut-off, such as `NDCG@10`; the cut-off is 0 where the metric has none.
pub fn metric_at(value: &Value) -> Parsed<(Metric, usize)> {
    let text = text(value)?;
    let (name, k) = match text.split_once('@') {
        Some((name, k)) => (name, Some(k)),
        None => (text.as_str(), None),
    };
    let named = metric(&name.into());
    match (k, named) {
        (None, Ok(metric)) if !metric.has_cutoff() => Ok((metric, 0)),
        (None, _) => {
            Err(Problem::unreadable(value, "a metric with its cut-off", "write it as NDCG@10"))
        }
        (Some(_), Ok(metric)) if !metric.has_cutoff() => Err(Problem::new(
            format!("`{}`: this metric has no cut-off", value.brief()),
            format!("write {}", metric.name()),
        )),
        (Some(k), named) => Ok((named?, size(&k.into(), 1)?)),
    }
}
