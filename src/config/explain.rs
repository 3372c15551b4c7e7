//! A configuration as text: for people, for files, and as the difference between two.

use std::fmt::Write;

use super::Config;
use super::keys::{self, Key, Scope, Section};
use super::resolve::Resolved;
use super::value::Value;

/// The configuration as a YAML file; read alone, it gives the same configuration again, except that
/// `resume` and `overwrite` belong to one invocation and are not written down.
pub fn to_yaml(config: &Config) -> String {
    let mut text = format!("# Written by b4r {}\n", env!("CARGO_PKG_VERSION"));
    for section in Section::ALL {
        text.push_str(&format!("\n# {}\n", section.name()));
        let mut open = "";
        for (key, value) in written(config, section) {
            let (group, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if group != open && !group.is_empty() {
                text.push_str(&format!("{group}:\n"));
            }
            open = group;
            let indent = if group.is_empty() { "" } else { "  " };
            text.push_str(&format!("{indent}{name}: {value}\n"));
        }
    }
    text
}

fn written(config: &Config, section: Section) -> impl Iterator<Item = (&'static Key, Value)> {
    keys::all()
        .filter(move |key| key.section == section)
        .filter_map(|key| Some((key, (key.get)(config)?)))
}

/// Names of the keys that differ and decide the result, each with both values: `seed: 1 became 2`.
/// Empty when `after` may continue a run of `before`.
pub fn differences(before: &Config, after: &Config) -> Vec<String> {
    let shown =
        |value: Option<Value>| value.map_or("not set".to_string(), |value| value.to_string());
    keys::all()
        .filter(|key| key.scope == Scope::Result)
        .filter_map(|key| {
            let (before, after) = ((key.get)(before), (key.get)(after));
            (before != after)
                .then(|| format!("{}: {} became {}", key.name, shown(before), shown(after)))
        })
        .collect()
}

/// The configuration for people: each key, its value, and who set it; then the keys without effect.
pub fn explain(resolved: &Resolved) -> String {
    let mut rows = Vec::new();
    for section in Section::ALL {
        rows.push((section, None));
        for (key, value) in written(&resolved.config, section) {
            let origin = match resolved.origins.get(key.name) {
                Some(place) => place.to_string(),
                None => "default".to_string(),
            };
            rows.push((section, Some((key.name, value.to_string(), origin))));
        }
    }
    let width = |column: fn(&(&str, String, String)) -> usize| {
        rows.iter().filter_map(|(_, row)| row.as_ref().map(column)).max().unwrap_or(0)
    };
    /// Longer values push their origin to the right instead of widening the column.
    const MAX_VALUE_WIDTH: usize = 40;
    let name_width = width(|row| row.0.len());
    let value_width = width(|row| row.1.chars().count()).min(MAX_VALUE_WIDTH);
    let mut text = String::new();
    for (section, row) in &rows {
        // Writing to a String cannot fail.
        let _ = match row {
            None => writeln!(text, "{}", section.name()),
            Some((name, value, origin)) => {
                writeln!(text, "  {name:name_width$}  {value:value_width$}  {origin}")
            }
        };
    }
    if !resolved.satisfied.is_empty() {
        let _ = writeln!(text, "As b4r does anyway\n  {}", resolved.satisfied.join(", "));
    }
    if !resolved.notes.is_empty() {
        let _ = writeln!(text, "Notes\n  {}", resolved.notes.join("\n  "));
    }
    text
}
