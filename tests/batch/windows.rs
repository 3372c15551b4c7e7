//! How an epoch is divided: coverage, order, batch sizes.

use super::{Case, any_case, unmasked};
use b4r::batch::windows::{Tiling, Window};
use b4r::config::{BatchSize, TrainConfig};
use b4r::{Error, philox};
use proptest::prelude::*;
use std::collections::HashSet;

proptest! {
    #[test]
    fn an_epoch_visits_every_training_interaction_once(case in any_case(), epoch in 0u32..1000) {
        let mut visits = vec![0; case.item_count + 1];
        for sequence in case.epoch(epoch).iter().flat_map(unmasked) {
            prop_assert!((1..=case.model.max_len).contains(&sequence.len()));
            for pair in sequence.windows(2) {
                prop_assert_eq!(pair[0] + 1, pair[1], "neighbours stay neighbours");
            }
            for item in sequence {
                visits[item as usize] += 1;
            }
        }
        for (user, &length) in case.split.train_lengths.iter().enumerate() {
            for (position, &item) in case.sequences.get(user).iter().enumerate() {
                let expected = u32::from(position < length as usize);
                prop_assert_eq!(visits[item as usize], expected, "user {} item {}", user, item);
            }
        }
    }

    #[test]
    fn steps_are_the_same_in_every_epoch(case in any_case(), epochs in prop::array::uniform4(0u32..9999)) {
        let batches = case.batches();
        prop_assert_eq!(batches.interactions(), case.total());
        for epoch in epochs {
            let plan = batches.epoch(epoch);
            prop_assert_eq!(plan.len(), batches.steps_per_epoch());
            let mut tokens = 0;
            for index in 0..plan.len() {
                let windows = plan.windows(index);
                prop_assert!(!windows.is_empty(), "batch {} is empty", index);
                let size: u64 = windows.iter().map(|window| u64::from(window.length)).sum();
                prop_assert!(size <= batches.max_tokens());
                tokens += size;
            }
            prop_assert_eq!(tokens, case.total());
        }
    }

    #[test]
    fn interactions_are_shared_out_equally(mut case in any_case(), size in 24usize..300) {
        case.train.batch_size = BatchSize::Interactions(size);
        let batches = case.batches();
        let steps = batches.steps_per_epoch();
        let fewest_windows: u64 = case
            .split
            .train_lengths
            .iter()
            .map(|&length| u64::from(length).div_ceil(case.model.max_len as u64))
            .sum();
        let rows: u64 =
            case.split.train_lengths.iter().map(|&length| u64::from(length.saturating_sub(1))).sum();
        prop_assert_eq!(steps, rows.div_ceil(size as u64).clamp(1, fewest_windows));
        let share = case.total() as f64 / steps as f64;
        // Only shares longer than any window keep every batch near its own.
        if share >= case.model.max_len as f64 {
            for batch in case.epoch(3) {
                let off = (batch.token_count() as f64 - share).abs();
                prop_assert!(off <= case.model.max_len as f64, "{} of {share}", batch.token_count());
            }
        }
    }

    #[test]
    fn sequences_are_counted(mut case in any_case(), size in 1usize..9) {
        case.train.batch_size = BatchSize::Sequences(size);
        case.train.shift_windows = false;
        let counts: Vec<usize> =
            case.epoch(0).iter().map(|batch| batch.sequence_count()).collect();
        let (last, others) = counts.split_last().expect("a batch");
        prop_assert!(others.iter().all(|&count| count == size));
        prop_assert!((1..=size).contains(last));
    }
}

fn tiling(max_len: u32, shift: bool) -> Tiling {
    Tiling { max_len, shift, key: philox::key(11) }
}

#[test]
fn windows_tile_a_history_from_its_end() {
    let windows: Vec<Window> = tiling(4, false).windows(9, 10, 5).collect();
    let expected = [(0, 6, 4), (1, 2, 4), (2, 0, 2)];
    let expected =
        expected.map(|(number, start, length)| Window { user: 9, number, start, length });
    assert_eq!(windows, expected);
    assert_eq!(tiling(4, false).windows(0, 0, 0).count(), 0);
    assert_eq!(tiling(1, true).windows(0, 3, 0).count(), 3);
}

