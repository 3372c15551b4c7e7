//! Training, validation and test.

use b4r::config::{EvalConfig, Grouping, HeldOut, Shares, SplitRule};
use b4r::data::{EvalRow, Sequences, Split, SplitCounts, keep_all, split, training_counts};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn with(split: SplitRule, grouping: Grouping) -> EvalConfig {
    EvalConfig { split, grouping, ..EvalConfig::default() }
}

fn leave_one_out(held_out: HeldOut) -> EvalConfig {
    with(SplitRule::LeaveOneOut(held_out), Grouping::User)
}

fn of_lengths(lengths: &[u64]) -> Sequences {
    let mut offsets = vec![0];
    lengths.iter().for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
    let items = (0..offsets[lengths.len()]).map(|index| 1 + (index % 7) as u32);
    Sequences { items: items.collect(), offsets }
}

fn rows(rows: &[(u32, u32)]) -> Vec<EvalRow> {
    rows.iter().map(|&(user, position)| EvalRow { user, position }).collect()
}

#[test]
fn leave_one_out_predicts_the_last_items_of_long_enough_histories() {
    let sequences = of_lengths(&[4, 2, 3, 0]);
    let of = |held_out| split(&sequences, None, &leave_one_out(held_out), 0).unwrap();
    let both = of(HeldOut::ValidAndTest);
    assert_eq!(both.train_lengths, [2, 2, 1, 0]);
    assert_eq!(both.valid, rows(&[(0, 2), (2, 1)]));
    assert_eq!(both.test, rows(&[(0, 3), (2, 2)]));
    let valid = of(HeldOut::ValidOnly);
    assert_eq!(valid.train_lengths, [3, 2, 2, 0]);
    assert_eq!((valid.valid, valid.test), (rows(&[(0, 3), (2, 2)]), vec![]));
    let test = of(HeldOut::TestOnly);
    assert_eq!(test.train_lengths, [3, 2, 2, 0]);
    assert_eq!((test.valid, test.test), (vec![], rows(&[(0, 3), (2, 2)])));
}

#[test]
fn some_users_validate_and_the_items_of_the_others_train() {
    let sequences = of_lengths(&[5; 200]);
    let of = |count, seed| {
        let eval = EvalConfig { valid_users: Some(count), ..EvalConfig::default() };
        split(&sequences, None, &eval, seed).unwrap()
    };
    let some = of(50, 1);
    assert_eq!((some.valid.len(), some.test.len()), (50, 200));
    for (user, &length) in (0..).zip(&some.train_lengths) {
        let validates = some.valid.contains(&EvalRow { user, position: 3 });
        assert_eq!(length, if validates { 3 } else { 4 });
    }
    assert_eq!(some, of(50, 1));
    assert_ne!(some.valid, of(50, 2).valid);
    // Half of them, not the first half.
    assert!(
        some.valid.iter().any(|row| row.user < 50) && some.valid.iter().any(|row| row.user > 150)
    );
    for all in [200, 5000] {
        assert_eq!(of(all, 1), split(&sequences, None, &EvalConfig::default(), 1).unwrap());
    }
}

/// The worked example: 7 rows of one user; 1 / 6 of 7 is rounded down, 2 rows of another give one each.
#[test]
fn shares_are_rounded_down_and_small_ones_get_a_row() {
    let sequences = of_lengths(&[8, 4, 2, 1]);
    let eval = with(SplitRule::Ratio(Shares([4.0, 1.0, 1.0])), Grouping::User);
    let split = split(&sequences, None, &eval, 0).unwrap();
    assert_eq!(split.train_lengths, [6, 2, 2, 1]);
    assert_eq!(split.valid, rows(&[(0, 6), (1, 2)]));
    assert_eq!(split.test, rows(&[(0, 7), (1, 3)]));
}

#[test]
fn a_global_cut_falls_at_one_time_for_all() {
    // Rows in time order: user 0 at 2 and 3, user 1 at 5, 6, 7, user 2 at 9.
    let sequences = of_lengths(&[3, 4, 2]);
    let times = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let eval = with(SplitRule::Ratio(Shares([3.0, 2.0, 1.0])), Grouping::None);
    let found = split(&sequences, Some(&times), &eval, 0).unwrap();
    // User 2 begins after the cut: nothing of theirs trains, and their first item is context alone.
    assert_eq!(found.train_lengths, [3, 2, 0]);
    assert_eq!(found.valid, rows(&[(1, 2), (1, 3)]));
    assert_eq!(found.test, rows(&[(2, 1)]));
    let counts = SplitCounts::new(&found);
    assert_eq!((counts.train_rows, counts.train_users), (3, 2));
    assert_eq!((counts.valid_rows, counts.valid_users), (2, 1));
    assert_eq!((counts.test_rows, counts.test_users), (1, 1));
    let error = split(&sequences, None, &eval, 0).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("TIME_FIELD"), "{error}");
}

#[test]
fn equal_times_go_by_user() {
    let sequences = of_lengths(&[3, 3]);
    let eval = with(SplitRule::Ratio(Shares([3.0, 0.0, 1.0])), Grouping::None);
    let found = split(&sequences, Some(&[5.0; 6]), &eval, 0).unwrap();
    assert_eq!((found.train_lengths, found.test), (vec![3, 2], rows(&[(1, 2)])));
}

