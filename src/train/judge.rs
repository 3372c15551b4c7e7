//! What a run is judged by: rows, negatives and counts, fixed before training.

use super::progress::say;
use super::results::Protocol;
use crate::config::{
    Config, EvalUnit, Grouping, HeldOut, Mode, Shares, SplitRule, protocol as published,
};
use crate::data::{EvalRow, Sequences, Split, SplitCounts, keep_all, training_counts};
use crate::eval::{Candidates, Catalogue, Draw, draw};
use crate::{Error, Result};

/// Negatives and counts of a run.
#[derive(Debug, Default)]
pub struct Judge {
    /// `[V]` training interactions of each item.
    pub counts: Vec<u32>,
    /// What validation rows are ranked among; `None`: all items.
    pub valid: Option<Candidates>,
    /// What test rows are ranked among.
    pub test: Option<Candidates>,
}

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Validation.
    Valid,
    /// Test.
    Test,
}

impl Judge {
    /// Counts what trains and draws the negatives. A line goes to stderr where there are fewer than asked for.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(
        config: &Config,
        sequences: &Sequences,
        split: &Split,
        item_count: usize,
    ) -> Result<Self> {
        let eval = &config.eval;
        let as_recbole = eval.unit == EvalUnit::RecBole;
        let counts = training_counts(sequences, split, item_count, as_recbole)?;
        // RecBole's popularity is that of the whole file.
        let popularity = match as_recbole {
            true => training_counts(sequences, &keep_all(sequences), item_count, true)?,
            false => counts.clone(),
        };
        let negatives = |rows: &[EvalRow], mode: Mode, name: &str| {
            let seed = config.eval_seed();
            let counts = &popularity;
            let drawn = draw(&Draw { sequences, rows, counts, mode, unit: eval.unit, seed })?;
            if let (Some(drawn), Some(n)) = (&drawn, mode.negatives()) {
                let short = drawn.short_rows(n);
                if short > 0 {
                    say(format_args!(
                        "{short} of {} {name} rows have fewer than {n} negatives: no more items are outside \
                         their user's history",
                        rows.len()
                    ));
                }
            }
            Ok::<_, Error>(drawn)
        };
        let valid = negatives(&split.valid, eval.valid_mode, "validation")?;
        let test = negatives(&split.test, eval.test_mode, "test")?;
        Ok(Judge { counts, valid, test })
    }

    /// What the rows of a part are ranked among.
    pub fn candidates(&self, part: Part) -> Option<&Candidates> {
        match part {
            Part::Valid => self.valid.as_ref(),
            Part::Test => self.test.as_ref(),
        }
    }

    /// What metrics of items compare with.
    pub fn catalogue(&self, config: &Config) -> Catalogue<'_> {
        let eval = &config.eval;
        Catalogue { counts: &self.counts, tail_ratio: eval.tail_ratio, unit: eval.unit }
    }
}

/// Refuses a split that leaves a part empty which it should have.
pub fn refuse_empty_parts(config: &Config, split: &Split) -> Result<()> {
    let (validates, tests) = config.eval.split.parts();
    let without = match (split.valid.is_empty() && validates, split.test.is_empty() && tests) {
        (true, _) => "validation",
        (_, true) => "test",
        _ => return Ok(()),
    };
    let (problem, remedy) = match config.eval.split {
        SplitRule::LeaveOneOut(_) => (
            "no user has the 3 interactions that training, validation and test need".to_string(),
            "relax the filters, or use longer histories",
        ),
        _ => (
            format!("the split leaves no {without} rows"),
            "raise its share in eval_args.split, write 0 to do without, or use longer histories",
        ),
    };
    Err(Error::config("dataset", problem, remedy))
}

/// What results say about how they came about.
pub fn describe(config: &Config, counts: &SplitCounts, interactions: u64) -> Protocol {
    let eval = &config.eval;
    let (split, shares) = match (eval.split, eval.grouping) {
        _ if config.data.all_data => (super::results::ALL_DATA, None),
        (SplitRule::LeaveOneOut(HeldOut::ValidAndTest), _) => ("leave_one_out", None),
        (SplitRule::LeaveOneOut(HeldOut::ValidOnly), _) => ("leave_one_out_valid_only", None),
        (SplitRule::LeaveOneOut(HeldOut::TestOnly), _) => ("leave_one_out_test_only", None),
        (SplitRule::Ratio(shares), Grouping::User) => ("ratio_by_user", Some(shares)),
        (SplitRule::Ratio(shares), Grouping::None) => ("ratio_global", Some(shares)),
        (SplitRule::Time(shares), _) => ("global_time", Some(shares)),
    };
    let sampled = [eval.valid_mode, eval.test_mode].iter().any(|mode| mode.negatives().is_some());
    Protocol {
        name: eval.protocol.map(|protocol| protocol.name().to_string()),
        changed: published::changed(eval).into_iter().map(String::from).collect(),
        split: split.to_string(),
        shares: shares.map(Shares::normalised),
        valid_mode: eval.valid_mode.name(),
        mode: eval.test_mode.name(),
        unit: match eval.unit {
            EvalUnit::Row => "row".to_string(),
            EvalUnit::RecBole => "recbole".to_string(),
        },
        negatives_seed: sampled.then(|| config.eval_seed()),
        filter_seen: eval.filter_seen,
        train_interactions: interactions,
        train_rows: counts.train_rows,
        train_users: counts.train_users,
        valid_rows: counts.valid_rows,
        valid_users: counts.valid_users,
        test_rows: counts.test_rows,
        test_users: counts.test_users,
    }
}
