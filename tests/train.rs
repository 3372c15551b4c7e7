//! The training loop within one process: stopped at chosen points, it continues to the same bits.

use b4r::batch::Batch;
use b4r::config::{BatchSize, Config};
use b4r::cpu::CpuEngine;
use b4r::model::engine::{Engine, State, Step, StepOutcome};
use b4r::model::params::ParameterTable;
use b4r::train::checkpoint::Checkpoint;
use b4r::train::prepare::{Prepared, prepare};
use b4r::train::rundir::RunDir;
use b4r::train::signals::Signals;
use b4r::train::training_loop::TrainingLoop;
use b4r::train::{model_file, resume};
use b4r::{Dataset, Error, Result, Trainer};
use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Signals go to the whole process: one test at a time may raise one or train.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens to a run, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Never,
    /// SIGTERM arrives during this training step.
    SignalInStep(u64),
    /// SIGTERM arrives during this call to rank, counted over all evaluations of the process.
    SignalInRanking(u64),
    /// This training step finds no finite loss.
    NonFinite(u64),
}

/// An engine to which an [`Event`] happens.
struct Eventful {
    engine: CpuEngine,
    event: Event,
    rankings: u64,
}

impl Engine for Eventful {
    fn table(&self) -> &ParameterTable {
        self.engine.table()
    }

    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<()> {
        if self.event == Event::SignalInStep(step.number) {
            raise();
        }
        if self.event == Event::NonFinite(step.number) {
            let tensor = "loss".to_string();
            return Err(Error::NonFinite {
                step: step.number,
                tensor,
                learning_rate: step.learning_rate,
            });
        }
        self.engine.train_step(batch, step)
    }

    fn outcomes(&mut self, wait: bool) -> Result<Vec<StepOutcome>> {
        self.engine.outcomes(wait)
    }

    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        self.rankings += 1;
        if self.event == Event::SignalInRanking(self.rankings) {
            raise();
        }
        self.engine.rank(batch, seen)
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        self.engine.score(batch, items)
    }

    fn state(&self) -> Result<Cow<'_, State>> {
        self.engine.state()
    }

    fn parameters(&self) -> Result<Cow<'_, [f32]>> {
        self.engine.parameters()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.engine.load_state(state)
    }

    fn load_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        self.engine.load_parameters(parameters)
    }
}

fn raise() {
    // To this very thread, so that it has arrived on return.
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
}

/// A data set of 40 users on disk, and a run of 5 epochs with 4 steps each and an evaluation every second.
fn config(folder: &Path) -> Config {
    let mut text = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    for user in 0..40 {
        for time in 0..6 + user % 9 {
            text += &format!("u{user}\ti{}\t{time}\n", (user * user + time * 7) % 23);
        }
    }
    let data = folder.join("data.inter");
    fs::write(&data, text).unwrap();
    let mut config = Config::default();
    config.data.dataset = data.to_str().unwrap().to_string();
    config.model.hidden_size = 8;
    config.model.inner_size = 16;
    config.model.max_len = 8;
    config.train.epochs = 5;
    config.train.eval_step = 2;
    config.train.batch_size = BatchSize::Interactions(70);
    config.eval.batch_size = 16;
    config.run.progress = Some(false);
    config.run.run_dir = Some(folder.join("run"));
    config
}

/// One process's share of a run.
fn train(config: &Config, prepared: &Prepared, event: Event) -> Result<()> {
    let items = prepared.dataset.item_count();
    let engine = CpuEngine::new(&config.model, &config.train, items, 1).unwrap();
    let mut engine = Eventful { engine, event, rankings: 0 };
    let directory = RunDir::open(config)?;
    let restored = resume::restore(&directory, config, prepared, engine.table())?;
    let signals = Signals::listen()?;
    let mut trainer = TrainingLoop::new(config, prepared, &directory, &mut engine, &signals);
    if let Some(restored) = restored {
        trainer.restore(restored)?;
    }
    trainer.train()
}

/// The model, and the log without its times.
fn outcome(config: &Config) -> (Vec<u8>, Vec<String>) {
    let run_dir = config.run.run_dir.as_ref().unwrap();
    let log = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| line.split(",\"seconds\"").next().unwrap().to_string());
    (fs::read(run_dir.join("model.safetensors")).unwrap(), lines.collect())
}

fn checkpoint_of(config: &Config) -> Checkpoint {
    let run_dir = config.run.run_dir.as_ref().unwrap();
    Checkpoint::open(&run_dir.join("checkpoint/state.safetensors")).unwrap()
}

