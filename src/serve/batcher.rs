//! Requests that arrive together are answered by one forward pass.
//!
//! One thread takes the first question from a bounded queue, gathers what else is there (and, while more requests are
//! on their way, waits a moment for them), and asks the model once. While the model computes, the next batch gathers
//! by itself, so the busier the server, the larger its batches. A lone request waits for nobody.

use super::metrics::Metrics;
use super::model::{Model, Slot};
use crate::recommend::{Options, Query, Recommendation, Request, Scored};
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

impl BatchRule {
    /// Batches as large as still gain by it, and a wait that nobody notices.
    pub const DEFAULT: BatchRule =
        BatchRule { size: 64, wait: Duration::from_micros(300), queue: 1024 };
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

/// How many items an answer should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    /// The request says so; a catalogue with fewer items is an error.
    Asked(usize),
    /// It does not say; as many as there are, up to this.
    UpTo(usize),
}

impl Count {
    fn of(self, items: usize) -> Result<usize> {
        match self {
            Count::Asked(k) if k > items => Err(Error::config(
                "k",
                format!("{k} is more than the {items} items that the model knows"),
                "ask for fewer",
            )),
            Count::Asked(k) => Ok(k),
            Count::UpTo(k) => Ok(k.min(items)),
        }
    }
}

/// A question with the way back to whoever asked.
pub enum Job {
    /// Best items for a history; `k` of the options is not used.
    Recommend(Request, Options, Count, Reply<Recommendation>),
    /// Scores of given items.
    Score(Request, Vec<String>, Reply<Vec<Option<f32>>>),
    /// Items like an item.
    Similar(String, Count, Reply<Vec<Scored>>),
}

impl Job {
    /// Whether whoever asked has hung up.
    fn is_abandoned(&self) -> bool {
        match self {
            Job::Recommend(.., reply) => reply.is_closed(),
            Job::Score(.., reply) => reply.is_closed(),
            Job::Similar(.., reply) => reply.is_closed(),
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
    queries: Vec<Query>,
    /// Each request's own.
    k: Vec<usize>,
    replies: Vec<Reply<Recommendation>>,
}

/// Requests for scores.
#[derive(Default)]
struct Scores {
    queries: Vec<Query>,
    items: Vec<Vec<String>>,
    replies: Vec<Reply<Vec<Option<f32>>>>,
}

fn answer(batch: Vec<Job>, model: &dyn Model) {
    let mut groups: Vec<Group> = Vec::new();
    let mut scores = Scores::default();
    for job in batch {
        match job {
            Job::Recommend(request, options, count, reply) => {
                let looked_up = || Ok((model.query(&request)?, count.of(model.item_count())?));
                if let Some(((query, k), reply)) = or_refuse(attempt(looked_up), reply) {
                    add(&mut groups, options, query, k, reply);
                }
            }
            Job::Score(request, items, reply) => {
                if let Some((query, reply)) = or_refuse(attempt(|| model.query(&request)), reply) {
                    scores.queries.push(query);
                    scores.items.push(items);
                    scores.replies.push(reply);
                }
            }
            Job::Similar(item, count, reply) => answer_range(0..1, vec![reply], &|_| {
                Ok(vec![model.similar(&item, count.of(model.item_count())?)?])
            }),
        }
    }
    groups.into_iter().for_each(|group| recommend(group, model));
    let Scores { queries, items, replies } = scores;
    answer_range(0..queries.len(), replies, &|range| {
        let items: Vec<&[String]> = items[range.clone()].iter().map(Vec::as_slice).collect();
        model.score(&queries[range], &items)
    });
}

fn recommend(group: Group, model: &dyn Model) {
    let Group { options, queries, k, replies } = group;
    answer_range(0..queries.len(), replies, &|range| {
        let most = k[range.clone()].iter().copied().max().unwrap_or(0);
        let options = Options { k: most, ..options.clone() };
        let (mut answers, unknown) = model.top_k(&queries[range.clone()], &options)?;
        for (answer, &k) in answers.iter_mut().zip(&k[range]) {
            answer.items.truncate(k);
            answer.unknown.extend(unknown.iter().cloned());
        }
        Ok(answers)
    });
}

fn add(
    groups: &mut Vec<Group>,
    options: Options,
    query: Query,
    k: usize,
    reply: Reply<Recommendation>,
) {
    let options = Options { k: 0, ..options };
    let group = match groups.iter().position(|group| group.options == options) {
        Some(index) => &mut groups[index],
        None => {
            let (queries, k, replies) = Default::default();
            groups.push(Group { options, queries, k, replies });
            let last = groups.len() - 1;
            &mut groups[last]
        }
    };
    group.queries.push(query);
    group.k.push(k);
    group.replies.push(reply);
}

/// Runs the model's code; a panic in it is one request's trouble, not the server's.
fn attempt<T>(compute: impl FnOnce() -> Result<T>) -> Answer<T> {
    match catch_unwind(AssertUnwindSafe(compute)) {
        Ok(outcome) => outcome.map_err(Failure::Refused),
        Err(_) => Err(Failure::Panicked),
    }
}

/// What was found with the way back for later, or the failure sent on its way.
fn or_refuse<T, U>(found: Answer<T>, reply: Reply<U>) -> Option<(T, Reply<U>)> {
    match found {
        Ok(found) => Some((found, reply)),
        Err(failure) => {
            send(reply, Err(failure));
            None
        }
    }
}

/// Whoever hung up in the meantime misses nothing.
fn send<T>(reply: Reply<T>, answer: Answer<T>) {
    if matches!(answer, Err(Failure::Panicked)) {
        say("error: a request made the model's code fail; it was answered with status 500");
    }
    let _ = reply.send(answer);
}

/// Answers questions together; when that fails, each alone, so that one that cannot be answered spoils no other.
fn answer_range<T>(
    range: Range<usize>,
    replies: Vec<Reply<T>>,
    compute: &dyn Fn(Range<usize>) -> Result<Vec<T>>,
) {
    if range.is_empty() {
        return;
    }
    match attempt(|| compute(range.clone())) {
        Ok(answers) if answers.len() == range.len() => {
            replies.into_iter().zip(answers).for_each(|(reply, answer)| send(reply, Ok(answer)));
        }
        _ if range.len() > 1 => {
            for (index, reply) in range.zip(replies) {
                answer_range(index..index + 1, vec![reply], compute);
            }
        }
        failed => {
            let failure = failed.err().unwrap_or(Failure::Panicked);
            if let Some(reply) = replies.into_iter().next() {
                send(reply, Err(failure));
            }
        }
    }
}

#[cfg(test)]
mod tests;
