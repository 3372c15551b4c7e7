//! `b4r-bench runs DIR...`: finished runs side by side, as a table, a chart, JSON or CSV.

use crate::config::keys;
use crate::data::thousands;
use crate::plot::{Chart, Ground, Series};
use crate::report::Record;
use crate::train::files;
use crate::train::results::{distinct, shown, smaller_is_better};
use crate::{Error, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Size of the chart.
const SIZE: (u32, u32) = (960, 540);

/// A run and what it is called here.
struct Run {
    name: String,
    folder: PathBuf,
    record: Record,
}

/// The subcommand's arguments.
pub fn command() -> Command {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("runs")
        .about("Compares finished runs: test metrics, baselines, times, and the keys that differ")
        .arg(
            Arg::new("runs")
                .value_name("DIR")
                .num_args(1..)
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Run directories of b4r-train"),
        )
        .arg(
            Arg::new("metric")
                .long("metric")
                .value_name("METRIC@K")
                .help("Metric to sort by and to draw; the first run's valid_metric otherwise"),
        )
        .arg(
            Arg::new("svg")
                .long("svg")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Draw the validation curves of all runs into this file"),
        )
        .arg(
            Arg::new("over")
                .long("over")
                .value_parser(["epoch", "seconds"])
                .default_value("epoch")
                .help("What the curves are drawn over"),
        )
        .arg(switch("json", "Print JSON, with everything results.json has"))
        .arg(switch("csv", "Print CSV, a line for each run").conflicts_with("json"))
}

/// Compares the runs that `arguments` name; the outcome goes to stdout.
///
/// # Errors
/// Those of [`Record::read`]; [`Error::Config`] for a metric that no run has; [`Error::Io`].
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let folders = arguments.get_many::<PathBuf>("runs").into_iter().flatten();
    let mut runs = read(folders.map(PathBuf::as_path))?;
    let metric = metric(&runs, arguments.get_one::<String>("metric"))?;
    // Best first; runs without the metric (all_data) last.
    let sign = if smaller_is_better(&metric) { -1.0 } else { 1.0 };
    let value = |run: &Run| {
        let value = run.record.results.test.get(&metric).and_then(Value::as_f64);
        value.map_or(f64::NEG_INFINITY, |value| sign * value)
    };
    runs.sort_by(|a, b| value(b).total_cmp(&value(a)));
    if let Some(path) = arguments.get_one::<PathBuf>("svg") {
        let over_epochs = arguments.get_one::<String>("over").is_none_or(|over| over == "epoch");
        let svg = curves(&runs, &metric, over_epochs).to_svg(SIZE, Ground::File);
        let svg =
            svg.map_err(|error| Error::io("draw", path)(std::io::Error::other(error.to_string())))?;
        files::replace(path, |out| out.write_all(svg.as_bytes()))?;
    }
    let text = if arguments.get_flag("json") {
        format!("{:#}\n", Value::Array(runs.iter().map(as_json).collect()))
    } else if arguments.get_flag("csv") {
        as_csv(&runs)?
    } else {
        for_people(&runs, &metric)
    };
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(Error::io("write", Path::new("stdout")))
}

