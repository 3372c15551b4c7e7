//! Training: the loop, its learning rate, when it stops, and all it leaves on disk.

pub mod checkpoint;
pub mod early_stopping;
pub mod files;
pub mod interruptible;
pub mod metrics_log;
pub mod model_file;
pub mod prepare;
pub mod progress;
pub mod results;
pub mod resume;
pub mod rundir;
pub mod schedule;
pub mod signals;
pub mod tensor_file;
pub mod trainer;

use crate::config::{Config, SplitRule};
use crate::cpu::CpuEngine;
use crate::model::engine::Engine;
use crate::{Result, memory};
use prepare::Prepared;
use progress::say;
use results::{Protocol, Results};
use rundir::RunDir;
use signals::Signals;
use trainer::{Trainer, metric_map};

/// Trains, tests and writes the run directory; the last line on stdout is the test metrics.
///
/// # Errors
/// Any [`crate::Error`]; its exit code says whether anything was written.
pub fn run(config: &Config) -> Result<()> {
    rundir::check(config)?;
    let prepared = prepare::prepare(config)?;
    let mut engine = CpuEngine::new(
        &config.model,
        &config.train,
        prepared.dataset.item_count(),
        config.run.threads,
    )?;
    let directory = RunDir::open(config)?;
    let restored = resume::restore(&directory, config, &prepared, engine.table())?;
    if let Some(restored) = &restored {
        let steps_per_epoch = prepared.plan.steps_per_epoch;
        let ended = trainer::ended_by(config, &restored.counters, steps_per_epoch);
        let results = ended.and_then(|_| Results::read(&directory.results()));
        if let (Some(ended), Some(results)) = (ended, results) {
            say(format_args!("{} is finished (ended by {ended})", directory.path().display()));
            return results.print();
        }
    }
    // From here on a signal ends the run in order.
    let signals = Signals::listen()?;
    directory.write_inputs(
        &crate::config::to_yaml(config),
        &prepared.dataset,
        &prepared.sequences,
    )?;
    say(format_args!("run directory {}\n{}", directory.path().display(), prepared.plan));
    let mut trainer = Trainer::new(config, &prepared, &directory, &mut engine, &signals);
    if let Some(restored) = restored {
        trainer.restore(restored)?;
        let at = trainer.counters();
        say(format_args!("resuming after {} epochs and {} steps", at.epoch, at.step));
    }
    trainer.train()?;
    let tested = trainer.test()?;
    let results = summary(config, &prepared, &trainer, tested);
    results.write(&directory.results())?;
    results.print()
}

/// What `--explain` can say only after reading the data: its statistics go to stderr, sizes are returned.
///
/// # Errors
/// Those of [`prepare::prepare`].
pub fn explain(config: &Config) -> Result<String> {
    let prepared = prepare::prepare(config)?;
    Ok(format!("run directory {}\n{}", rundir::locate(config).display(), prepared.plan))
}

fn summary(
    config: &Config,
    prepared: &Prepared,
    trainer: &Trainer<'_>,
    [filtered, kept]: [crate::eval::Metrics; 2],
) -> Results {
    let at = trainer.counters();
    let best = at.stopping.best.as_ref();
    let filter_seen = config.eval.filter_seen;
    let (test, other) = if filter_seen { (&filtered, &kept) } else { (&kept, &filtered) };
    let other = metric_map(other);
    Results {
        version: env!("CARGO_PKG_VERSION").to_string(),
        dataset: prepared.dataset.name.clone(),
        data_sha256: prepared.dataset.sha256.clone(),
        device: "cpu".to_string(),
        precision: "f32".to_string(),
        threads: actual_threads(config.run.threads),
        seed: config.train.seed,
        parameters: prepared.plan.parameters as usize,
        best_epoch: best.map_or(0, |best| best.epoch),
        epochs: at.epoch + u32::from(at.step_in_epoch > 0),
        steps: at.step,
        ended_by: trainer.ended_by().to_string(),
        valid: best.map(|best| best.metrics.clone()).unwrap_or_default(),
        test: metric_map(test),
        test_seen_kept: filter_seen.then(|| other.clone()),
        test_seen_filtered: (!filter_seen).then_some(other),
        seen_targets: filtered.seen_targets,
        protocol: Protocol {
            split: match config.eval.split {
                SplitRule::LeaveOneOut => "leave_one_out".to_string(),
            },
            mode: "full".to_string(),
            filter_seen,
            test_rows: test.rows,
        },
        train_seconds: at.train_seconds,
        eval_seconds: at.eval_seconds,
        tokens_per_second: at.tokens as f64 / at.train_seconds.max(1e-9),
        peak_rss_bytes: memory::peak_resident(),
    }
}

fn actual_threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}
