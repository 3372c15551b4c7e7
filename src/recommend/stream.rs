//! From a stream of requests to a stream of results, a chunk at a time, in the order of the requests.

use super::input::{Asked, Fault, Source};
use super::output::{self, Results};
use super::{Query, Recommender, Selection};
use crate::train::progress::say;
use crate::{Error, Result};
use std::fmt;
use std::io;
use std::path::Path;

/// Most requests of a chunk.
const CHUNK: usize = 512;
/// Most bytes of ids in a chunk, but for its last request: lines may be long.
const CHUNK_BYTES: usize = 8 << 20;
/// Most items that the results of a chunk name together, where one alone does not name more.
const CHUNK_RESULTS: usize = 1 << 20;
/// Faults that are told on the spot; the rest is only counted.
const FAULTS_SHOWN: u64 = 20;

/// What is asked for.
pub enum Task {
    /// The best items for each request.
    Recommend(Selection),
    /// Scores of each request's own items.
    Score,
}

impl Task {
    fn chunk(&self, source: &Source) -> usize {
        match self {
            _ if source.interactive => 1,
            Task::Recommend(selection) => {
                (CHUNK_RESULTS / selection.longest().max(1)).clamp(1, CHUNK)
            }
            Task::Score => CHUNK,
        }
    }
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests answered.
    pub results: u64,
    /// Requests among them that popularity answered.
    pub fallbacks: u64,
    /// Items of histories that the model does not know.
    pub unknown: u64,
    /// Requests that could not be answered.
    pub faults: u64,
}

