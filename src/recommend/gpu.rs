//! A GPU behind a thread of its own: its context belongs to that thread, and callers may come from any other.

use super::TOKENS;
use crate::batch::Batch;
use crate::config::{self, ModelConfig, Precision};
use crate::cpu::top_k::Entry;
use crate::cuda::batch::Capacity;
use crate::cuda::choice::{self, Choice};
use crate::cuda::device::Device;
use crate::cuda::machine;
use crate::cuda::memory::Storage;
use crate::cuda::scorer::CudaScorer;
use crate::model::params::ParameterTable;
use crate::{Error, Result};
use half::bf16;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

pub use crate::cuda::scorer::MOST_BEST;

/// Requests that buffers are made for beforehand.
const ROWS: usize = 512;

/// What is to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computing {
    /// Threads of the processor; 0 takes every core.
    pub threads: usize,
    /// As the key `device` of a configuration.
    pub device: config::Device,
    /// As the key `precision`.
    pub precision: Option<Precision>,
}

/// What computes, once that has been decided.
pub struct Chosen {
    /// In words.
    pub choice: Choice,
    /// The GPU, where it is one.
    pub gpu: Option<Gpu>,
    /// The weights handed in; where a GPU keeps matrices in bf16, the output table holds the same rounded values.
    pub parameters: Vec<f32>,
}

type Reply<T> = Sender<Result<T>>;

/// What the thread is asked for.
enum Job {
    Rows(Batch, Reply<Vec<f32>>),
    Best(Batch, Best, Reply<Vec<Vec<Entry>>>),
}

/// Which items are wanted of each row.
pub struct Best {
    /// Items to leave out, ascending, a list for each row.
    pub seen: Vec<Vec<u32>>,
    /// `[V]` output bias where some items are left out for all rows: negative infinity for those.
    pub bias: Option<Arc<[f32]>>,
    /// How many: 1 to [`MOST_BEST`].
    pub k: usize,
}

/// The model on a GPU. Its thread ends, and frees the GPU's memory, when this is dropped.
pub struct Gpu {
    jobs: Sender<Job>,
    failed: AtomicBool,
}

/// Decides what computes `model` with `items` items, and where that is a GPU, puts `parameters` there.
///
/// # Errors
/// [`Error::Config`] as [`choice::choose`]; [`Error::Memory`]; [`Error::Device`].
pub fn choose(
    computing: Computing,
    model: &ModelConfig,
    items: usize,
    parameters: Vec<f32>,
) -> Result<Chosen> {
    let (jobs, asked) = channel();
    let (ready, started) = channel();
    let model = model.clone();
    let thread = std::thread::Builder::new().name("b4r-gpu".to_string());
    // A GPU is opened, used and closed by one thread, so that is where it has to be chosen.
    let run = move || run(computing, &model, items, parameters, &ready, &asked);
    thread.spawn(run).map_err(Error::io("start", Path::new("a thread for the GPU")))?;
    let (choice, parameters) = started.recv().unwrap_or_else(|_| Err(gone()))?;
    let gpu = choice.gpu.is_some().then(|| Gpu { jobs, failed: AtomicBool::new(false) });
    Ok(Chosen { choice, gpu, parameters })
}

/// The thread, from choosing the GPU until nobody can ask it any more.
fn run(
    computing: Computing,
    model: &ModelConfig,
    items: usize,
    parameters: Vec<f32>,
    ready: &Reply<(Choice, Vec<f32>)>,
    jobs: &Receiver<Job>,
) {
    let open = |number| machine::open(number, model);
    // Whoever does not wait for an answer any more needs none; so it is below.
    match choice::choose(computing.device, computing.precision, open) {
        Err(error) => drop(ready.send(Err(error))),
        Ok((choice, None)) => drop(ready.send(Ok((choice, parameters)))),
        Ok((choice, Some(gpu))) => match choice.precision {
            Precision::F32 => serve::<f32>(gpu, choice, model, items, parameters, ready, jobs),
            Precision::Bf16 => serve::<bf16>(gpu, choice, model, items, parameters, ready, jobs),
        },
    }
}

fn serve<S: Storage>(
    gpu: Device,
    choice: Choice,
    model: &ModelConfig,
    items: usize,
    mut parameters: Vec<f32>,
    ready: &Reply<(Choice, Vec<f32>)>,
    jobs: &Receiver<Job>,
) {
    let tokens = TOKENS.max(model.max_len);
    let capacity = Capacity { tokens, sequences: ROWS, rows: ROWS };
    let mut scorer = match CudaScorer::<S>::new(gpu, model, items, &parameters, capacity) {
        Ok(scorer) => scorer,
        Err(error) => return drop(ready.send(Err(error))),
    };
    for x in &mut parameters[ParameterTable::new(model, items).output_table()] {
        *x = S::from_f32(*x).to_f32();
    }
    let _ = ready.send(Ok((choice, parameters)));
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Rows(batch, reply) => drop(reply.send(scorer.rows(&batch))),
            Job::Best(batch, Best { seen, bias, k }, reply) => {
                let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
                drop(reply.send(scorer.top_k(&batch, &seen, bias.as_deref(), k)));
            }
        }
    }
}

impl Gpu {
    /// The head's output `[P, D]` at the rows of `batch`.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Device`].
    pub fn rows(&self, batch: Batch) -> Result<Vec<f32>> {
        self.ask(|reply| Job::Rows(batch, reply))
    }

    /// The best items of each row of `batch`.
    ///
    /// # Errors
    /// [`Error::Config`] where a score is not finite; [`Error::Memory`]; [`Error::Device`].
    pub fn best(&self, batch: Batch, best: Best) -> Result<Vec<Vec<Entry>>> {
        self.ask(|reply| Job::Best(batch, best, reply))
    }

    /// Whether the device has ever failed. After most failures its context is of no use any more.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = channel();
        // Without a thread the job, and with it the reply's sender, is gone at once.
        drop(self.jobs.send(job(reply)));
        let answer = answer.recv().unwrap_or_else(|_| Err(gone()));
        if matches!(answer, Err(Error::Device { .. })) {
            self.failed.store(true, Ordering::Relaxed);
        }
        answer
    }
}

fn gone() -> Error {
    Error::Device {
        action: "ask the GPU".to_string(),
        problem: "its thread ended; stderr says why".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered() {
        let (jobs, asked) = channel();
        let gpu = Gpu { jobs, failed: AtomicBool::new(false) };
        let thread = std::thread::spawn(move || {
            let refused = Error::config("score", "is not finite", "train again");
            let lost = Error::Device { action: "copy".to_string(), problem: "lost".to_string() };
            for reply in [Ok(Vec::new()), Err(refused), Err(lost), Ok(Vec::new())] {
                match asked.recv() {
                    Ok(Job::Rows(_, way_back)) => way_back.send(reply).unwrap(),
                    _ => panic!("no question"),
                }
            }
        });
        for (good, failed) in [(true, false), (false, false), (false, true), (true, true)] {
            assert_eq!(gpu.rows(Batch::default()).is_ok(), good);
            assert_eq!(gpu.has_failed(), failed);
        }
        thread.join().unwrap();
        assert!(matches!(gpu.rows(Batch::default()), Err(Error::Device { .. })));
    }
}
