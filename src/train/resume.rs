//! Whether a checkpoint may be continued by the run at hand.

use super::checkpoint::{Checkpoint, Counters};
use super::prepare::Prepared;
use super::progress::say;
use super::rundir::{RunDir, items_sha256};
use super::schedule;
use crate::config::{self, Config};
use crate::model::engine::State;
use crate::model::params::ParameterTable;
use crate::{Error, Result};

/// What a run continues from.
pub struct Restored {
    /// Weights and moments.
    pub state: State,
    /// Weights of the best epoch, once there has been an evaluation.
    pub best: Option<Vec<f32>>,
    /// Where the run stands.
    pub counters: Counters,
}

/// The checkpoint of `directory` when the configuration asks to resume and there is one.
///
/// # Errors
/// [`Error::Checkpoint`] when it is damaged or belongs to another run: other data, or a configuration
/// that differs in more than threads, device and epochs.
pub fn restore(
    directory: &RunDir,
    config: &Config,
    prepared: &Prepared,
    table: &ParameterTable,
) -> Result<Option<Restored>> {
    if !config.run.resume {
        return Ok(None);
    }
    let path = directory.checkpoint();
    if !directory.has_checkpoint() {
        say(format_args!("{} holds no checkpoint: starting afresh", directory.path().display()));
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(&path)?;
    let note = &checkpoint.note;
    let before = config::parse(&note.config, &path)
        .map_err(|error| checkpoint.problem(format!("its configuration is unusable: {error}")))?;
    let differences = differences(&before, config, prepared.plan.steps_per_epoch);
    if !differences.is_empty() {
        return Err(Error::Checkpoint {
            path,
            problem: format!("made by another configuration: {}", differences.join("; ")),
            remedy:
                "give the values it was made with (its run's config.yaml has them), or start over \
                     with --overwrite or in another run_dir"
                    .to_string(),
        });
    }
    let other_data = |what: String| Error::Checkpoint {
        path: path.clone(),
        problem: format!("made from {what}"),
        remedy: "give the interaction file it was made from, or start over with --overwrite or in \
                 another run_dir"
            .to_string(),
    };
    if note.data_sha256 != prepared.dataset.sha256 {
        let (before, now) = (&note.data_sha256, &prepared.dataset.sha256);
        return Err(other_data(format!("another interaction file: SHA-256 {before} became {now}")));
    }
    if note.items_sha256 != items_sha256(&prepared.dataset.items) {
        return Err(other_data("data with another item vocabulary".to_string()));
    }
    checkpoint.check_counters(prepared.plan.steps_per_epoch)?;
    let (state, best, counters) = checkpoint.read(table)?;
    Ok(Some(Restored { state, best, counters }))
}

/// Keys that decide the result and differ. `epochs` and `max_steps` only say when the run ends, unless the
/// learning rate falls towards that end: every step so far would have had another rate.
fn differences(before: &Config, now: &Config, steps_per_epoch: u64) -> Vec<String> {
    let mut found = config::differences(before, now);
    let planned = |config: &Config| schedule::planned_steps(&config.train, steps_per_epoch);
    if schedule::depends_on_length(&now.train) && planned(before) != planned(now) {
        found.push(format!(
            "the last step (epochs, max_steps), to which lr_schedule falls: {} became {}",
            planned(before),
            planned(now)
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Schedule;

    #[test]
    fn only_what_leaves_the_steps_as_they_were_may_differ() {
        let before = Config::default();
        let mut now = before.clone();
        now.run.threads = 7;
        now.train.epochs += 5;
        assert!(differences(&before, &now, 10).is_empty());
        now.train.learning_rate *= 2.0;
        assert_eq!(differences(&before, &now, 10).len(), 1);
        let mut before = Config::default();
        before.train.schedule = Schedule::Linear;
        let mut now = before.clone();
        assert!(differences(&before, &now, 10).is_empty());
        now.train.epochs += 1;
        let found = differences(&before, &now, 10);
        assert!(found.len() == 1 && found[0].contains("lr_schedule"), "{found:?}");
        now.train.max_steps = Some(10 * u64::from(before.train.epochs));
        assert!(differences(&before, &now, 10).is_empty(), "it ends at the same step");
    }
}