fn read<'a>(folders: impl Iterator<Item = &'a Path> + Clone) -> Result<Vec<Run>> {
    let short = |folder: &Path| {
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let is_double =
        |name: &str| folders.clone().filter(|&folder| short(folder) == name).count() > 1;
    let run = |folder: &Path| {
        let name = Some(short(folder)).filter(|name| !is_double(name));
        Ok(Run {
            name: name.unwrap_or_else(|| folder.display().to_string()),
            folder: folder.to_path_buf(),
            record: Record::read(folder)?,
        })
    };
    folders.clone().map(run).collect()
}

/// The metric asked for, which some run has to have.
fn metric(runs: &[Run], asked: Option<&String>) -> Result<String> {
    let (metric, cutoff) = runs[0].record.config.eval.valid_metric;
    let Some(asked) = asked else { return Ok(metric.key(cutoff)) };
    let asked = asked.to_lowercase();
    let known =
        || distinct(runs.iter().flat_map(|run| run.record.results.test.keys()).map(String::as_str));
    if known().contains(&asked.as_str()) {
        return Ok(asked);
    }
    Err(Error::config(
        "metric",
        format!("none of the runs has `{asked}`"),
        format!("write one of {}", known().join(", ")),
    ))
}

fn for_people(runs: &[Run], metric: &str) -> String {
    let mut text = format!("{}\n", table(runs, metric));
    if runs.iter().any(|run| protocol(run) != protocol(&runs[0])) {
        text.push_str(
            "Mind: these runs differ in data or protocol, so their metrics cannot be compared.\n",
        );
    }
    match different_keys(runs) {
        Some(table) => text.push_str(&format!("\nKeys that differ\n{table}\n")),
        None if runs.len() > 1 => text.push_str("No key differs.\n"),
        None => {}
    }
    text
}

/// What has to be the same for metrics to be compared.
fn protocol(run: &Run) -> (&str, &crate::train::results::Protocol) {
    (&run.record.results.data_sha256, &run.record.results.protocol)
}

/// A row for each run: the metrics at the cut-off of `metric`, what the baselines reach, and what it took.
fn table(runs: &[Run], metric: &str) -> Table {
    let cutoff = metric.split_once('@').map_or("", |(_, cutoff)| cutoff);
    let keys = runs.iter().flat_map(|run| run.record.results.test.keys()).map(String::as_str);
    let keys = distinct(keys.filter(|key| key.split_once('@').map_or("", |(_, at)| at) == cutoff));
    // With one target a row, recall is hit and mrr is map: one column is enough.
    let values =
        |key: &str| runs.iter().map(|run| run.record.results.test.get(key)).collect::<Vec<_>>();
    let is_new = |(at, key): &(usize, &&str)| {
        **key == metric || !keys[..*at].iter().any(|before| values(before) == values(key))
    };
    let keys: Vec<&str> = keys.iter().enumerate().filter(is_new).map(|(_, key)| *key).collect();
    let baselines = runs.iter().flat_map(|run| &run.record.results.baselines);
    let baselines = distinct(baselines.map(|baseline| baseline.name.as_str()));
    let mut header = vec!["run".to_string(), "data".to_string(), format!("valid {metric}")];
    header.extend(keys.iter().map(|key| format!("test {key}")));
    header.extend(baselines.iter().map(|name| format!("{name} {metric}")));
    header.extend(
        ["seed", "best epoch", "epochs", "parameters", "training s", "tokens/s"].map(String::from),
    );
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for run in runs {
        let results = &run.record.results;
        let mut row =
            vec![run.name.clone(), results.dataset.clone(), shown(&results.valid, metric)];
        row.extend(keys.iter().map(|key| shown(&results.test, key)));
        row.extend(baselines.iter().map(|name| {
            results.baseline(name).map_or("-".to_string(), |test| shown(test, metric))
        }));
        row.extend([
            results.seed.to_string(),
            results.best_epoch.to_string(),
            results.epochs.to_string(),
            thousands(results.parameters as u64),
            format!("{:.1}", results.train_seconds),
            thousands(results.tokens_per_second as u64),
        ]);
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The keys that decide the numbers and are not the same in all runs: a row each, a column for each run.
fn different_keys(runs: &[Run]) -> Option<Table> {
    let first = &runs[0].record.config;
    let differ = |key: &&keys::Key| {
        let value = (key.get)(first);
        runs.iter().any(|run| (key.get)(&run.record.config) != value)
    };
    let keys: Vec<_> =
        keys::all().filter(|key| key.section != keys::Section::Run).filter(differ).collect();
    if keys.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["key"].into_iter().chain(runs.iter().map(|run| run.name.as_str())));
    for key in keys {
        let value = |run: &Run| {
            (key.get)(&run.record.config).map_or("-".to_string(), |value| value.to_string())
        };
        table.add_row([key.name.to_string()].into_iter().chain(runs.iter().map(value)));
    }
    Some(table)
}

/// Validation curves of all runs, and the baselines of the first.
fn curves(runs: &[Run], metric: &str, over_epochs: bool) -> Chart {
    let curve = |(color, run): (usize, &Run)| Series {
        name: run.name.clone(),
        points: run
            .record
            .lines
            .iter()
            .filter_map(|line| {
                let x = if over_epochs { line.epoch.into() } else { line.seconds };
                Some((x, line.valid.get(metric)?.as_f64()?))
            })
            .collect(),
        color,
        dashed: false,
    };
    let mut series: Vec<Series> = runs.iter().enumerate().map(curve).collect();
    let points = || series.iter().flat_map(|series| &series.points).map(|point| point.0);
    let ends = [points().fold(f64::INFINITY, f64::min), points().fold(0.0, f64::max)];
    for baseline in runs.iter().take(1).flat_map(|run| &run.record.results.baselines) {
        let Some(level) = baseline.valid.get(metric).and_then(Value::as_f64) else { continue };
        let (name, color) = (baseline.name.clone(), series.len());
        series.push(Series {
            name,
            points: ends.map(|x| (x, level)).to_vec(),
            color,
            dashed: true,
        });
    }
    Chart {
        x_label: if over_epochs { "epoch" } else { "seconds" }.to_string(),
        y_label: format!("validation {metric}"),
        series,
        mark: None,
        from_zero: true,
    }
}

fn as_json(run: &Run) -> Value {
    json!({ "run": run.folder.display().to_string(), "results": run.record.results })
}

fn as_csv(runs: &[Run]) -> Result<String> {
    let keys = runs.iter().flat_map(|run| run.record.results.test.keys()).map(String::as_str);
    let keys = distinct(keys);
    let baselines = runs.iter().flat_map(|run| &run.record.results.baselines);
    let baselines = distinct(baselines.map(|baseline| baseline.name.as_str()));
    let mut header: Vec<String> = [
        "run",
        "dataset",
        "split",
        "mode",
        "filter_seen",
        "test_rows",
        "seed",
        "best_epoch",
        "epochs",
        "steps",
        "parameters",
        "train_seconds",
        "eval_seconds",
        "tokens_per_second",
        "peak_rss_bytes",
        "ended_by",
    ]
    .map(String::from)
    .to_vec();
    let full = |metrics: &Map<String, Value>, key: &str| {
        metrics.get(key).map_or(String::new(), Value::to_string)
    };
    header.extend(keys.iter().map(|key| format!("test/{key}")));
    for name in &baselines {
        header.extend(keys.iter().map(|key| format!("{name}/{key}")));
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let wrong =
        |error: csv::Error| Error::io("lay out", Path::new("CSV"))(std::io::Error::other(error));
    writer.write_record(&header).map_err(wrong)?;
    for run in runs {
        let results = &run.record.results;
        let protocol = &results.protocol;
        let mut row = vec![
            run.folder.display().to_string(),
            results.dataset.clone(),
            protocol.split.clone(),
            protocol.mode.clone(),
            protocol.filter_seen.to_string(),
            protocol.test_rows.to_string(),
            results.seed.to_string(),
            results.best_epoch.to_string(),
            results.epochs.to_string(),
            results.steps.to_string(),
            results.parameters.to_string(),
            results.train_seconds.to_string(),
            results.eval_seconds.to_string(),
            results.tokens_per_second.to_string(),
            results.peak_rss_bytes.to_string(),
            results.ended_by.clone(),
        ];
        row.extend(keys.iter().map(|key| full(&results.test, key)));
        for name in &baselines {
            row.extend(
                keys.iter().map(|key| {
                    results.baseline(name).map_or(String::new(), |test| full(test, key))
                }),
            );
        }
        writer.write_record(&row).map_err(wrong)?;
    }
    let bytes = writer.into_inner().map_err(|error| {
        Error::io("lay out", Path::new("CSV"))(std::io::Error::other(error.to_string()))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
