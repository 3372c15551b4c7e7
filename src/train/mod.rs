//! Training: the loop, its learning rate, when it stops, and all it leaves on disk.

pub mod checkpoint;
pub mod early_stopping;
pub mod fallback;
pub mod files;
pub mod id_file;
pub mod init_from;
pub mod interruptible;
pub mod judge;
pub mod metrics_log;
pub mod model_file;
pub mod negatives_file;
pub mod prepare;
pub mod progress;
pub mod recbole_file;
pub mod results;
pub mod resume;
pub mod rundir;
pub mod schedule;
pub mod signals;
pub mod tensor_file;
pub mod training_loop;

use crate::baseline::Evaluation;
use crate::config::{Config, Precision};
use crate::cpu::CpuEngine;
use crate::cuda::batch::Capacity;
use crate::cuda::choice::{self, Choice};
use crate::cuda::device::Device;
use crate::cuda::engine::CudaEngine;
use crate::cuda::machine;
use crate::cuda::memory::Storage;
use crate::data::Dataset;
use crate::model::engine::Engine;
use crate::tracking::wandb::Wandb;
use crate::{Error, Result, memory, report};
use init_from::{Counts, Source};
use judge::Tested;
use prepare::Prepared;
use progress::say;
use results::{BaselineResults, Results, others};
use resume::Restored;
use rundir::RunDir;
use signals::Signals;
use training_loop::{TrainingLoop, metric_map};

/// What `b4r-train` does: [`Trainer::run`], then the test metrics as the last line on stdout.
///
/// # Errors
/// Any [`crate::Error`]; its exit code says whether anything was written.
pub fn run(config: &Config) -> Result<()> {
    Trainer::new(config.clone()).run()?.print()
}

/// What `--explain` can say only after reading the data: its statistics go to stderr, sizes are returned.
///
/// # Errors
/// Those of [`prepare::prepare`] and [`Source::open`].
pub fn explain(config: &Config) -> Result<String> {
    let (choice, _) = choose(config)?;
    let source = Source::open(config)?;
    let prepared = prepare::prepare_with(config, None, source.as_ref())?;
    Ok(format!("run directory {}\n{choice}\n{}", rundir::locate(config).display(), prepared.plan))
}

/// Decides what computes, and opens it where it is a GPU.
fn choose(config: &Config) -> Result<(Choice, Option<Device>)> {
    let open = |number| machine::open(number, &config.model);
    choice::choose(config.run.device, config.run.precision, open)
}

/// The engine that was chosen, with freshly drawn weights and, on a GPU, all the memory that training needs.
fn engine(
    config: &Config,
    prepared: &Prepared,
    precision: Precision,
    gpu: Option<Device>,
) -> Result<Box<dyn Engine>> {
    let (model, train, items) = (&config.model, &config.train, prepared.dataset.item_count());
    let Some(gpu) = gpu else {
        return Ok(Box::new(CpuEngine::new(model, train, items, config.run.threads)?));
    };
    let capacity = Capacity::of_training(&prepared.batches, model, train);
    let rows = prepared.split.valid.len().max(prepared.split.test.len());
    let ranking = Capacity::of_ranking(config.eval.batch_size.min(rows), model.max_len);
    match precision {
        Precision::F32 => on_gpu::<f32>(gpu, config, items, capacity, ranking),
        Precision::Bf16 => on_gpu::<half::bf16>(gpu, config, items, capacity, ranking),
    }
}

fn on_gpu<S: Storage>(
    gpu: Device,
    config: &Config,
    items: usize,
    training: Capacity,
    ranking: Capacity,
) -> Result<Box<dyn Engine>> {
    let mut engine = CudaEngine::<S>::new(gpu, &config.model, &config.train, items)?;
    engine.reserve_training(training)?;
    engine.reserve_ranking(ranking)?;
    say(engine.memory());
    Ok(Box::new(engine))
}

/// A training run, from data to a run directory.
///
/// ```no_run
/// let mut config = b4r::Config::default();
/// config.data.dataset = "clicks.csv".to_string();
/// config.run.run_dir = Some("runs/clicks".into());
/// let results = b4r::Trainer::new(config).run()?;
/// println!("{:?}", results.test.get("ndcg@10"));
/// # Ok::<(), b4r::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trainer {
    config: Config,
    dataset: Option<Dataset>,
}

impl Trainer {
    /// A run that is wholly determined by `config`, the data set included.
    pub fn new(config: Config) -> Self {
        Trainer { config, dataset: None }
    }

    /// Takes the data from memory in place of `config.data.dataset`; no filter of the configuration applies.
    /// Such a run is resumed with the same data in memory again.
    pub fn dataset(mut self, dataset: Dataset) -> Self {
        self.config.data.dataset = dataset.name.clone();
        self.dataset = Some(dataset);
        self
    }

