//! Rows a second from an interaction file to what training begins with.

use super::bars::Bars;
use super::rates::median;
use super::report::Report;
use super::settings::Settings;
use super::workload::Workload;
use crate::batch::{Batch, TrainingBatches};
use crate::config::{Config, DataConfig};
use crate::cpu::CpuEngine;
use crate::model::engine::{Engine, Step};
use crate::{Error, Result, data};
use clap::ArgMatches;
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[derive(Serialize)]
struct Row {
    dataset: String,
    file: &'static str,
    rows: u64,
    users: u64,
    items: u64,
    /// Reading, filters, numbering, order.
    read_seconds: f64,
    /// With split and first batch.
    seconds_to_first_batch: f64,
    /// With the model and its first step.
    seconds_to_first_step: f64,
    rows_a_second: f64,
}

/// `b4r-bench prepare`.
///
/// # Errors
/// Those of the data.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let mut report = Report::new("prepare");
    let folder = tempfile::tempdir().map_err(Error::io("make", Path::new("a temporary folder")))?;
    let datasets = match arguments.get_one::<String>("dataset") {
        Some(dataset) => vec![(dataset.clone(), dataset.clone())],
        None => drawn(arguments, folder.path())?,
    };
    let settings = Settings::new(arguments);
    let mut rows = Vec::new();
    for (name, dataset) in &datasets {
        let config = DataConfig { dataset: dataset.clone(), ..DataConfig::default() };
        if let Some(forget) = forgotten(Path::new(dataset)) {
            rows.push(measure(name, "not in memory", &config, &settings, forget)?);
        }
        rows.push(measure(name, "in memory", &config, &settings, || ())?);
    }
    report.chart(Bars {
        title: "Preparing data, rows a second".to_string(),
        groups: rows
            .iter()
            .map(|row| (row.dataset.clone(), vec![(row.file.to_string(), row.rows_a_second)]))
            .collect(),
    });
    report.table("prepare", &rows);
    report.note(
        "One thread, but for the step, which is one of the default model. \"Not in memory\": the system was asked to \
         drop the file from its cache before each repeat. There is no store of prepared data: every run reads its file.",
    );
    report.write(arguments)
}

/// Files with the histories of workloads, and what they are called.
fn drawn(arguments: &ArgMatches, folder: &Path) -> Result<Vec<(String, String)>> {
    let write = |workload: Workload| {
        let path = folder.join(format!("{}.inter", workload.name));
        workload.histories()?.write(&path)?;
        Ok((format!("{}, drawn", workload.name), path.display().to_string()))
    };
    Workload::from_arguments(arguments)?.into_iter().map(write).collect()
}

/// Drops a file from the system's cache; `None` where that cannot be asked for.
#[cfg(target_os = "linux")]
fn forgotten(path: &Path) -> Option<impl Fn() + use<>> {
    use std::os::fd::AsRawFd;
    let file = File::open(path).ok().filter(|_| path.is_file())?;
    file.sync_all().ok()?;
    Some(move || {
        // SAFETY: the descriptor is open as long as the closure, and a hint changes no memory.
        _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }
    })
}

#[cfg(not(target_os = "linux"))]
fn forgotten(path: &Path) -> Option<impl Fn() + use<>> {
    File::open(path).ok().filter(|_| false).map(|_| || ())
}

fn measure(
    name: &str,
    file: &'static str,
    config: &DataConfig,
    settings: &Settings,
    before: impl Fn(),
) -> Result<Row> {
    let defaults = Config::default();
    let [mut read, mut batched, mut stepped] = [const { Vec::new() }; 3];
    let mut statistics = None;
    for _ in 0..settings.steps {
        before();
        let start = Instant::now();
        let (dataset, found) = data::load(config, false)?;
        read.push(start.elapsed().as_secs_f64());
        let (times, seed) = (dataset.times.as_deref(), defaults.eval_seed());
        let split = data::split(&dataset.sequences, times, &defaults.eval, seed)?;
        let items = dataset.item_count();
        let (sequences, split) = (Arc::new(dataset.sequences), Arc::new(split));
        let batches =
            TrainingBatches::new(sequences, split, items, &defaults.model, &defaults.train)?;
        let mut batch = Batch::default();
        batches.epoch(0).batch(0, &mut batch);
        batched.push(start.elapsed().as_secs_f64());
        let Config { model, train, .. } = &defaults;
        let mut engine = CpuEngine::new(model, train, items, settings.threads)?;
        engine.train_step(&batch, &Step { number: 1, seed, learning_rate: 1e-3 })?;
        stepped.push(start.elapsed().as_secs_f64());
        statistics = Some(found);
    }
    let Some(statistics) = statistics else {
        return Err(Error::config("steps", "is 0", "repeat at least once"));
    };
    let read_seconds = median(&mut read);
    Ok(Row {
        dataset: name.to_string(),
        file,
        rows: statistics.rows_read,
        users: statistics.users,
        items: statistics.items,
        read_seconds,
        seconds_to_first_batch: median(&mut batched),
        seconds_to_first_step: median(&mut stepped),
        rows_a_second: statistics.rows_read as f64 / read_seconds,
    })
}
