//! Requests that arrive together are answered by one forward pass.
//!
//! One thread takes the first question from a bounded queue, gathers what else is there (and, while more requests are
//! on their way, waits a moment for them), and asks the model once. While the model computes, the next batch gathers
//! by itself, so the busier the server, the larger its batches. A lone request waits for nobody.

use super::metrics::Metrics;
use super::model::{Model, Slot};
use crate::recommend::{Options, Recommendation, Request, Scored};
use crate::train::progress::say;
use crate::{Error, Result};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How large a batch may grow and how long it may wait for that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchRule {
    /// Most requests in one forward pass.
    pub size: usize,
    /// Longest that the first request of a batch waits for others.
    pub wait: Duration,
    /// Most requests that may wait in the queue.
    pub queue: usize,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Failure {
    /// The model refused it.
    Refused(Error),
    /// The model's code panicked; the thread goes on.
    Panicked,
    /// The queue is full.
    Busy,
    /// The server is ending.
    Ended,
}

/// An answer, or why there is none.
pub type Answer<T> = std::result::Result<T, Failure>;

type Reply<T> = oneshot::Sender<Answer<T>>;

/// A question with the way back to whoever asked.
pub enum Job {
    /// Best items for a history.
    Recommend(Request, Options, Reply<Recommendation>),
    /// Scores of given items.
    Score((Request, Vec<String>), Reply<Vec<Option<f32>>>),
    /// Items like an item.
    Similar(String, usize, Reply<Vec<Scored>>),
}

impl Job {
    /// Whether whoever asked has hung up.
    fn is_abandoned(&self) -> bool {
        match self {
            Job::Recommend(_, _, reply) => reply.is_closed(),
            Job::Score(_, reply) => reply.is_closed(),
            Job::Similar(_, _, reply) => reply.is_closed(),
        }
    }
}

/// The way into the queue; the thread behind it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Batcher {
    queue: SyncSender<Job>,
}

impl Batcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, when it has no thread to give.
    pub fn start(
        model: Arc<Slot>,
        metrics: Arc<Metrics>,
        rule: BatchRule,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (queue, jobs) = sync_channel(rule.queue.max(1));
        let thread = std::thread::Builder::new().name("batcher".to_string());
        let thread = thread.spawn(move || {
            while let Ok(first) = jobs.recv() {
                let batch = gather(first, &jobs, &metrics, rule);
                metrics.batch_size.observe(batch.len() as f64);
                answer(batch, model.current().as_ref());
            }
        })?;
        Ok((Batcher { queue }, thread))
    }

    /// Queues the job that `job` makes of a way back, and waits for its answer.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(job(reply)).map_err(|error| match error {
            TrySendError::Full(_) => Failure::Busy,
            TrySendError::Disconnected(_) => Failure::Ended,
        })?;
        answer.await.unwrap_or(Err(Failure::Ended))
    }
}

/// `first` and what comes within the rule.
fn gather(first: Job, jobs: &Receiver<Job>, metrics: &Metrics, rule: BatchRule) -> Vec<Job> {
    let mut batch = vec![first];
    let until = Instant::now() + rule.wait;
    while batch.len() < rule.size {
        let next = jobs.try_recv().ok().or_else(|| {
            // Requests whose head has come, but that are not in the queue yet, may be worth a moment.
            let expected = metrics.in_progress.get() > batch.len() as i64;
            let left = until.saturating_duration_since(Instant::now());
            if expected && !left.is_zero() { jobs.recv_timeout(left).ok() } else { None }
        });
        match next {
            Some(job) => batch.push(job),
            None => break,
        }
    }
    batch.retain(|job| !job.is_abandoned());
    batch
}

/// Requests that share everything but `k`, and so one forward pass and one scan of the items.
struct Group {
    options: Options,
    requests: Vec<Request>,
    /// Each request's own.
    k: Vec<usize>,
    replies: Vec<Reply<Recommendation>>,
}

fn answer(batch: Vec<Job>, model: &dyn Model) {
    let mut groups: Vec<Group> = Vec::new();
    let (mut pairs, mut pair_replies) = (Vec::new(), Vec::new());
    let mut similar = Vec::new();
    for job in batch {
        match job {
            Job::Recommend(request, options, reply) => add(&mut groups, request, options, reply),
            Job::Score(pair, reply) => {
                pairs.push(pair);
                pair_replies.push(reply);
            }
            Job::Similar(item, k, reply) => similar.push((item, k, reply)),
        }
    }
    for group in groups {
        let Group { options, requests, k, replies } = group;
        answer_range(0..requests.len(), replies, &|range| {
            let most = k[range.clone()].iter().copied().max().unwrap_or(0);
            let options = Options { k: most, ..options.clone() };
            let mut answers = model.top_k(&requests[range.clone()], &options)?;
            for (answer, &k) in answers.iter_mut().zip(&k[range]) {
                answer.items.truncate(k);
            }
            Ok(answers)
        });
    }
    if !pairs.is_empty() {
        answer_range(0..pairs.len(), pair_replies, &|range| model.score(&pairs[range]));
    }
    for (item, k, reply) in similar {
        answer_range(0..1, vec![reply], &|_| Ok(vec![model.similar(&item, k)?]));
    }
}

fn add(groups: &mut Vec<Group>, request: Request, options: Options, reply: Reply<Recommendation>) {
    let same = |group: &&mut Group| {
        let its = &group.options;
        its.filter_seen == options.filter_seen
            && its.allow == options.allow
            && its.deny == options.deny
    };
    match groups.iter_mut().find(same) {
        Some(group) => {
            group.requests.push(request);
            group.k.push(options.k);
            group.replies.push(reply);
        }
        None => groups.push(Group {
            k: vec![options.k],
            requests: vec![request],
            options,
            replies: vec![reply],
        }),
    }
}

/// Answers questions together; when that fails, each alone, so that one that cannot be answered spoils no other.
fn answer_range<T>(
    range: Range<usize>,
    replies: Vec<Reply<T>>,
    compute: &dyn Fn(Range<usize>) -> Result<Vec<T>>,
) {
    let outcome = match catch_unwind(AssertUnwindSafe(|| compute(range.clone()))) {
        Ok(Ok(answers)) if answers.len() == range.len() => Ok(answers),
        Ok(Err(error)) => Err(Failure::Refused(error)),
        Ok(Ok(_)) | Err(_) => Err(Failure::Panicked),
    };
    match outcome {
        Ok(answers) => {
            // Whoever hung up in the meantime misses nothing.
            replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(Ok(answer))));
        }
        Err(_) if range.len() > 1 => {
            for (index, reply) in range.zip(replies) {
                answer_range(index..index + 1, vec![reply], compute);
            }
        }
        Err(failure) => {
            if matches!(failure, Failure::Panicked) {
                say("error: a request made the model's code fail; it was answered with status 500");
            }
            replies.into_iter().next().map(|reply| reply.send(Err(failure)));
        }
    }
}
