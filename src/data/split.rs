//! Which interactions train, and which are predicted.
//!
//! Shares are of *rows*: a row is an interaction that has another before it in its user's history, and is
//! predicted from all of these. A user's first interaction is context alone, so it is no row; it trains
//! when it lies before the cut.

use super::core::filled;
use super::table::reserve;
use super::{EvalRow, Sequences, Split};
use crate::config::{EvalConfig, Grouping, HeldOut, Shares, SplitRule};
use crate::philox::{self, Stream};
use crate::{Error, Result};
use std::fmt;

/// Histories shorter than this only train under leave-one-out.
const SHORTEST_HISTORY: u32 = 3;

/// Divides each history as `eval` says; `seed` draws `valid_users`. `times` are parallel to the items.
///
/// # Errors
/// [`Error::Config`] where the split goes by time and there is none; [`Error::Memory`].
pub fn split(
    sequences: &Sequences,
    times: Option<&[f64]>,
    eval: &EvalConfig,
    seed: u64,
) -> Result<Split> {
    let timed = || {
        times.ok_or_else(|| {
            Error::config(
                "eval_args.split",
                "divides all users at one point in time, and the data has no times",
                "name the column in TIME_FIELD, or divide by user: {LS: valid_and_test}, or RS with \
                 group_by: user",
            )
        })
    };
    match (eval.split, eval.grouping) {
        (SplitRule::LeaveOneOut(held_out), _) => {
            Ok(leave_one_out(sequences, held_out, eval.valid_users, seed))
        }
        (SplitRule::Ratio(shares), Grouping::User) => Ok(by_user(sequences, shares)),
        (SplitRule::Ratio(shares), Grouping::None) => by_rank(sequences, timed()?, shares),
        (SplitRule::Time(shares), _) => by_time(sequences, timed()?, shares),
    }
}

/// All of every history trains, for a model that is only going to be used.
pub fn keep_all(sequences: &Sequences) -> Split {
    Split { train_lengths: lengths(sequences).collect(), ..Split::default() }
}

impl Split {
    /// Appends a user of whom the first `train` interactions train, the next `valid` validate and then
    /// `test` test; anything between is left out.
    fn push(&mut self, train: u32, valid: u32, test: u32) {
        let user = self.train_lengths.len() as u32;
        // A row has something before it, even where nothing trains.
        let first = train.max(1);
        let rows =
            |range: std::ops::Range<u32>| range.map(move |position| EvalRow { user, position });
        self.valid.extend(rows(first..first + valid));
        self.test.extend(rows(first + valid..first + valid + test));
        self.train_lengths.push(train);
    }
}

fn lengths(sequences: &Sequences) -> impl Iterator<Item = u32> {
    sequences.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as u32)
}

fn leave_one_out(
    sequences: &Sequences,
    held_out: HeldOut,
    valid_users: Option<usize>,
    seed: u64,
) -> Split {
    let validates = chosen(sequences, valid_users, seed);
    let mut split = Split::default();
    for (user, length) in lengths(sequences).enumerate() {
        if length < SHORTEST_HISTORY {
            split.push(length, 0, 0);
            continue;
        }
        match held_out {
            HeldOut::ValidAndTest if validates(user as u32) => split.push(length - 2, 1, 1),
            HeldOut::ValidAndTest | HeldOut::TestOnly => split.push(length - 1, 0, 1),
            HeldOut::ValidOnly => split.push(length - 1, 1, 0),
        }
    }
    split
}

/// Which users validate: all, or `count` of those whose histories are long enough.
fn chosen(sequences: &Sequences, count: Option<usize>, seed: u64) -> impl Fn(u32) -> bool {
    let lot = move |user: u32| {
        let words = philox::block(philox::key(seed), [0, 0, user, Stream::ValidUsers.word(0)]);
        (u64::from(words[0]) | u64::from(words[1]) << 32, user)
    };
    let long = lengths(sequences).enumerate().filter(|(_, length)| *length >= SHORTEST_HISTORY);
    let mut lots: Vec<(u64, u32)> = match count {
        Some(_) => long.map(|(user, _)| lot(user as u32)).collect(),
        None => Vec::new(),
    };
    lots.sort_unstable();
    // The lowest lots are drawn; `None` draws everybody.
    let bar = count.and_then(|count| lots.get(count).copied());
    move |user| bar.is_none_or(|bar| lot(user) < bar)
}

/// Rows of each part out of `total`: shares rounded down, the rest to training, but one row for a share
/// that comes to less than one as long as training keeps one. RecBole's rule, and its arithmetic.
fn parts(total: u64, shares: Shares) -> [u64; 3] {
    let exact = shares.normalised().map(|share| share * total as f64);
    let mut parts = exact.map(|share| share as u64);
    parts[0] = total - parts[1] - parts[2];
    for part in [2, 1] {
        if parts[0] <= 1 {
            break;
        }
        if exact[part] > 0.0 && exact[part] < 1.0 {
            parts[part] += 1;
            parts[0] -= 1;
        }
    }
    parts
}

