//! The page around the charts. Whatever comes from outside goes through the template, which escapes it.

use super::Record;
use super::charts::{Drawn, deciding_metric};
use crate::config::keys::{self, Section};
use crate::data::{Statistics, thousands};
use crate::plot::COLORS;
use crate::train::results::{ALL_DATA, Block, Results, key_at, shown, smaller_is_better};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

const STYLE: &str = include_str!("report.css");
/// Nothing may run or be fetched, whatever a name in the data looks like.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The whole document.
pub fn render(record: &Record, charts: &[Drawn]) -> Markup {
    let results = &record.results;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "b4r: " (results.dataset) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(results))
                main {
                    (figures(record))
                    section.charts { @for drawn in charts { (figure(drawn)) } }
                    @if results.protocol.test_rows > 0 { (test(results)) }
                    section.columns {
                        (data(results))
                        (run(results))
                    }
                    (evaluations(record))
                    (configuration(record))
                }
                footer { "Written by b4r " (results.version) ". Everything here is in "
                    code { "results.json" } ", " code { "metrics.jsonl" } " and "
                    code { "config.yaml" } ", beside this file." }
            }
        }
    }
}

fn header(results: &Results) -> Markup {
    html! {
        header {
            h1 { (results.dataset) }
            p { (results.model) ", " (protocol(results)) ", seed " (results.seed) }
        }
    }
}

/// How it was evaluated, in words.
fn protocol(results: &Results) -> String {
    let protocol = &results.protocol;
    if protocol.split == ALL_DATA {
        return "trained on everything, nothing held out".to_string();
    }
    let name = protocol.name.as_ref().map_or(String::new(), |name| format!("{name}: "));
    let from = protocol.negatives.as_ref().map_or(String::new(), |from| format!("{from} "));
    let negatives = protocol.negatives_seed.map(|seed| format!(", {from}negatives of seed {seed}"));
    format!(
        "{name}{}, {} ranking{}{}, seen items {}, {} test rows of {} users",
        protocol.split.replace('_', "-"),
        protocol.mode,
        if protocol.unit == "recbole" { " in RecBole's lists" } else { "" },
        negatives.unwrap_or_default(),
        if protocol.filter_seen { "left out" } else { "ranked" },
        thousands(protocol.test_rows),
        thousands(protocol.test_users)
    )
}

/// What to see first.
fn figures(record: &Record) -> Markup {
    let results = &record.results;
    let metric = deciding_metric(record);
    let metric = metric.as_deref().filter(|key| results.test.contains_key(*key));
    let card = |value: &str, label: &str| html! { div.card { b { (value) } span { (label) } } };
    html! {
        section.cards {
            @if let Some(key) = metric {
                (card(&shown(&results.test, key), &format!("test {key}")))
                @for baseline in &results.baselines {
                    @if let Some(factor) = factor(results, &baseline.test, key) {
                        (card(&format!("{factor:.2} ×"), &format!("the {} baseline", baseline.name)))
                    }
                }
            }
            (card(&format!("{} of {}", results.best_epoch, results.epochs),
                &format!("best epoch; ended by {}", results.ended_by)))
            (card(&duration(results.train_seconds), "training"))
            (card(&thousands(results.tokens_per_second as u64), "tokens a second"))
        }
    }
}

/// How many times a baseline's metric the model's is.
fn factor(results: &Results, baseline: &serde_json::Map<String, Value>, key: &str) -> Option<f64> {
    let (own, other) = (results.test.get(key)?.as_f64()?, baseline.get(key)?.as_f64()?);
    (other > 0.0).then(|| own / other)
}

fn figure(drawn: &Drawn) -> Markup {
    let several = drawn.chart.series.len() > 1;
    html! {
        figure {
            figcaption { (drawn.title) }
            @if several {
                ul.legend {
                    @for series in &drawn.chart.series {
                        li {
                            svg width="22" height="10" aria-hidden="true" {
                                line x1="0" y1="5" x2="22" y2="5" stroke-width="3"
                                    stroke=(COLORS[series.color % COLORS.len()])
                                    stroke-dasharray=[series.dashed.then_some("7 4")];
                            }
                            (series.name)
                        }
                    }
                }
            }
            @if drawn.svg.is_empty() { p.none { "no numbers" } } @else { (PreEscaped(&drawn.svg)) }
        }
    }
}

fn test(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Test" }
            div.columns { @for block in results.blocks() { (block_table(results, &block)) } }
            p.note {
                "Ties count against the target. "
                @if results.seen_targets > 0 {
                    (thousands(results.seen_targets as u64)) " targets stand in the history already: "
                    "they are misses where seen items are left out. "
                }
                "The baselines count in the training interactions: popularity how often an item occurs, markov how "
                "often it followed the last item of the history."
            }
        }
    }
}

