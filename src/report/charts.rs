//! The curves of a run.

use super::Record;
use crate::plot::{Chart, Ground, Series};
use crate::train::metrics_log::Line;
use serde_json::{Map, Value};
use std::io;

const SIZE: (u32, u32) = (680, 340);

/// A chart and what stands above it.
pub struct Drawn {
    /// Heading.
    pub title: String,
    /// The chart, for its legend.
    pub chart: Chart,
    /// SVG; empty where there was nothing to draw.
    pub svg: String,
}

/// All charts that a run has the numbers for.
///
/// # Errors
/// What the library says.
pub fn of(record: &Record) -> io::Result<Vec<Drawn>> {
    let lines = &record.lines;
    let mut charts = Vec::new();
    if let Some(metric) = deciding_metric(record) {
        charts.push((format!("Validation {metric}"), decisive(record, &metric)));
        charts.push(("Validation metrics".to_string(), metrics_at(lines, &metric)));
    }
    charts.push(("Training loss".to_string(), single(lines, "loss", |line| Some(line.train_loss))));
    charts.push(("Tokens a second".to_string(), speed(lines)));
    if lines.windows(2).any(|pair| pair[0].learning_rate != pair[1].learning_rate) {
        let rate = |line: &Line| Some(f64::from(line.learning_rate));
        charts.push(("Learning rate".to_string(), single(lines, "learning rate", rate)));
    }
    let drawn = charts.into_iter().map(|(title, chart)| {
        let svg = chart.to_svg(SIZE, Ground::Page);
        let svg = svg.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Drawn { title, chart, svg })
    });
    drawn.collect()
}

/// Key of the metric that decided which epoch is best, where the run has validated.
pub fn deciding_metric(record: &Record) -> Option<String> {
    let (metric, cutoff) = record.config.eval.valid_metric;
    let key = metric.key(cutoff);
    record.lines.iter().any(|line| line.valid.contains_key(&key)).then_some(key)
}

fn chart(series: Vec<Series>, y_label: &str) -> Chart {
    let x_label = "epoch".to_string();
    Chart { x_label, y_label: y_label.to_string(), series, mark: None, from_zero: true }
}

fn points(lines: &[Line], value: impl Fn(&Line) -> Option<f64>) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line.epoch.into(), value(line)?))).collect()
}

fn metric(metrics: &Map<String, Value>, key: &str) -> Option<f64> {
    metrics.get(key)?.as_f64()
}

/// The metric that decides, its best epoch, and where the baselines stand.
fn decisive(record: &Record, key: &str) -> Chart {
    let points = points(&record.lines, |line| metric(&line.valid, key));
    let ends = [points.first(), points.last()].map(|point| point.map_or(0.0, |point| point.0));
    let best = f64::from(record.results.best_epoch);
    let mark = points.iter().find(|point| point.0 == best).map(|&(x, y)| (x, y, 0));
    let mut series =
        vec![Series { name: record.results.model.clone(), points, color: 0, dashed: false }];
    for (index, baseline) in record.results.baselines.iter().enumerate() {
        let Some(level) = metric(&baseline.valid, key) else { continue };
        series.push(Series {
            name: baseline.name.clone(),
            points: ends.map(|x| (x, level)).to_vec(),
            color: index + 1,
            dashed: true,
        });
    }
    Chart { mark, ..chart(series, key) }
}

/// All metrics at the cut-off of `key`; those that are equal throughout share a line.
fn metrics_at(lines: &[Line], key: &str) -> Chart {
    let cutoff = key.split_once('@').map_or("", |(_, cutoff)| cutoff);
    let mut series: Vec<Series> = Vec::new();
    let keys = lines.first().into_iter().flat_map(|line| line.valid.keys());
    for key in keys.filter(|key| key.split_once('@').map_or("", |(_, at)| at) == cutoff) {
        let points = points(lines, |line| metric(&line.valid, key));
        match series.iter_mut().find(|series| series.points == points) {
            Some(same) => same.name = format!("{}, {key}", same.name),
            None => {
                let color = series.len();
                series.push(Series { name: key.clone(), points, color, dashed: false });
            }
        }
    }
    chart(series, "metric")
}

fn single(lines: &[Line], name: &str, value: impl Fn(&Line) -> Option<f64>) -> Chart {
    let points = points(lines, value);
    let from_zero = name != "loss";
    let series = Series { name: name.to_string(), points, color: 0, dashed: false };
    Chart { from_zero, ..chart(vec![series], name) }
}

/// Tokens worked through between two evaluations, a second of training.
fn speed(lines: &[Line]) -> Chart {
    let mut before = (0, 0.0);
    let mut points = Vec::new();
    for line in lines {
        let (tokens, seconds) =
            (line.tokens.saturating_sub(before.0), line.train_seconds - before.1);
        before = (line.tokens, line.train_seconds);
        if tokens > 0 && seconds > 0.0 {
            points.push((line.epoch.into(), tokens as f64 / seconds));
        }
    }
    let series = Series { name: "tokens a second".to_string(), points, color: 2, dashed: false };
    chart(vec![series], "tokens/s")
}
