//! What a batch looks like: packing, positions, segments, and batches that are only ranked.

use super::{Case, any_case};
use b4r::batch::{Batch, Segments, evaluation, segments::Scratch};
use b4r::config::{BatchSize, ModelConfig, Positions};
use b4r::data::{EvalRow, Sequences};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn naive_segments(keys: &[u32]) -> Segments {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, &key) in (0..).zip(keys) {
        groups.entry(key).or_default().push(index);
    }
    let mut segments = Segments { offsets: vec![0], ..Segments::default() };
    for (key, group) in groups {
        segments.keys.push(key);
        segments.indices.extend(group);
        segments.offsets.push(segments.indices.len() as u32);
    }
    segments
}

proptest! {
    /// One set of buffers for all groupings: nothing of an earlier one may remain.
    #[test]
    fn segments_equal_a_naive_grouping(
        lists in prop::collection::vec(
            (prop::sample::select(vec![0u32, 1, 2, 127, 1683, 3417, 60_000, 1 << 16, 1 << 20, u32::MAX]),
             prop::collection::vec(any::<u32>(), 0..300)),
            1..6,
        ),
    ) {
        let (mut segments, mut scratch) = (Segments::default(), Scratch::default());
        for (largest, bits) in lists {
            let keys: Vec<u32> =
                bits.iter().map(|&x| (u64::from(x) % (u64::from(largest) + 1)) as u32).collect();
            segments.group(&keys, largest, &mut scratch);
            prop_assert_eq!(&segments, &naive_segments(&keys));
        }
    }

    #[test]
    fn a_batch_is_consistent(case in any_case(), items in 1usize..90) {
        let case = case.with_random_items(items);
        let mask = items as u32 + 1;
        for batch in case.epoch(2) {
            prop_assert_eq!(&batch.token_segments, &naive_segments(&batch.ids));
            prop_assert_eq!(&batch.target_segments, &naive_segments(&batch.targets));
            let hidden: Vec<u32> = (0..).zip(&batch.ids)
                .filter(|&(_, &id)| id == mask).map(|(token, _)| token).collect();
            prop_assert_eq!(&batch.rows, &hidden);
            prop_assert!(batch.ids.iter().all(|id| (1..=mask).contains(id)));
            prop_assert!(batch.targets.iter().all(|id| (1..mask).contains(id)));
            prop_assert_eq!(batch.targets.len(), batch.rows.len());
            prop_assert_eq!(batch.positions.len(), batch.ids.len());
            prop_assert_eq!(batch.cu_rows.len(), batch.cu_seqlens.len());
            for (lengths, rows) in batch.cu_seqlens.windows(2).zip(batch.cu_rows.windows(2)) {
                let length = lengths[1] - lengths[0];
                let positions = &batch.positions[lengths[0] as usize..lengths[1] as usize];
                let expected: Vec<u32> = match case.model.positions {
                    Positions::Absolute => (0..length).collect(),
                    Positions::FromEnd => (0..length).map(|i| length - 1 - i).collect(),
                };
                prop_assert_eq!(positions, &expected[..]);
                let own = &batch.rows[rows[0] as usize..rows[1] as usize];
                prop_assert!(own.iter().all(|row| (lengths[0]..lengths[1]).contains(row)));
            }
            prop_assert_eq!(batch.cu_seqlens.last(), Some(&(batch.ids.len() as u32)));
            prop_assert_eq!(batch.cu_rows.last(), Some(&(batch.rows.len() as u32)));
        }
    }
}

/// One item, histories and windows of length 1: the smallest there is, written out.
#[test]
fn the_smallest_batch() {
    let mut case = Case::distinct(&[1, 2]).with_random_items(1);
    case.model.max_len = 1;
    case.train.batch_size = BatchSize::Sequences(9);
    let expected = Batch {
        ids: vec![2, 2, 2],
        positions: vec![0, 0, 0],
        cu_seqlens: vec![0, 1, 2, 3],
        rows: vec![0, 1, 2],
        cu_rows: vec![0, 1, 2, 3],
        targets: vec![1, 1, 1],
        token_segments: Segments { keys: vec![2], offsets: vec![0, 3], indices: vec![0, 1, 2] },
        target_segments: Segments { keys: vec![1], offsets: vec![0, 3], indices: vec![0, 1, 2] },
    };
    assert_eq!(case.epoch(0), [expected]);
}

fn ranked(max_len: usize, positions: Positions, rows: &[EvalRow]) -> Batch {
    let sequences = Sequences { offsets: vec![0, 2, 7], items: vec![4, 5, 1, 2, 3, 2, 6] };
    let model = ModelConfig { max_len, positions, ..ModelConfig::default() };
    evaluation::rows(&sequences, rows, 6, &model)
}

#[test]
fn a_ranked_sequence_ends_in_mask() {
    let rows = [EvalRow { user: 1, position: 4 }, EvalRow { user: 0, position: 1 }];
    let batch = ranked(4, Positions::Absolute, &rows);
    let expected = Batch {
        ids: vec![2, 3, 2, 7, 4, 7],
        positions: vec![0, 1, 2, 3, 0, 1],
        cu_seqlens: vec![0, 4, 6],
        rows: vec![3, 5],
        cu_rows: vec![0, 1, 2],
        targets: vec![6, 5],
        // Nobody sums gradients over a batch that is only ranked.
        token_segments: Segments::default(),
        target_segments: Segments::default(),
    };
    assert_eq!(batch, expected);
}

#[test]
fn ranked_histories_keep_their_newest_items() {
    let last = [EvalRow { user: 1, position: 4 }];
    let batch = ranked(3, Positions::FromEnd, &last);
    assert_eq!((batch.ids, batch.positions), (vec![3, 2, 7], vec![2, 1, 0]));
    let batch = ranked(1, Positions::FromEnd, &last);
    assert_eq!((batch.ids, batch.targets), (vec![7], vec![6]));
    assert_eq!(ranked(3, Positions::Absolute, &[]).sequence_count(), 0);
}
