//! The loop: next batch, step, evaluation, checkpoint.
//!
//! Order of writes at the end of an epoch: the line of `metrics.jsonl`, the checkpoint (which knows the
//! line's end), then `model.safetensors` from the best weights that the checkpoint holds. Whatever a kill
//! leaves half done, the checkpoint says what the other two should be.

use super::checkpoint::{self, Counters, Note};
use super::early_stopping::Best;
use super::interruptible::Interruptible;
use super::judge::{Judged, Part, Tested};
use super::metrics_log::{self, Line};
use super::prepare::Prepared;
use super::progress::{EpochProgress, draws_bars, say};
use super::resume::Restored;
use super::rundir::{RunDir, items_sha256};
use super::schedule::{learning_rate, planned_steps};
use super::signals::Signals;
use super::{files, model_file, results::Results};
use crate::batch::loader::prefetch;
use crate::config::Config;
use crate::eval::Metrics;
use crate::model::engine::{Engine, State, Step};
use crate::tracking::tensorboard::EventFile;
use crate::{Error, Result, baseline, config};
use serde_json::{Map, Value};
use std::time::Instant;

/// A run under way.
pub struct TrainingLoop<'a> {
    pub(super) config: &'a Config,
    prepared: &'a Prepared,
    pub(super) directory: &'a RunDir,
    pub(super) engine: &'a mut dyn Engine,
    signals: &'a Signals,
    config_yaml: String,
    items_sha256: String,
    pub(super) counters: Counters,
    pub(super) best: Option<Vec<f32>>,
    /// Begun by [`Self::train`], when the log is what it should be.
    events: Option<EventFile>,
    /// Why training has ended; an evaluation outside the plan comes later and says nothing about it.
    ended_by: &'static str,
}

impl<'a> TrainingLoop<'a> {
    /// A run at its beginning, with the engine's weights as they are.
    pub fn new(
        config: &'a Config,
        prepared: &'a Prepared,
        directory: &'a RunDir,
        engine: &'a mut dyn Engine,
        signals: &'a Signals,
    ) -> Self {
        TrainingLoop {
            config,
            prepared,
            directory,
            engine,
            signals,
            config_yaml: config::to_yaml(config),
            items_sha256: items_sha256(&prepared.dataset.items),
            counters: Counters::default(),
            best: None,
            events: None,
            ended_by: "nothing",
        }
    }