#[test]
fn shifted_boundaries_vary_evenly_from_epoch_to_epoch() {
    let tiling = tiling(8, true);
    let mut newest = [0; 9];
    for epoch in 0..8000 {
        let windows: Vec<Window> = tiling.windows(3, 30, epoch).collect();
        assert_eq!(windows[0].start + windows[0].length, 30, "the end stays");
        assert!(windows[1..windows.len() - 1].iter().all(|window| window.length == 8));
        newest[windows[0].length as usize] += 1;
    }
    assert_eq!(newest[0], 0);
    // 1,000 expected, standard deviation 30.
    assert!(newest[1..].iter().all(|&count| (850..1150).contains(&count)), "{newest:?}");
    let users: HashSet<u32> = (0..100)
        .filter_map(|user| tiling.windows(user, 30, 0).next())
        .map(|window| window.length)
        .collect();
    assert!(users.len() > 1, "users are shifted apart");
}

#[test]
fn a_history_that_fits_one_window_is_never_cut() {
    for epoch in 0..100 {
        assert_eq!(tiling(8, true).windows(0, 8, epoch).count(), 1);
    }
}

/// With shift the number of windows varies, but a batch has the wanted size on average.
#[test]
fn shifted_sequences_are_counted_on_average() {
    let mut case = Case::distinct(&[33; 400]);
    case.model.max_len = 10;
    case.train.shift_windows = true;
    case.train.batch_size = BatchSize::Sequences(16);
    let counts: Vec<usize> = case.epoch(1).iter().map(|batch| batch.sequence_count()).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    assert!(least >= Some(&15) && most <= Some(&17), "{least:?} to {most:?}");
}

#[test]
fn every_window_is_first_equally_often() {
    let case = Case { train: TrainConfig::default(), ..Case::distinct(&[5; 8]) };
    let batches = case.batches();
    let (mut first, mut last) = ([0; 8], [0; 8]);
    for epoch in 0..4000 {
        let plan = batches.epoch(epoch);
        let windows = plan.windows(0);
        first[windows[0].user as usize] += 1;
        last[windows[7].user as usize] += 1;
    }
    // 500 expected, standard deviation 21.
    for counts in [first, last] {
        assert!(counts.iter().all(|count| (395..605).contains(count)), "{counts:?}");
    }
}

#[test]
fn seeds_and_epochs_have_their_own_order() {
    let mut case = Case::distinct(&[20; 50]);
    let order = |case: &Case, epoch| -> Vec<Vec<u32>> {
        case.epoch(epoch).iter().flat_map(unmasked).collect()
    };
    let first = order(&case, 0);
    assert_eq!(first, order(&case, 0));
    assert_ne!(first, order(&case, 1));
    case.train.seed += 1;
    assert_ne!(first, order(&case, 0));
    case.train.seed = case.train.seed - 1 + (1 << 32);
    assert_ne!(first, order(&case, 0), "the seed's high word counts");
}

#[test]
fn unusable_sizes_are_errors() {
    let key = |change: fn(&mut Case)| {
        let mut case = Case::distinct(&[4]);
        change(&mut case);
        match case.try_batches() {
            Err(Error::Config { key, .. }) => key,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(key(|case| case.train.batch_size = BatchSize::Interactions(0)), "train_batch_size");
    assert_eq!(
        key(|case| case.train.batch_size = BatchSize::Sequences(0)),
        "train_batch_sequences"
    );
    assert_eq!(key(|case| case.model.max_len = 0), "max_len");
    assert_eq!(key(|case| case.model.max_len = 1 << 40), "max_len");
    assert_eq!(key(|case| case.split.train_lengths = vec![0]), "dataset");
}

#[test]
fn huge_sizes_put_an_epoch_in_one_batch() {
    for batch_size in [BatchSize::Interactions(usize::MAX), BatchSize::Sequences(usize::MAX)] {
        for shift_windows in [false, true] {
            let mut case = Case::distinct(&[4, 90, 1]);
            case.train = TrainConfig { batch_size, shift_windows, ..TrainConfig::default() };
            let epoch = case.epoch(0);
            assert_eq!(epoch.len(), 1);
            assert_eq!(epoch[0].token_count(), 95);
        }
    }
}
