//! Batches in which every item has the next as its target, and what causal models are ranked on.

use super::Case;
use b4r::batch::{Batch, evaluation};
use b4r::config::{BatchSize, ModelConfig, Objective, Positions};
use b4r::data::{EvalRow, Sequences};

fn case(train_lengths: &[u32]) -> Case {
    let mut case = Case::distinct(train_lengths);
    case.model.objective = Objective::Causal;
    case
}

/// Items 1 to 5 and, beyond two that are held out, 8 and 9; windows of two pairs.
#[test]
fn windows_share_an_item() {
    let mut case = case(&[5, 2, 1]);
    case.model.max_len = 2;
    case.model.positions = Positions::FromEnd;
    case.train.batch_size = BatchSize::Sequences(9);
    case.train.shift_windows = false;
    let [batch]: [Batch; 1] = case.epoch(0).try_into().unwrap();
    let mut windows: Vec<(&[u32], &[u32])> = batch
        .cu_seqlens
        .windows(2)
        .map(|bound| bound[0] as usize..bound[1] as usize)
        .map(|range| (&batch.ids[range.clone()], &batch.targets[range]))
        .collect();
    windows.sort_unstable();
    let expected: [(&[u32], &[u32]); 3] = [(&[1, 2], &[2, 3]), (&[3, 4], &[4, 5]), (&[8], &[9])];
    assert_eq!(windows, expected);
    assert_eq!(batch.rows, [0, 1, 2, 3, 4]);
    assert_eq!(batch.cu_rows, batch.cu_seqlens);
    assert!(batch.positions.iter().all(|&position| position < 2));
}

/// In every epoch each item but a user's first is a target once, by the item before it.
#[test]
fn an_epoch_visits_every_pair_once() {
    for (max_len, size) in [
        (1, BatchSize::Interactions(7)),
        (4, BatchSize::Interactions(16)),
        (9, BatchSize::Sequences(3)),
        (50, BatchSize::Sequences(100)),
    ] {
        let mut case = case(&[30, 1, 0, 2, 9, 10, 11]);
        case.model.max_len = max_len;
        case.train.batch_size = size;
        let batches = case.batches();
        assert_eq!(batches.interactions(), 29 + 1 + 8 + 9 + 10);
        for epoch in 0..3 {
            let mut pairs = Vec::new();
            for batch in case.epoch(epoch) {
                assert!(batch.token_count() as u64 <= batches.max_tokens());
                assert_eq!(batch.row_count(), batch.token_count());
                let lengths = batch.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]);
                assert!(lengths.clone().all(|length| (1..=max_len as u32).contains(&length)));
                pairs.extend(batch.ids.iter().copied().zip(batch.targets));
            }
            pairs.sort_unstable();
            // Every interaction is an item of its own, numbered through.
            assert!(pairs.iter().all(|&(item, next)| next == item + 1));
            pairs.dedup();
            assert_eq!(pairs.len() as u64, batches.interactions());
        }
    }
}

#[test]
fn single_items_train_nothing() {
    let error = case(&[1, 1, 0]).try_batches().unwrap_err().to_string();
    assert!(error.contains("no interaction is left"), "{error}");
}

/// The last item's row is read, `L` items are seen, and only where there is none MASK stands for them.
#[test]
fn a_ranked_sequence_ends_in_its_last_item() {
    let sequences = Sequences { offsets: vec![0, 2, 7], items: vec![4, 5, 1, 2, 3, 2, 6] };
    let rows = [(1, 4), (0, 1), (0, 0)].map(|(user, position)| EvalRow { user, position });
    let model = ModelConfig { max_len: 3, objective: Objective::Causal, ..ModelConfig::default() };
    let batch = evaluation::rows(&sequences, &rows, 6, &model);
    assert_eq!(batch.ids, [2, 3, 2, 4, 7]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 0]);
    assert_eq!(batch.cu_seqlens, [0, 3, 4, 5]);
    assert_eq!((batch.rows, batch.targets), (vec![2, 3, 4], vec![6, 5, 4]));
}
