//! The prefetch thread: the same batches, wherever it starts and however it ends.

use super::Case;
use b4r::batch::{Batch, TrainingBatches, loader::prefetch};
use b4r::config::BatchSize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

fn case() -> Case {
    let mut case = Case::distinct(&[3, 0, 80, 17, 1, 64, 25, 9, 120, 33]).with_random_items(50);
    case.model.max_len = 16;
    case.train.batch_size = BatchSize::Interactions(30);
    case
}

fn load(batches: &Arc<TrainingBatches>, epoch: u32, first: u64) -> Vec<Batch> {
    prefetch(Arc::clone(batches), epoch, first).expect("a thread").collect()
}

#[test]
fn prefetched_batches_are_the_same() {
    let batches = Arc::new(case().batches());
    let expected = case().epoch(3);
    assert!(expected.len() > 5);
    assert_eq!(load(&batches, 3, 0), expected);
    assert_ne!(load(&batches, 4, 0), expected);
}

/// A resumed run starts in the middle of an epoch.
#[test]
fn an_epoch_continues_from_any_batch() {
    let batches = Arc::new(case().batches());
    let expected = case().epoch(1);
    for first in 0..=expected.len() {
        assert_eq!(load(&batches, 1, first as u64), expected[first..]);
    }
    assert_eq!(load(&batches, 1, u64::MAX), []);
}

#[test]
fn used_memory_leaves_no_trace() {
    let batches = Arc::new(case().batches());
    let mut loader = prefetch(batches, 2, 0).expect("a thread");
    let steps = loader.size_hint();
    let mut count = 0;
    for expected in case().epoch(2) {
        let batch = loader.next().expect("a batch");
        assert_eq!(batch, expected);
        loader.recycle(batch);
        count += 1;
    }
    assert_eq!(steps, (count, Some(count)));
    assert_eq!(loader.next(), None);
    assert_eq!(loader.next(), None);
}

/// Would hang if dropping did not wake a thread that waits to hand over a batch.
#[test]
fn a_loader_can_be_dropped_at_any_time() {
    let batches = Arc::new(case().batches());
    for taken in 0..6 {
        let mut loader = prefetch(Arc::clone(&batches), 0, 0).expect("a thread");
        assert_eq!(loader.by_ref().take(taken).count(), taken);
        drop(loader);
    }
    assert_eq!(Arc::strong_count(&batches), 1, "every thread has ended");
}

#[test]
fn a_panic_of_the_thread_reaches_the_reader() {
    let mut case = case();
    case.split.train_lengths[9] = 1_000_000; // beyond the history
    let mut loader = prefetch(Arc::new(case.batches()), 0, 0).expect("a thread");
    let outcome = catch_unwind(AssertUnwindSafe(|| loader.by_ref().count()));
    assert!(outcome.is_err());
    assert_eq!(loader.next(), None);
}