    /// Puts everything back to where a checkpoint stands, files that were written after it included.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn restore(&mut self, restored: Restored) -> Result<()> {
        self.engine.load_state(&restored.state)?;
        (self.best, self.counters) = (restored.best, restored.counters);
        files::remove_if_present(&self.directory.results())?;
        let recorded = self.counters.metrics_bytes;
        self.counters.metrics_bytes = metrics_log::cut(&self.directory.metrics(), recorded)?;
        if self.counters.metrics_bytes < recorded {
            say(
                "metrics.jsonl has lost lines since the checkpoint; going on after those that are left",
            );
        }
        // Without validation the checkpoint knows no best weights, and what an earlier end left stays until the next.
        if self.validates() { self.export() } else { Ok(()) }
    }

    /// Puts other weights in place of those drawn, before the first step.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn begin_with(&mut self, parameters: Vec<f32>) -> Result<()> {
        let zeros = vec![0.0; parameters.len()];
        let (first_moment, second_moment) = (zeros.clone(), zeros);
        self.engine.load_state(&State { parameters, first_moment, second_moment })
    }

    /// Trains to the end, a second time if the first was for nothing, and leaves the best weights in
    /// `model.safetensors`, or the last where nothing validates.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after saving; [`Error::NonFinite`] and [`Error::Io`] with the last checkpoint
    /// intact.
    pub fn train(&mut self) -> Result<()> {
        self.train_once()?;
        if let Some(reason) = self.reason_to_fall_back()? {
            say(reason);
            self.begin_again()?;
            self.train_once()?;
        }
        Ok(())
    }

    /// From where the run stands to its end.
    fn train_once(&mut self) -> Result<()> {
        let lines = metrics_log::read(&self.directory.metrics()).unwrap_or_else(|error| {
            say(format_args!("{error}\nTensorBoard will see this run from here on"));
            Vec::new()
        });
        self.events = Some(EventFile::begin(&self.directory.events(), self.config, &lines));
        while ended_by(self.config, &self.counters, self.steps_per_epoch()).is_none() {
            self.steps()?;
            if self.counters.step_in_epoch < self.steps_per_epoch() {
                // `max_steps` lies within this epoch.
                self.save()?;
                break;
            }
            let improved = self.evaluation_is_due() && self.evaluate_or_save()?;
            self.counters.epoch += 1;
            self.counters.step_in_epoch = 0;
            self.save()?;
            if improved {
                self.export()?;
            }
        }
        let ended = ended_by(self.config, &self.counters, self.steps_per_epoch());
        self.ended_by = ended.unwrap_or("nothing");
        // An evaluation outside the plan stays out of the checkpoint: resumed with more epochs, the run is
        // the same as one that had them from the start, unless `lr_fallback` took over.
        if self.counters.evaluated_at != Some(self.counters.step) && self.evaluate()? {
            self.export()?;
        }
        if !self.validates() {
            // Nothing says that any others are better. The checkpoint has them too, as those of the last step.
            self.best = Some(self.engine.parameters()?.into_owned());
            self.export()?;
        }
        Ok(())
    }

    /// Test metrics under the best weights. Where all items are ranked, also with the other choice about seen
    /// items.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and those of the engine.
    pub fn test(&mut self) -> Result<Tested> {
        let started = Instant::now();
        if let Some(best) = &self.best {
            self.engine.load_parameters(best)?;
        }
        let (judged, progress) = (self.judged(), draws_bars(self.config.run.progress));
        let mut engine = Interruptible { engine: &mut *self.engine, signals: self.signals };
        let tested = judged.test(&mut engine, progress)?;
        self.counters.eval_seconds += started.elapsed().as_secs_f64();
        Ok(tested)
    }

    /// What the baselines come to on the same rows; none where there are no rows, or no memory for them.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn baselines(&self) -> Result<Vec<baseline::Evaluation>> {
        let split = &self.prepared.split;
        if split.valid.is_empty() && split.test.is_empty() {
            return Ok(Vec::new());
        }
        let found = baseline::evaluate(&self.judged(), &|| self.signals.check());
        found.or_else(|error| match error {
            Error::Memory { .. } => {
                say(format_args!("the results are without baselines: {error}"));
                Ok(Vec::new())
            }
            error => Err(error),
        })
    }

    /// Ends the log for TensorBoard with what the run came to.
    pub fn close_events(&mut self, results: &Results) {
        if let Some(events) = &mut self.events {
            events.finish(results);
        }
    }

    /// Where the run stands.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why training has ended.
    pub fn ended_by(&self) -> &'static str {
        self.ended_by
    }

    fn steps_per_epoch(&self) -> u64 {
        self.prepared.plan.steps_per_epoch
    }

    /// The rest of the epoch under way, or of the run if that is shorter.
    fn steps(&mut self) -> Result<()> {
        if self.counters.step_in_epoch == 0 {
            (self.counters.loss_sum, self.counters.loss_rows) = (0.0, 0);
        }
        let (planned, per_epoch, peak) =
            (self.prepared.plan.planned_steps, self.steps_per_epoch(), self.peak_rate());
        let (config, counters) = (self.config, &mut self.counters);
        let batches = self.prepared.batches.clone();
        let mut loader = prefetch(batches, counters.epoch, counters.step_in_epoch)?;
        let mut progress = EpochProgress::new(
            draws_bars(config.run.progress),
            counters.epoch + 1,
            config.train.epochs,
            counters.step_in_epoch,
            per_epoch,
        );
        let mut started = Instant::now();
        while counters.step < planned {
            let Some(batch) = loader.next() else { break };
            let step = Step {
                number: counters.step + 1,
                seed: config.train.seed,
                learning_rate: learning_rate(&config.train, peak, counters.step + 1, planned),
            };
            self.engine.train_step(&batch, &step)?;
            counters.step += 1;
            counters.step_in_epoch += 1;
            counters.observe(&self.engine.outcomes(false)?);
            counters.tokens += batch.token_count() as u64;
            counters.train_seconds += started.elapsed().as_secs_f64();
            started = Instant::now();
            progress.step(counters.mean_loss(), batch.token_count() as u64);
            loader.recycle(batch);
            if self.signals.received().is_some() {
                break;
            }
        }
        drop((progress, loader));
        counters.observe(&self.engine.outcomes(true)?);
        counters.train_seconds += started.elapsed().as_secs_f64();
        self.require_finite()?;
        self.signals.check().or_else(|interrupted| self.save_and(interrupted))
    }

    /// Refuses weights that the latest step has made infinite or NaN, before they are judged or saved: its
    /// loss and gradient were finite still.
    fn require_finite(&self) -> Result<()> {
        let Some(at) = self.engine.parameters()?.iter().position(|weight| !weight.is_finite())
        else {
            return Ok(());
        };
        Err(Error::NonFinite {
            step: self.counters.step,
            tensor: self.engine.table().tensor_at(at).name.clone(),
            learning_rate: self.latest_rate(),
        })
    }

    /// Learning rate of the latest step.
    fn latest_rate(&self) -> f32 {
        let planned = self.prepared.plan.planned_steps;
        learning_rate(&self.config.train, self.peak_rate(), self.counters.step, planned)
    }

    /// Whether anything says which epoch is best.
    fn validates(&self) -> bool {
        !self.prepared.split.valid.is_empty()
    }

    fn evaluation_is_due(&self) -> bool {
        (self.counters.epoch + 1).is_multiple_of(self.config.train.eval_step.max(1))
    }

    /// An evaluation that a signal may cut off: the epoch then waits in the checkpoint for another.
    fn evaluate_or_save(&mut self) -> Result<bool> {
        self.evaluate().or_else(|error| match error {
            Error::Interrupted { .. } => self.save_and(error),
            _ => Err(error),
        })
    }

    /// Validates and logs; says whether this is the new best, whose weights are then kept. Without
    /// validation rows there is only the loss to log.
    fn evaluate(&mut self) -> Result<bool> {
        let validates = self.validates();
        let started = Instant::now();
        let (eval, counters) = (&self.config.eval, &self.counters);
        let epoch = counters.epoch + u32::from(counters.step_in_epoch > 0);
        let (judged, progress) = (self.judged(), draws_bars(self.config.run.progress));
        let mut engine = Interruptible { engine: &mut *self.engine, signals: self.signals };
        let metrics = judged.metrics(&mut engine, Part::Valid, progress)?;
        let (key, value) = (eval.valid_metric.0.key(eval.valid_metric.1), self.worth(&metrics));
        let shown = metrics.get(&key).unwrap_or_default();
        let rate = self.latest_rate();
        let counters = &mut self.counters;
        let seconds = started.elapsed().as_secs_f64();
        counters.eval_seconds += seconds;
        counters.evaluated_at = Some(counters.step);
        let metrics = metric_map(&metrics);
        let line = Line {
            epoch,
            step: counters.step,
            train_loss: counters.mean_loss(),
            learning_rate: rate,
            valid: metrics.clone(),
            tokens: counters.tokens,
            seconds: counters.train_seconds + counters.eval_seconds,
            train_seconds: counters.train_seconds,
        };
        let step = counters.step;
        let improved = validates && counters.stopping.observe(Best { epoch, step, value, metrics });
        let best = counters.stopping.best.as_ref().map_or(epoch, |best| best.epoch);
        let judged = match (validates, improved) {
            (false, _) => String::new(),
            (_, true) => format!(", {key} {shown:.4} (best so far)"),
            (_, false) => format!(", {key} {shown:.4} (best: epoch {best})"),
        };
        let trained = match step {
            0 => "not trained".to_string(),
            _ => format!("loss {:.4}, learning rate {:.3e}", line.train_loss, line.learning_rate),
        };
        say(format_args!("epoch {epoch}: {trained}{judged}, {:.1} s", line.seconds));
        let log = self.directory.metrics();
        counters.metrics_bytes = metrics_log::append(&log, counters.metrics_bytes, &line)?;
        if let Some(events) = &mut self.events {
            events.append(&line);
        }
        if improved {
            self.best = Some(self.engine.parameters()?.into_owned());
        }
        Ok(improved)
    }

    /// `valid_metric` among `metrics`, with the sign that makes more better.
    pub(super) fn worth(&self, metrics: &Metrics) -> f64 {
        let (metric, cutoff) = self.config.eval.valid_metric;
        let value = metrics.get(&metric.key(cutoff)).unwrap_or_default();
        if metric.smaller_is_better() { -value } else { value }
    }

    /// What rankers are judged on.
    pub(super) fn judged(&self) -> Judged<'a> {
        let Prepared { sequences, split, dataset, judge, .. } = self.prepared;
        Judged { config: self.config, sequences, split, items: dataset.item_count(), judge }
    }

    pub(super) fn save(&self) -> Result<()> {
        let note = Note::new(
            self.config_yaml.clone(),
            self.prepared.dataset.sha256.clone(),
            self.items_sha256.clone(),
            self.counters.clone(),
        );
        let path = self.directory.checkpoint();
        let state = self.engine.state()?;
        checkpoint::save(&path, self.engine.table(), &note, &state, self.best.as_deref())
    }

    /// Saves, then fails with `error` all the same.
    fn save_and<T>(&self, error: Error) -> Result<T> {
        self.save()?;
        say(format_args!("saved at step {}", self.counters.step));
        Err(error)
    }

    /// Makes `model.safetensors` what the best weights are.
    pub(super) fn export(&self) -> Result<()> {
        let path = self.directory.model();
        match &self.best {
            Some(best) => {
                let (model, table) = (&self.config.model, self.engine.table());
                model_file::write_model(&path, model, table, best, &self.items_sha256)
            }
            None => files::remove_if_present(&path),
        }
    }
}

/// Why a run at `counters` trains no further; `None` while it does. An epoch whose steps are done but whose
/// evaluation is missing is not over.
pub fn ended_by(
    config: &Config,
    counters: &Counters,
    steps_per_epoch: u64,
) -> Option<&'static str> {
    let train = &config.train;
    if counters.step_in_epoch == steps_per_epoch {
        None
    } else if counters.stopping.exhausted(train.stopping_step) {
        Some("early stopping")
    } else if counters.epoch >= train.epochs {
        Some("epochs")
    } else if counters.step >= planned_steps(train, steps_per_epoch) {
        Some("max_steps")
    } else {
        None
    }
}

/// Metrics as a JSON object.
pub fn metric_map(metrics: &Metrics) -> Map<String, Value> {
    metrics.iter().map(|(key, value)| (key.to_string(), Value::from(value))).collect()
}