#[test]
fn stopped_anywhere_it_continues_to_the_same_bits() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let reference_config = config(folder.path());
    let prepared = prepare(&reference_config).unwrap();
    assert_eq!(prepared.plan.steps_per_epoch, 4);
    train(&reference_config, &prepared, Event::Never).unwrap();
    let reference = outcome(&reference_config);
    assert_eq!(reference.1.len(), 3, "after epochs 2 and 4, and at the end");

    let stops = [
        // Where each process ends: epochs completed and steps done in the next.
        (Event::SignalInStep(1), (0, 1)),
        (Event::SignalInStep(6), (1, 2)),
        // In the last step of an epoch that is to be evaluated: the evaluation is still to come.
        (Event::SignalInStep(8), (1, 4)),
        (Event::SignalInRanking(2), (1, 4)),
        // An epoch without evaluation.
        (Event::SignalInStep(12), (2, 4)),
        (Event::NonFinite(14), (3, 0)),
        // In the closing evaluation, which is no part of the plan.
        (Event::SignalInRanking(4), (5, 0)),
    ];
    let mut config = reference_config.clone();
    config.run.run_dir = Some(folder.path().join("stopped"));
    config.run.resume = true;
    for (event, (epoch, step)) in stops {
        let error = train(&config, &prepared, event).unwrap_err();
        match event {
            Event::NonFinite(number) => {
                assert!(matches!(error, Error::NonFinite { step, .. } if step == number));
            }
            _ => assert!(matches!(error, Error::Interrupted { signal: 15 }), "{error}"),
        }
        let at = checkpoint_of(&config).note.counters;
        assert_eq!((at.epoch, at.step_in_epoch), (epoch, step), "{event:?}");
    }
    train(&config, &prepared, Event::Never).unwrap();
    assert!(outcome(&config) == reference);
    let [one, other] = [&reference_config, &config].map(|config| {
        let table = ParameterTable::new(&config.model, prepared.dataset.item_count());
        let (state, best, at) = checkpoint_of(config).read(&table).unwrap();
        (state, best, at.loss_sum.to_bits(), at.tokens, at.stopping, at.metrics_bytes > 0)
    });
    assert!(one == other, "the checkpoints say the same too");
}

#[test]
fn the_model_file_is_what_the_checkpoint_holds() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.train.epochs = 2;
    let prepared = prepare(&config).unwrap();
    train(&config, &prepared, Event::Never).unwrap();
    let (model, lines) = outcome(&config);
    let run_dir = config.run.run_dir.clone().unwrap();
    // A kill between checkpoint and model, with a line of the next epoch already in the log.
    fs::write(run_dir.join("model.safetensors"), "torn").unwrap();
    let log = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    fs::write(run_dir.join("metrics.jsonl"), log + "{\"epoch\":3,").unwrap();
    config.run.resume = true;
    train(&config, &prepared, Event::Never).unwrap();
    assert!(outcome(&config) == (model, lines));
    let table = ParameterTable::new(&config.model, prepared.dataset.item_count());
    let (_, best, _) = checkpoint_of(&config).read(&table).unwrap();
    let read = model_file::read_model(&run_dir.join("model.safetensors"), &table).unwrap();
    assert_eq!(best, Some(read));
}

#[test]
fn data_from_memory_trains_and_resumes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = |items: usize| {
        let history =
            move |user: usize| (0..6).map(move |step| format!("i{}", (user + step) % items));
        let histories = (0..20).map(move |user| (format!("u{user}"), history(user)));
        Dataset::from_histories("memory", histories).unwrap()
    };
    let run = |name: &str, epochs: u32, items: usize| {
        // The first two begin from nothing, others from the first.
        let init_from = (!["one", "two"].contains(&name)).then(|| folder.path().join("one"));
        let mut config = config(folder.path());
        config.run.run_dir = Some(folder.path().join(name));
        config.run.resume = true;
        config.train.epochs = epochs;
        config.train.init_from = init_from;
        Trainer::new(config.clone()).dataset(data(items)).run().map(|_| outcome(&config))
    };
    let reference = run("one", 4, 11).unwrap();
    run("two", 2, 11).unwrap();
    let error = run("two", 4, 12).unwrap_err().to_string();
    assert!(error.contains("another interaction file"), "{error}");
    assert!(run("two", 4, 11).unwrap() == reference);
    let reference = run("three", 4, 12).unwrap();
    run("four", 2, 12).unwrap();
    assert!(run("four", 4, 12).unwrap() == reference);
}

#[test]
fn a_configuration_is_checked_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.model.n_heads = 3;
    let error = Trainer::new(config).run().unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("n_heads"), "{error}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn another_vocabulary_is_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.train.epochs = 1;
    let mut prepared = prepare(&config).unwrap();
    train(&config, &prepared, Event::Never).unwrap();
    config.run.resume = true;
    prepared.dataset.items = Default::default();
    (0..23).for_each(|item| prepared.dataset.items.push(&format!("j{item}")));
    let error = train(&config, &prepared, Event::Never).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("vocabulary"), "{error}");
}
