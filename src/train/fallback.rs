//! A second training with a lower learning rate, where the first came to no more than popularity.
//!
//! Too large a step makes a transformer forget its input: it scores all histories alike, mostly within the
//! first steps and for good, so no later epoch and no schedule brings it back (`docs/search.md`).

use super::checkpoint::Counters;
use super::metrics_log;
use super::training_loop::TrainingLoop;
use crate::Result;
use crate::baseline::Baseline;
use crate::model::init::initial_parameters;
use crate::train::judge::Part;

impl TrainingLoop<'_> {
    /// The peak of the learning rate in the training under way.
    pub fn peak_rate(&self) -> f64 {
        let train = &self.config.train;
        match train.fallback_rate {
            Some(rate) if self.counters.fell_back => rate,
            _ => train.learning_rate,
        }
    }

    /// Why all of the run, now at its end, should be done anew; `None` where it is good as it is, or there is
    /// nothing lower to try. Weights taken over from another run are never thrown away.
    pub(super) fn reason_to_fall_back(&self) -> Result<Option<String>> {
        let train = &self.config.train;
        let Some(rate) = train.fallback_rate.filter(|&rate| rate < train.learning_rate) else {
            return Ok(None);
        };
        let Some(best) = &self.counters.stopping.best else { return Ok(None) };
        // `max_steps` ends an invocation, not the training: resumed, it may still learn.
        let is_cut_short = self.ended_by() == "max_steps";
        if self.counters.fell_back || train.init_from.is_some() || is_cut_short {
            return Ok(None);
        }
        let judged = self.judged();
        let mut popularity = Baseline::popularity(judged.sequences, judged.split, judged.items);
        let popularity = judged.metrics(&mut popularity, Part::Valid, false)?;
        if best.value > self.worth(&popularity) {
            return Ok(None);
        }
        let (metric, cutoff) = self.config.eval.valid_metric;
        Ok(Some(format!(
            "learning_rate {:?} was too high: the best epoch ranks no better than popularity ({} {:.4}). Training \
             again from the start with lr_fallback {rate:?}; `lr_fallback: none` would leave it at that",
            train.learning_rate,
            metric.key(cutoff),
            self.worth(&popularity).abs()
        )))
    }

    /// Back to the first step, with `lr_fallback`; only the time and the tokens spent so far are kept.
    pub(super) fn begin_again(&mut self) -> Result<()> {
        let (config, spent) = (self.config, &self.counters);
        self.counters = Counters {
            fell_back: true,
            tokens: spent.tokens,
            train_seconds: spent.train_seconds,
            eval_seconds: spent.eval_seconds,
            ..Counters::default()
        };
        self.best = None;
        let (range, seed) = (config.model.initializer_range, config.train.seed);
        let drawn = initial_parameters(self.engine.table(), range, seed);
        self.begin_with(drawn)?;
        self.save()?;
        // After a kill before this, resuming cuts the log to what the checkpoint says.
        metrics_log::cut(&self.directory.metrics(), 0)?;
        self.export()
    }
}