fn block_table(results: &Results, block: &Block<'_>) -> Markup {
    let (names, cutoffs) = results.columns();
    let best = |key: &str| {
        let values = block.rows.iter().filter_map(|(_, metrics)| metrics.get(key)?.as_f64());
        values.reduce(if smaller_is_better(key) { f64::min } else { f64::max })
    };
    html! {
        div.wide {
            table {
                caption { "Seen items " (if block.seen_left_out { "left out" } else { "ranked" }) }
                thead { tr { th { "K" } th { "model" } @for name in &names { th.number { (name) } } } }
                @for cutoff in &cutoffs {
                    tbody {
                        @for (index, (model, metrics)) in block.rows.iter().enumerate() {
                            tr.model[index == 0] {
                                th { @if index == 0 { (cutoff) } }
                                td { (model) }
                                @for name in &names {
                                    @let key = key_at(metrics, name, cutoff);
                                    @let value = metrics.get(&key).and_then(Value::as_f64);
                                    td.number.best[value.is_some() && value == best(&key)] { (shown(metrics, &key)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A table of names and values.
fn facts(title: &str, rows: &[(&str, String)]) -> Markup {
    html! {
        div.wide {
            h2 { (title) }
            table.facts {
                @for (name, value) in rows { tr { th { (name) } td { (value) } } }
            }
        }
    }
}

fn data(results: &Results) -> Markup {
    let Some(data) = &results.data else { return html! {} };
    let Statistics { lengths, .. } = data;
    let quantiles = [
        lengths.minimum,
        lengths.lower_quartile,
        lengths.median,
        lengths.upper_quartile,
        lengths.percentile_95,
        lengths.maximum,
    ];
    let mut rows = vec![
        ("file", data.path.display().to_string()),
        ("SHA-256", results.data_sha256.clone()),
        ("rows read", thousands(data.rows_read)),
        ("dropped", data.dropped.to_string()),
        ("users", thousands(data.users)),
        ("items", thousands(data.items)),
        ("interactions", thousands(data.interactions)),
        ("density", format!("{:.4} %", 100.0 * data.density)),
        ("history lengths", format!("{:.1} on average", lengths.mean)),
        ("min, quartiles, 95 %, max", quantiles.map(thousands).join(" / ")),
        ("order", if data.timed { "by time" } else { "as in the file" }.to_string()),
    ];
    rows.retain(|(name, value)| *name != "file" || !value.is_empty());
    rows.extend(data.notes.iter().map(|note| ("note", note.clone())));
    facts("Data", &rows)
}

fn run(results: &Results) -> Markup {
    let rows = [
        ("parameters", thousands(results.parameters as u64)),
        (
            "learning rate",
            results.learning_rate.map_or("-".to_string(), |rate| format!("{rate:?}")),
        ),
        ("steps", thousands(results.steps)),
        ("epochs", format!("{} (ended by {})", results.epochs, results.ended_by)),
        ("training", duration(results.train_seconds)),
        ("evaluation", duration(results.eval_seconds)),
        ("an epoch", duration(epoch_seconds(results))),
        ("tokens a second", thousands(results.tokens_per_second as u64)),
        (
            "computed by",
            format!("{}, {}, {} threads", results.device, results.precision, results.threads),
        ),
        ("peak memory", format!("{} MiB", thousands(results.peak_rss_bytes >> 20))),
    ];
    facts("Run", &rows)
}

/// Of an epoch's tokens at the rate of the whole run, which may have trained twice or stopped within an epoch.
fn epoch_seconds(results: &Results) -> f64 {
    match results.tokens_per_second {
        rate if rate > 0.0 => results.protocol.train_interactions as f64 / rate,
        _ => 0.0,
    }
}

/// Every line of `metrics.jsonl`.
fn evaluations(record: &Record) -> Markup {
    let keys: Vec<&String> =
        record.lines.first().iter().flat_map(|line| line.valid.keys()).collect();
    html! {
        details {
            summary { "All evaluations (" (record.lines.len()) ")" }
            div.wide {
                table {
                    thead { tr {
                        @for name in ["epoch", "step", "loss", "learning rate", "seconds"] { th.number { (name) } }
                        @for key in &keys { th.number { (key) } }
                    } }
                    tbody { @for line in &record.lines {
                        tr.model[line.epoch == record.results.best_epoch] {
                            td.number { (line.epoch) }
                            td.number { (line.step) }
                            td.number { (format!("{:.4}", line.train_loss)) }
                            td.number { (format!("{:.3e}", line.learning_rate)) }
                            td.number { (format!("{:.1}", line.seconds)) }
                            @for key in &keys { td.number { (shown(&line.valid, key)) } }
                        }
                    } }
                }
            }
        }
    }
}

/// Every key; those away from their defaults stand out.
fn configuration(record: &Record) -> Markup {
    let rows = |section: Section| {
        let keys = keys::all().filter(move |key| key.section == section);
        keys.filter_map(|key| {
            let value = (key.get)(&record.config)?;
            let default = (key.get)(&Default::default());
            Some((key.name, value.to_string(), default != Some(value)))
        })
    };
    html! {
        details open {
            summary { "Configuration" }
            p.note { "Values other than the default are bold." }
            div.sections {
                @for section in Section::ALL {
                    div {
                        h3 { (section.name()) }
                        table.facts {
                            @for (name, value, changed) in rows(section) {
                                tr { th { code { (name) } } td.changed[changed] { (value) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Seconds as people say them.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