/// The rows of each user by shares.
fn by_user(sequences: &Sequences, shares: Shares) -> Split {
    let mut split = Split::default();
    for length in lengths(sequences) {
        let [train, valid, test] = parts(u64::from(length.saturating_sub(1)), shares);
        let first = u32::from(length > 0);
        split.push(first + train as u32, valid as u32, test as u32);
    }
    split
}

/// All rows in time order by shares; of equal times, users in order come first.
fn by_rank(sequences: &Sequences, times: &[f64], shares: Shares) -> Result<Split> {
    let mut rows: Vec<(u32, u32)> = Vec::new();
    reserve(&mut rows, sequences.items.len())?;
    for (user, ends) in (0u32..).zip(sequences.offsets.windows(2)) {
        rows.extend((ends[0] + 1..ends[1]).map(|index| (index as u32, user)));
    }
    let time = |&(index, _): &(u32, u32)| times[index as usize];
    rows.sort_by(|a, b| time(a).total_cmp(&time(b)));
    let [train, valid, _] = parts(rows.len() as u64, shares).map(|part| part as usize);
    let cut = rows.get(train).map_or(f64::INFINITY, time);
    let mut counts = filled(sequences.len(), [0u32; 3])?;
    for (rank, (_, user)) in rows.into_iter().enumerate() {
        let part = usize::from(rank >= train) + usize::from(rank >= train + valid);
        counts[user as usize][part] += 1;
    }
    let mut split = Split::default();
    for (ends, [train, valid, test]) in sequences.offsets.windows(2).zip(counts) {
        // Times ascend within a history, so its parts follow each other.
        let first_trains = ends[0] < ends[1] && (train > 0 || times[ends[0] as usize] < cut);
        split.push(u32::from(first_trains) + train, valid, test);
    }
    Ok(split)
}

/// The latest share of all rows tests; of what a user has before, the last part validates.
fn by_time(sequences: &Sequences, times: &[f64], shares: Shares) -> Result<Split> {
    let [train, valid, test] = shares.normalised();
    let ranges = || sequences.offsets.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
    let mut sorted: Vec<f64> = Vec::new();
    reserve(&mut sorted, sequences.items.len())?;
    sorted.extend(ranges().flat_map(|range| times[range].iter().skip(1)));
    sorted.sort_unstable_by(f64::total_cmp);
    let boundary = percentile(&sorted, 1.0 - test);
    let before_test = if valid == 0.0 { 1.0 } else { train / (1.0 - test) };
    let mut split = Split::default();
    for range in ranges() {
        let times = &times[range];
        let early = times.partition_point(|&time| time <= boundary);
        let rows = times.len().saturating_sub(1);
        let early_rows = early.saturating_sub(1);
        let train_rows = (early_rows as f64 * before_test) as usize;
        let first_trains = usize::from(early > 0);
        split.push(
            (first_trains + train_rows) as u32,
            (early_rows - train_rows) as u32,
            (rows - early_rows) as u32,
        );
    }
    Ok(split)
}

/// The value below which a share of `sorted` lies, between two of them by linear interpolation.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::INFINITY };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place as usize], sorted[(place as usize + 1).min(last)]);
    below + (above - below) * place.fract()
}

/// How often each item occurs in what trains, `[V]`; with `rows_only` without the first interaction of
/// each user.
///
/// # Errors
/// [`Error::Memory`].
pub fn training_counts(
    sequences: &Sequences,
    split: &Split,
    item_count: usize,
    rows_only: bool,
) -> Result<Vec<u32>> {
    let mut counts = filled(item_count, 0u32)?;
    for (user, &length) in split.train_lengths.iter().enumerate() {
        let items = &sequences.get(user)[..length as usize];
        for &item in items.iter().skip(usize::from(rows_only)) {
            counts[item as usize - 1] += 1;
        }
    }
    Ok(counts)
}

/// How large the parts of a split are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitCounts {
    /// Rows that train, as RecBole counts them: without the first interaction of each user.
    pub train_rows: u64,
    /// Users with such rows.
    pub train_users: u64,
    /// Validation rows.
    pub valid_rows: u64,
    /// Users with such rows.
    pub valid_users: u64,
    /// Test rows.
    pub test_rows: u64,
    /// Users with such rows.
    pub test_users: u64,
}

impl SplitCounts {
    /// Of `split`.
    pub fn new(split: &Split) -> Self {
        let rows = || split.train_lengths.iter().map(|&length| u64::from(length.saturating_sub(1)));
        // Rows stand by user.
        let users = |rows: &[EvalRow]| rows.chunk_by(|a, b| a.user == b.user).count() as u64;
        SplitCounts {
            train_rows: rows().sum(),
            train_users: rows().filter(|&rows| rows > 0).count() as u64,
            valid_rows: split.valid.len() as u64,
            valid_users: users(&split.valid),
            test_rows: split.test.len() as u64,
            test_users: users(&split.test),
        }
    }
}

impl fmt::Display for SplitCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SplitCounts { train_rows, valid_rows, test_rows, .. } = self;
        write!(
            f,
            "rows {train_rows} / {valid_rows} / {test_rows} of {} / {} / {} users (train / valid / test)",
            self.train_users, self.valid_users, self.test_users
        )
    }
}