impl Summary {
    /// 0, or 1 where a request could not be answered, or 2 where none could.
    pub fn exit_code(&self) -> u8 {
        match (self.results, self.faults) {
            (_, 0) => 0,
            (0, _) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered", self.results)?;
        if self.fallbacks > 0 {
            write!(f, ", {} of them by popularity", self.fallbacks)?;
        }
        if self.unknown > 0 {
            write!(f, ", {} unknown items of histories skipped", self.unknown)?;
        }
        match self.faults {
            0 => Ok(()),
            1 => write!(f, ", 1 request refused"),
            faults => write!(f, ", {faults} requests refused"),
        }
    }
}

/// Why a stream ended early.
pub enum Stop {
    /// Results cannot be written.
    Write(io::Error),
    /// Anything else.
    Failed(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Write(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// Requests that wait to be answered together.
#[derive(Default)]
struct Chunk {
    lines: Vec<(u64, std::result::Result<(), Fault>)>,
    /// Of the lines that are no faults, in order.
    queries: Vec<Query>,
    /// What is to be scored, for each query.
    items: Vec<Vec<String>>,
    bytes: usize,
}

/// Answers all requests of `source`.
///
/// # Errors
/// [`Stop`]; what came before has been written.
pub fn run(
    recommender: &Recommender,
    source: &mut Source,
    task: &Task,
    results: &mut Results<'_>,
) -> std::result::Result<Summary, Stop> {
    let mut summary = Summary::default();
    let mut chunk = Chunk::default();
    let longest = task.chunk(source);
    while let Some((line, asked)) = source.next()? {
        match asked.and_then(|asked| chunk.take(recommender, task, asked)) {
            Ok(()) => chunk.lines.push((line, Ok(()))),
            Err(fault) => {
                summary.faults += 1;
                tell(source, line, &fault, summary.faults);
                chunk.lines.push((line, Err(fault)));
            }
        }
        if chunk.lines.len() >= longest || chunk.bytes >= CHUNK_BYTES {
            chunk.answer(recommender, task, results, &mut summary)?;
            source.bar.set_message(format!("{} answered", summary.results));
            if source.interactive {
                results.flush()?;
            }
        }
    }
    chunk.answer(recommender, task, results, &mut summary)?;
    source.bar.finish_and_clear();
    Ok(summary)
}

fn tell(source: &Source, line: u64, fault: &Fault, number: u64) {
    source.bar.suspend(|| match number {
        ..=FAULTS_SHOWN => {
            say(format_args!("{}:{line}: {}", source.name().display(), fault.problem))
        }
        number if number == FAULTS_SHOWN + 1 => say("further refusals are only counted"),
        _ => {}
    });
}

impl Chunk {
    /// Looks up what a line asks for.
    fn take(
        &mut self,
        recommender: &Recommender,
        task: &Task,
        asked: Asked,
    ) -> std::result::Result<(), Fault> {
        let Asked { user, history, items } = asked;
        let refuse =
            |user: Option<String>, problem: &str| Err(Fault { user, problem: problem.to_string() });
        let items = match (task, items) {
            (Task::Recommend(_), None) => Vec::new(),
            (Task::Score, Some(items)) => items,
            (Task::Recommend(_), Some(_)) => {
                return refuse(user, "`items` are to be scored: that needs --score");
            }
            (Task::Score, None) => return refuse(user, "there are no `items` to score"),
        };
        let lengths = history.iter().flatten().chain(&items).map(|item| item.len() + 32);
        let bytes: usize = lengths.sum();
        let query = match (user, history) {
            (user, Some(history)) => recommender.query_history(user, &history),
            (None, None) => return refuse(None, "there is neither `user` nor `history`"),
            (Some(user), None) => match recommender.query_user(&user) {
                Ok(query) => query,
                Err(Error::Config { problem, remedy, .. }) => {
                    return refuse(Some(user), &format!("{problem}; {remedy}"));
                }
                Err(error) => return refuse(Some(user), &error.to_string()),
            },
        };
        self.bytes += bytes + 4 * query.items.len();
        self.queries.push(query);
        self.items.push(items);
        Ok(())
    }

    /// Writes the results of all lines, and is empty again.
    fn answer(
        &mut self,
        recommender: &Recommender,
        task: &Task,
        results: &mut Results<'_>,
        summary: &mut Summary,
    ) -> std::result::Result<(), Stop> {
        let Chunk { lines, queries, items, .. } = std::mem::take(self);
        for query in &queries {
            summary.results += 1;
            summary.fallbacks += u64::from(query.is_empty());
            summary.unknown += query.unknown.len() as u64;
        }
        match task {
            Task::Recommend(selection) => {
                let mut found = recommender.recommend(&queries, selection)?.into_iter();
                write_all(lines, results, |results, line| {
                    found.next().map_or(Ok(()), |found| results.recommendation(line, &found))
                })
            }
            Task::Score => {
                let lists: Vec<&[String]> = items.iter().map(Vec::as_slice).collect();
                let scores = recommender.score_queries(&queries, &lists)?;
                let mut found = queries.iter().zip(&items).zip(&scores);
                write_all(lines, results, |results, line| {
                    found.next().map_or(Ok(()), |((query, items), scores)| {
                        results.scores(line, query, items, scores)
                    })
                })
            }
        }
    }
}

fn write_all<'a>(
    lines: Vec<(u64, std::result::Result<(), Fault>)>,
    results: &mut Results<'a>,
    mut answer: impl FnMut(&mut Results<'a>, u64) -> io::Result<()>,
) -> std::result::Result<(), Stop> {
    for (line, outcome) in lines {
        match outcome {
            Ok(()) => answer(results, line)?,
            Err(fault) => results.fault(line, &fault)?,
        }
    }
    Ok(())
}

/// Runs the stream into `output`, an ordinary file or what else can be written.
///
/// # Errors
/// [`Error::Io`] where results cannot be written, and whatever else ends the stream.
pub fn run_into(
    recommender: &Recommender,
    source: &mut Source,
    task: &Task,
    output: Option<&Path>,
    format: output::Format,
) -> Result<Summary> {
    let (mut summary, mut failure) = (Summary::default(), None);
    let written = output::write_to(output, |out| {
        let ranked = matches!(task, Task::Recommend(_));
        let mut results = Results::begin(out, format, ranked)?;
        match run(recommender, source, task, &mut results) {
            Ok(done) => summary = done,
            Err(Stop::Write(error)) => return Err(error),
            Err(Stop::Failed(error)) => {
                let text = error.to_string();
                failure = Some(error);
                return Err(io::Error::other(text));
            }
        }
        Ok(())
    });
    source.bar.finish_and_clear();
    match failure {
        Some(failure) => Err(failure),
        None => written.map(|()| summary),
    }
}