#[test]
fn a_split_by_time_tests_what_comes_after_the_boundary() {
    // Six rows at 2, 3, 5, 6, 7, 9; the boundary for a sixth lies at 5 sixths of 5 steps: between 7 and 9.
    let sequences = of_lengths(&[3, 4, 2]);
    let times = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let eval = with(SplitRule::Time(Shares([3.0, 2.0, 1.0])), Grouping::User);
    let found = split(&sequences, Some(&times), &eval, 0).unwrap();
    // Three fifths of 2 rows and of 3 rows train. User 2's first item, at 8, lies after it too: 7.33.
    assert_eq!(found.train_lengths, [2, 2, 0]);
    assert_eq!(found.valid, rows(&[(0, 2), (1, 2), (1, 3)]));
    assert_eq!(found.test, rows(&[(2, 1)]));
}

#[test]
fn counts_are_those_of_what_trains() {
    let sequences = Sequences { offsets: vec![0, 4, 7], items: vec![1, 2, 2, 3, 2, 1, 3] };
    let split = Split { train_lengths: vec![3, 2], ..Split::default() };
    assert_eq!(training_counts(&sequences, &split, 4, false).unwrap(), [2, 3, 0, 0]);
    assert_eq!(training_counts(&sequences, &split, 4, true).unwrap(), [1, 2, 0, 0]);
    let all = keep_all(&sequences);
    assert_eq!(training_counts(&sequences, &all, 4, false).unwrap(), [2, 3, 2, 0]);
}

fn any_rule() -> impl Strategy<Value = EvalConfig> {
    let shares = (1u32..9, 0u32..9, 0u32..9)
        .prop_map(|(train, valid, test)| Shares([train, valid, test].map(f64::from)));
    prop_oneof![
        Just(leave_one_out(HeldOut::ValidAndTest)),
        Just(leave_one_out(HeldOut::ValidOnly)),
        Just(leave_one_out(HeldOut::TestOnly)),
        shares.clone().prop_map(|shares| with(SplitRule::Ratio(shares), Grouping::User)),
        shares.clone().prop_map(|shares| with(SplitRule::Ratio(shares), Grouping::None)),
        shares.prop_map(|shares| with(SplitRule::Time(shares), Grouping::User)),
    ]
}

/// Histories with times that ascend, many of them equal.
fn any_histories() -> impl Strategy<Value = (Sequences, Vec<f64>)> {
    let history = prop::collection::vec(0u32..40, 0..25);
    prop::collection::vec(history, 1..12).prop_map(|mut histories| {
        histories.iter_mut().for_each(|times| times.sort_unstable());
        let lengths: Vec<u64> = histories.iter().map(|times| times.len() as u64).collect();
        (of_lengths(&lengths), histories.concat().into_iter().map(f64::from).collect())
    })
}

proptest! {
    #[test]
    fn parts_follow_each_other_and_overlap_nowhere((sequences, times) in any_histories(), eval in any_rule()) {
        let split = split(&sequences, Some(&times), &eval, 3).unwrap();
        prop_assert_eq!(split.train_lengths.len(), sequences.len());
        let mut seen = BTreeSet::new();
        for (part, rows) in [(1, &split.valid), (2, &split.test)] {
            prop_assert!(rows.is_sorted_by_key(|row| (row.user, row.position)));
            for row in rows {
                let length = sequences.get(row.user as usize).len() as u32;
                prop_assert!(row.position >= 1 && row.position < length, "{row:?}");
                prop_assert!(row.position >= split.train_lengths[row.user as usize]);
                prop_assert!(seen.insert((row.user, row.position)), "{row:?} twice");
                let later = split.test.iter().filter(|test| test.user == row.user);
                prop_assert!(part == 2 || later.clone().all(|test| test.position > row.position));
            }
        }
        // Whatever has something before it trains, validates or tests.
        let trained: usize = split.train_lengths.iter().map(|&length| length.saturating_sub(1) as usize).sum();
        let all: usize = (0..sequences.len()).map(|user| sequences.get(user).len().saturating_sub(1)).sum();
        prop_assert_eq!(trained + split.valid.len() + split.test.len(), all);
    }

    #[test]
    fn nothing_trains_after_what_a_global_cut_holds_out(
        (sequences, times) in any_histories(),
        train in 1u32..9,
        test in 0u32..9,
    ) {
        let shares = Shares([f64::from(train), 1.0, f64::from(test)]);
        let eval = with(SplitRule::Ratio(shares), Grouping::None);
        let split = split(&sequences, Some(&times), &eval, 0).unwrap();
        let time = |user: usize, position: u32| times[sequences.offsets[user] as usize + position as usize];
        let of = |rows: &[EvalRow]| -> Vec<f64> {
            rows.iter().map(|row| time(row.user as usize, row.position)).collect()
        };
        let trained = split.train_lengths.iter().enumerate().filter(|(_, length)| **length > 0);
        let latest = trained.map(|(user, &length)| time(user, length - 1)).fold(f64::MIN, f64::max);
        let (valid, test) = (of(&split.valid), of(&split.test));
        prop_assert!(valid.iter().chain(&test).all(|&time| time >= latest));
        let end = valid.iter().copied().fold(f64::MIN, f64::max);
        prop_assert!(test.iter().all(|&time| time >= end));
    }
}