    /// Trains, tests and writes the run directory; returns what `results.json` has. Progress goes to stderr.
    /// While it runs, Ctrl-C and SIGTERM end it with [`Error::Interrupted`] once its state is saved.
    ///
    /// # Errors
    /// Any [`Error`]; its exit code says whether anything was written.
    pub fn run(self) -> Result<Results> {
        let Trainer { mut config, dataset } = self;
        crate::config::validate(&config)?;
        rundir::check(&config)?;
        let source = Source::open(&config)?;
        config.train.init_from_sha256 = match &source {
            Some(source) => Some(source.sha256.clone()),
            None => init_from::noted_hash(&config)?,
        };
        let (choice, gpu) = choose(&config)?;
        say(&choice);
        (config.run.device, config.run.precision) = (choice.device, Some(choice.precision));
        let prepared = prepare::prepare_with(&config, dataset, source.as_ref())?;
        let mut engine = engine(&config, &prepared, choice.precision, gpu)?;
        let taken_over = source
            .map(|source| {
                let items = &prepared.dataset.items;
                source.weights(&config, items, prepared.expired, engine.table())
            })
            .transpose()?;
        let directory = RunDir::open(&config)?;
        let restored = resume::restore(&directory, &config, &prepared, engine.table())?;
        if let Some(results) = finished(&config, &prepared, &directory, restored.as_ref()) {
            return Ok(results);
        }
        // From here on a signal ends the run in order.
        let signals = Signals::listen()?;
        directory.write_inputs(
            &crate::config::to_yaml(&config),
            &prepared.dataset,
            &prepared.sequences,
        )?;
        directory.write_negatives(&prepared.judge, &prepared.split)?;
        say(format_args!("run directory {}\n{}", directory.path().display(), prepared.plan));
        let mut training =
            TrainingLoop::new(&config, &prepared, &directory, &mut *engine, &signals);
        begin(&config, &mut training, restored, taken_over)?;
        // Not before: it reads the log, which is now what it should be.
        let wandb = Wandb::start(&config, directory.path());
        let outcome = complete(&config, choice, &prepared, &directory, &mut training);
        if let Some(wandb) = wandb {
            wandb.finish();
        }
        if matches!(outcome, Err(Error::Device { .. } | Error::Io { .. }))
            && directory.has_checkpoint()
        {
            say("the run directory's checkpoint is whole: --resume continues from it");
        }
        outcome
    }
}

/// Trains, tests and writes down what came of it.
fn complete(
    config: &Config,
    choice: Choice,
    prepared: &Prepared,
    directory: &RunDir,
    training: &mut TrainingLoop<'_>,
) -> Result<Results> {
    training.train()?;
    let tested = training.test()?;
    let baselines = training.baselines()?;
    let results = summary(config, choice, prepared, training, &tested, &baselines);
    results.write(&directory.results())?;
    training.close_events(&results);
    report::write_or_say(directory.path());
    Ok(results)
}

/// The results of a run that has nothing left to do.
fn finished(
    config: &Config,
    prepared: &Prepared,
    directory: &RunDir,
    restored: Option<&Restored>,
) -> Option<Results> {
    let steps_per_epoch = prepared.plan.steps_per_epoch;
    let ended = training_loop::ended_by(config, &restored?.counters, steps_per_epoch)?;
    let results = Results::read(&directory.results())?;
    say(format_args!("{} is finished (ended by {ended})", directory.path().display()));
    report::write_or_say(directory.path());
    if let Some(wandb) = Wandb::start(config, directory.path()) {
        wandb.finish();
    }
    Some(results)
}

/// Puts the weights in place that training goes on from.
fn begin(
    config: &Config,
    training: &mut TrainingLoop<'_>,
    restored: Option<Restored>,
    taken_over: Option<(Vec<f32>, Counts)>,
) -> Result<()> {
    match (restored, taken_over, &config.train.init_from) {
        (Some(restored), _, _) => {
            training.restore(restored)?;
            let at = training.counters();
            say(format_args!("resuming after {} epochs and {} steps", at.epoch, at.step));
        }
        (None, Some((weights, counts)), Some(run)) => {
            training.begin_with(weights)?;
            say(format_args!("beginning with the weights of {}: {counts}", run.display()));
        }
        (None, None, Some(_)) => {
            return Err(Error::config(
                "resume",
                "the checkpoint was removed while the run started",
                "start it again",
            ));
        }
        (None, _, None) => {}
    }
    Ok(())
}

fn summary(
    config: &Config,
    choice: Choice,
    prepared: &Prepared,
    training: &TrainingLoop<'_>,
    tested: &Tested,
    baselines: &[Evaluation],
) -> Results {
    let at = training.counters();
    let best = at.stopping.best.as_ref();
    // Without validation the last weights are kept.
    let epochs = at.epoch + u32::from(at.step_in_epoch > 0);
    let filter_seen = config.eval.filter_seen;
    let [test_seen_kept, test_seen_filtered] = others(tested, filter_seen);
    let plan = &prepared.plan;
    Results {
        version: env!("CARGO_PKG_VERSION").to_string(),
        model: results::model_name(config.model.objective).to_string(),
        dataset: prepared.dataset.name.clone(),
        data_sha256: prepared.dataset.sha256.clone(),
        device: choice.device.to_string(),
        gpu: choice.gpu,
        precision: choice.precision.name().to_string(),
        threads: actual_threads(config.run.threads),
        seed: config.train.seed,
        parameters: prepared.plan.parameters as usize,
        learning_rate: Some(training.peak_rate()),
        best_epoch: best.map_or(epochs, |best| best.epoch),
        epochs,
        steps: at.step,
        ended_by: training.ended_by().to_string(),
        valid: best.map(|best| best.metrics.clone()).unwrap_or_default(),
        test: metric_map(&tested.test),
        test_seen_kept,
        test_seen_filtered,
        baselines: baselines.iter().map(|b| BaselineResults::new(b, filter_seen)).collect(),
        seen_targets: tested.seen_targets,
        protocol: judge::describe(config, &plan.split, plan.interactions),
        train_seconds: at.train_seconds,
        eval_seconds: at.eval_seconds,
        tokens_per_second: at.tokens as f64 / at.train_seconds.max(1e-9),
        peak_rss_bytes: memory::peak_resident(),
        data: Some(prepared.statistics.clone()),
    }
}

fn actual_threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}
