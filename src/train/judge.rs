//! What a run is judged by: rows, negatives and counts, fixed before training.

use super::progress::say;
use super::results::Protocol;
use crate::config::{
    Config, EvalConfig, EvalUnit, Grouping, HeldOut, Mode, Negatives, Shares, SplitRule,
    protocol as published,
};
use crate::data::{EvalRow, Sequences, Split, SplitCounts, keep_all, training_counts};
use crate::eval::{self, Candidates, Catalogue, Draw, Metrics, Procedure, RankedData, draw};
use crate::model::engine::Ranker;
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
        // RecBole's popularity is that of all rows of the file, Petrov and Macdonald's that of the whole file.
        let popularity = match as_recbole || eval.negatives == Negatives::Any {
            true => training_counts(sequences, &keep_all(sequences), item_count, as_recbole)?,
            false => counts.clone(),
        };
        let negatives = |rows: &[EvalRow], mode: Mode, name: &str| {
            let seed = config.eval_seed();
            let counts = &popularity;
            let EvalConfig { unit, negatives, .. } = *eval;
            let drawn = draw(&Draw { sequences, rows, counts, mode, unit, negatives, seed })?;
            if let (Some(drawn), Some(n)) = (&drawn, mode.negatives()) {
                let short = drawn.short_rows(n);
                if short > 0 {
                    say(format_args!(
                        "{short} of {} {name} rows have fewer than {n} negatives: there are no more items to draw \
                         (eval_negatives: {})",
                        rows.len(),
                        eval.negatives.name()
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

/// Everything that a ranker is judged on.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// How.
    pub config: &'a Config,
    /// Whole histories.
    pub sequences: &'a Sequences,
    /// The rows.
    pub split: &'a Split,
    /// `V`.
    pub items: usize,
    /// Negatives and counts.
    pub judge: &'a Judge,
}

/// What the test came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Tested {
    /// Under the run's protocol.
    pub test: Metrics,
    /// With the other choice about seen items, where all items are ranked.
    pub other: Option<Metrics>,
    /// Targets that were in the history already.
    pub seen_targets: usize,
}

impl Judged<'_> {
    /// Metrics of a part under the run's protocol. `progress`: whether to draw a bar.
    ///
    /// # Errors
    /// Those of the ranker.
    pub fn metrics(
        &self,
        ranker: &mut (impl Ranker + ?Sized),
        part: Part,
        progress: bool,
    ) -> Result<Metrics> {
        let filters = [self.config.eval.filter_seen];
        let metrics = self.filtered(ranker, part, &filters, progress)?;
        Ok(metrics.into_iter().next().unwrap_or_default())
    }

    /// The test; where all items are ranked, also with the other choice about seen items.
    ///
    /// # Errors
    /// Those of the ranker.
    pub fn test(&self, ranker: &mut (impl Ranker + ?Sized), progress: bool) -> Result<Tested> {
        let filter = self.config.eval.filter_seen;
        let both = self.judge.test.is_none() && !self.split.test.is_empty();
        let filters = if both { &[filter, !filter][..] } else { &[filter] };
        let mut metrics = self.filtered(ranker, Part::Test, filters, progress)?.into_iter();
        let (test, other) = (metrics.next().unwrap_or_default(), metrics.next());
        // Only the ranking that leaves seen items out has them.
        let seen_targets = test.seen_targets + other.as_ref().map_or(0, |other| other.seen_targets);
        Ok(Tested { test, other, seen_targets })
    }

    /// Metrics of a part, once for each of `filters`.
    fn filtered(
        &self,
        ranker: &mut (impl Ranker + ?Sized),
        part: Part,
        filters: &[bool],
        progress: bool,
    ) -> Result<Vec<Metrics>> {
        let eval = &self.config.eval;
        let data = RankedData {
            sequences: self.sequences,
            rows: match part {
                Part::Valid => &self.split.valid,
                Part::Test => &self.split.test,
            },
            item_count: self.items,
            candidates: self.judge.candidates(part),
        };
        let procedure = Procedure {
            model: &self.config.model,
            batch_size: eval.batch_size,
            filters,
            list_length: eval.list_length(),
            unit: eval.unit,
            progress,
        };
        let rankings = eval::rank(ranker, &data, &procedure)?;
        let catalogue = self.judge.catalogue(self.config);
        let of = |ranking| Metrics::new(ranking, &eval.metrics, &eval.topk, &catalogue);
        Ok(rankings.iter().map(of).collect())
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
        negatives: (sampled && eval.unit == EvalUnit::Row)
            .then(|| eval.negatives.name().to_string()),
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
