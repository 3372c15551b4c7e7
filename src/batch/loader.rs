//! Making training batches on a thread of their own, a few ahead of the engine.

use super::{Batch, TrainingBatches};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

/// Finished batches that may wait for the engine.
const AHEAD: usize = 2;

/// The rest of an epoch, batch by batch. Dropping it ends its thread.
#[derive(Debug)]
pub struct Loader {
    /// `None` once the loader is being dropped.
    ready: Option<Receiver<Batch>>,
    used: Sender<Batch>,
    /// `None` once the thread has been waited for.
    thread: Option<JoinHandle<()>>,
    remaining: u64,
}

/// Starts making the batches of `epoch`, from batch `first` on.
///
/// # Errors
/// [`Error::Io`] when the system refuses a thread.
pub fn prefetch(source: Arc<TrainingBatches>, epoch: u32, first: u64) -> Result<Loader> {
    let (ready_sender, ready) = mpsc::sync_channel(AHEAD);
    let (used, used_receiver) = mpsc::channel();
    let remaining = source.steps_per_epoch().saturating_sub(first);
    let thread = std::thread::Builder::new()
        .name("batches".to_string())
        .spawn(move || produce(&source, epoch, first, &ready_sender, &used_receiver))
        .map_err(Error::io("start the thread for", Path::new("training batches")))?;
    Ok(Loader { ready: Some(ready), used, thread: Some(thread), remaining })
}

fn produce(
    source: &TrainingBatches,
    epoch: u32,
    first: u64,
    ready: &SyncSender<Batch>,
    used: &Receiver<Batch>,
) {
    let mut plan = source.epoch(epoch);
    for index in first..plan.len() {
        let mut batch = used.try_recv().unwrap_or_default();
        plan.batch(index, &mut batch);
        if ready.send(batch).is_err() {
            return; // the loader was dropped
        }
    }
}

impl Loader {
    /// Gives back a batch that is done with, so that its memory is used again.
    pub fn recycle(&self, batch: Batch) {
        // Nobody takes it once the thread has made its last batch; then it is simply freed.
        let _ = self.used.send(batch);
    }

    fn wait(&mut self) -> std::thread::Result<()> {
        self.ready = None; // wakes a thread that waits to hand over a batch
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Iterator for Loader {
    type Item = Batch;

    /// The next batch of the epoch.
    ///
    /// # Panics
    /// With the panic of the loader's thread, if it had one: an epoch never ends early unnoticed.
    fn next(&mut self) -> Option<Batch> {
        if self.remaining == 0 {
            return None;
        }
        match self.ready.as_ref().and_then(|ready| ready.recv().ok()) {
            Some(batch) => {
                self.remaining -= 1;
                Some(batch)
            }
            None => {
                self.remaining = 0;
                if let Err(panic) = self.wait() {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = usize::try_from(self.remaining).ok();
        (remaining.unwrap_or(usize::MAX), remaining)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // A panic of the thread was either raised by `next` or concerns batches that nobody wanted.
        let _ = self.wait();
    }
}
