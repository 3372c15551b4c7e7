//! Which items are hidden: rates, addresses, reproducibility.

use super::{Case, any_case, masked, unmasked};
use b4r::batch::mask::Masker;
use b4r::batch::windows::Window;
use b4r::config::{BatchSize, TrainConfig};
use b4r::philox::{self, Stream};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SEED: u64 = 0x0123_4567_89AB_CDEF;

fn masker(mask_ratio: f64, last_item_ratio: f64) -> Masker {
    Masker::new(&TrainConfig { seed: SEED, mask_ratio, last_item_ratio, ..TrainConfig::default() })
}

/// Masks of windows of equal length, one for each user.
fn draw(masker: &Masker, length: u32, users: u32) -> Vec<Vec<u32>> {
    let draw_one = |user| {
        let mut masked = vec![99];
        masker.draw(&Window { user, number: 2, start: 0, length }, 4, &mut masked);
        masked
    };
    (0..users).map(draw_one).collect()
}

proptest! {
    #[test]
    fn every_sequence_has_a_mask(case in any_case(), epoch in 0u32..100) {
        for batch in case.epoch(epoch) {
            for (positions, items) in masked(&batch).iter().zip(unmasked(&batch)) {
                prop_assert!(!positions.is_empty());
                prop_assert!(positions.is_sorted_by(|a, b| a < b));
                prop_assert!((positions[positions.len() - 1] as usize) < items.len());
            }
        }
    }

    /// Masks hang on seed, epoch, user and window alone, not on the batch a window falls into.
    #[test]
    fn batch_size_does_not_touch_masks(case in any_case(), size in 1usize..40) {
        let mut other = case.clone();
        other.train.batch_size = BatchSize::Interactions(size);
        let by_first_item = |case: &Case| -> BTreeMap<u32, Vec<u32>> {
            case.epoch(5)
                .iter()
                .flat_map(|batch| unmasked(batch).into_iter().zip(masked(batch)))
                .map(|(items, positions)| (items[0], positions))
                .collect()
        };
        prop_assert_eq!(by_first_item(&case), by_first_item(&other));
    }
}

#[test]
fn each_position_is_masked_at_the_ratio() {
    let (length, users) = (103, 4000);
    for ratio in [0.1, 0.2, 0.6] {
        let mut counts = vec![0u32; length as usize];
        for position in draw(&masker(ratio, 0.0), length, users).into_iter().flatten() {
            counts[position as usize] += 1;
        }
        let within = |count: u32, trials: f64, deviations: f64| {
            let deviation = (trials * ratio * (1.0 - ratio)).sqrt();
            (f64::from(count) - trials * ratio).abs() < deviations * deviation
        };
        let total = counts.iter().sum();
        assert!(within(total, f64::from(users * length), 4.0), "{ratio}: {total}");
        for (position, &count) in counts.iter().enumerate() {
            assert!(within(count, f64::from(users), 4.5), "{ratio}, {position}: {count}");
        }
    }
}

#[test]
fn a_share_of_windows_masks_its_last_item_alone() {
    let windows = draw(&masker(1.0, 0.3), 10, 20_000);
    let last_only = windows.iter().filter(|positions| positions[..] == [9]).count();
    // 6,000 expected, standard deviation 65.
    assert!((5740..6260).contains(&last_only), "{last_only}");
    assert!(windows.iter().all(|positions| positions.len() == 10 || positions[..] == [9]));
    assert!(draw(&masker(0.5, 1.0), 10, 1000).iter().all(|positions| positions[..] == [9]));
}

#[test]
fn where_no_item_is_drawn_any_one_is_masked() {
    let mut counts = [0; 10];
    for positions in draw(&masker(0.0, 0.0), 10, 20_000) {
        assert_eq!(positions.len(), 1);
        counts[positions[0] as usize] += 1;
    }
    // 2,000 expected, standard deviation 42.
    assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
}

#[test]
fn the_extremes_mask_one_or_all() {
    assert!(draw(&masker(1.0, 0.0), 13, 50).iter().all(|positions| positions.len() == 13));
    assert!(draw(&masker(0.5, 0.5), 1, 50).iter().all(|positions| positions[..] == [0]));
}

/// The generator's table of addresses is a contract with other engines and the reference in numpy.
#[test]
fn decisions_stand_at_their_documented_address() {
    let (number, epoch, length) = (3, 12, 21);
    for user in 70_000..70_050 {
        let window = Window { user, number, start: 5, length };
        let block = |first| {
            philox::block(philox::key(SEED), [first, number, user, Stream::Mask.word(epoch)])
        };
        let drawn = |mask_ratio, last_item_ratio| {
            let mut masked = Vec::new();
            masker(mask_ratio, last_item_ratio).draw(&window, epoch, &mut masked);
            masked
        };
        let numbers: Vec<u16> =
            (0..length).map(|i| philox::halves(block(i / 8))[(i % 8) as usize]).collect();
        // A threshold equal to one of the numbers: the event happens strictly below it.
        for threshold in [16_384, numbers[6], numbers[20]] {
            let below: Vec<u32> =
                (0..).zip(&numbers).filter(|&(_, &n)| n < threshold).map(|(i, _)| i).collect();
            if !below.is_empty() {
                assert_eq!(drawn(f64::from(threshold) / 65536.0, 0.0), below);
            }
        }
        let last_only = f64::from(philox::halves(block(u32::MAX))[0]);
        assert_eq!(drawn(1.0, last_only / 65536.0).len(), length as usize);
        assert_eq!(drawn(1.0, (last_only + 1.0) / 65536.0), [length - 1]);
        let word = u64::from(block(u32::MAX)[1]);
        assert_eq!(drawn(0.0, 0.0), [((word * u64::from(length)) >> 32) as u32]);
    }
}

#[test]
fn epochs_mask_anew() {
    let case = Case::distinct(&[40]);
    let masks = |epoch| masked(&case.epoch(epoch)[0]);
    assert_eq!(masks(0), masks(0));
    assert!((1..20).any(|epoch| masks(epoch) != masks(0)));
}
