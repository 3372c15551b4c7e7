//! From a history to recommendations: a trained run, opened for answering.
//!
//! [`Recommender`] is the library; [`command`] is `b4r-recommend`, which runs a stream of requests over it.

pub mod command;
mod export;
mod gpu;
mod input;
mod open;
mod output;
mod request;
mod request_lines;
mod stream;

use crate::batch::{Batch, evaluation};
use crate::config::{Config, Device};
use crate::cpu::Scorer;
use crate::cpu::top_k::Entry;
use crate::cuda::choice::Choice;
use crate::data::{EvalRow, IndexedVocabulary, Sequences, Vocabulary};
use crate::{Error, Result};
use std::path::Path;

use gpu::{Best, Chosen, Gpu};
use input::Fault;

pub use gpu::Computing;
pub use request::{Options, POPULARITY, Query, Recommendation, Request, Scored, Selection};
pub(crate) use request_lines::{Id, is_list};

/// Tokens that go through the network at once, unless one history alone has more: bounds the memory of
/// activations.
const TOKENS: usize = 8192;

/// A trained run, opened for answering; any number of threads may use it at once.
///
/// ```no_run
/// use b4r::recommend::{Options, Recommender, Request};
/// use std::path::Path;
///
/// let recommender = Recommender::open(Path::new("runs/ml-100k-seed2020"), 0)?;
/// let history = ["50", "181", "172"].map(String::from).to_vec();
/// let request = Request { history: Some(history), user: None };
/// for result in recommender.top_k(&[request], &Options { k: 5, ..Options::default() })? {
///     for scored in result.items {
///         println!("{} {}", scored.item, scored.score);
///     }
/// }
/// # Ok::<(), b4r::Error>(())
/// ```
///
/// Scores do not depend on the number of threads. What else is asked at the same time may change their last
/// bits, since matrix products of other sizes add in another order.
pub struct Recommender {
    config: Config,
    choice: Choice,
    scorer: Scorer,
    /// What runs the network in the scorer's place, and finds the best items, where it can.
    gpu: Option<Gpu>,
    items: IndexedVocabulary,
    users: IndexedVocabulary,
    histories: Sequences,
    /// `[V]` interactions of each item.
    counts: Vec<u64>,
    /// Items by falling count, then by index.
    by_count: Vec<u32>,
}

impl Recommender {
    /// Opens the run directory `run` of a training, to compute on the processor. `threads` 0 takes every core.
    ///
    /// # Errors
    /// Where the directory is incomplete, of another version, changed, or its parts do not fit together.
    pub fn open(run: &Path, threads: usize) -> Result<Self> {
        let device = Device::Cpu;
        Recommender::open_on(run, Computing { threads, device, precision: None })
    }

    /// Opens the run directory `run`, to compute on the processor or a GPU.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::Config`] where `computing` asks for a GPU that is not there, or that has not all that
    /// the model needs; [`Error::Memory`] and [`Error::Device`] where the GPU fails.
    pub fn open_on(run: &Path, computing: Computing) -> Result<Self> {
        let open::Run { config, parameters, items, counts, users, histories } = open::open(run)?;
        let (model, count) = (&config.model, items.strings().len());
        let Chosen { choice, gpu, parameters } = gpu::choose(computing, model, count, parameters)?;
        let scorer = Scorer::new(model, count, parameters, computing.threads)?;
        let mut by_count: Vec<u32> = (1..=counts.len() as u32).collect();
        by_count.sort_by_key(|&item| std::cmp::Reverse(counts[item as usize - 1]));
        Ok(Recommender { config, choice, scorer, gpu, items, users, histories, counts, by_count })
    }

    /// What computes.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Whether the GPU, where there is one, has failed since the model was opened.
    pub fn has_failed(&self) -> bool {
        self.gpu.as_ref().is_some_and(Gpu::has_failed)
    }

    /// How the run was trained.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// External item ids, in the order of `items.tsv`.
    pub fn items(&self) -> &Vocabulary {
        self.items.strings()
    }

    /// External user ids, in the order of `users.tsv`.
    pub fn users(&self) -> &Vocabulary {
        self.users.strings()
    }

    /// Whether the model knows `item`.
    pub fn knows_item(&self, item: &str) -> bool {
        self.items.find(item).is_some()
    }

    /// Looks up the items of a history, or takes the history that the run holds of its user.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no history and the user is not known.
    pub fn query(&self, request: &Request) -> Result<Query> {
        match (&request.user, &request.history) {
            (Some(user), None) => self.query_user(user),
            (user, history) => {
                Ok(self.query_history(user.clone(), history.as_deref().unwrap_or_default()))
            }
        }
    }

    /// Looks up the items of a history, which may be empty; `user` is only a name.
    pub fn query_history(&self, user: Option<String>, history: &[String]) -> Query {
        let mut query = Query { user, ..Query::default() };
        for item in history {
            match self.items.find(item) {
                Some(number) => query.items.push(number as u32 + 1),
                None => query.unknown.push(item.clone()),
            }
        }
        query
    }

    /// The history that the run holds of `user`.
    ///
    /// # Errors
    /// [`Error::Config`] where it holds none.
    pub fn query_user(&self, user: &str) -> Result<Query> {
        let number = self.users.find(user).ok_or_else(|| {
            Error::config(
                "user",
                format!("`{}` is not among the run's users", shorten(user)),
                "give a history: a new user needs nothing else",
            )
        })?;
        Ok(self.query_number(number))
    }

    /// The history of user `number`, which is below the number of [`Self::users`].
    fn query_number(&self, number: usize) -> Query {
        let user = Some(self.users().get(number).to_string());
        Query { user, unknown: Vec::new(), items: self.histories.get(number).to_vec() }
    }

    /// Looks up the items of `options`.
    ///
    /// # Errors
    /// [`Error::Config`] where `k` is 0 or no item is left to recommend.
    pub fn select(&self, options: &Options) -> Result<Selection> {
        if options.k == 0 {
            return Err(Error::config("k", "is 0: no item is asked for", "ask for at least 1"));
        }
        let mut unknown = Vec::new();
        let mut indices = |names: &[String]| -> Vec<u32> {
            let mut find = |name: &String| match self.items.find(name) {
                Some(number) => Some(number as u32 + 1),
                None => {
                    unknown.push(name.clone());
                    None
                }
            };
            names.iter().filter_map(&mut find).collect()
        };
        let allow = options.allow.as_deref().map(&mut indices);
        let deny = indices(&options.deny);
        let candidates = self.scorer.candidates(allow.as_deref(), &deny);
        if candidates.count() == 0 {
            return Err(Error::config(
                if options.allow.is_some() { "allow" } else { "deny" },
                "no item that the model knows is left to recommend",
                "check the ids against items.tsv of the run directory",
            ));
        }
        Ok(Selection { unknown, candidates, k: options.k, filter_seen: options.filter_seen })
    }

    /// The best items for each of `requests`; requests share passes through the network.
    ///
    /// # Errors
    /// As [`Self::query`] for any of them, and as [`Self::select`].
    pub fn top_k(&self, requests: &[Request], options: &Options) -> Result<Vec<Recommendation>> {
        let queries: Vec<Query> =
            requests.iter().map(|request| self.query(request)).collect::<Result<_>>()?;
        self.recommend(&queries, &self.select(options)?)
    }

    /// [`Self::top_k`] for what has been looked up.
    ///
    /// # Errors
    /// [`Error::Config`] where a score is not finite.
    pub fn recommend(
        &self,
        queries: &[Query],
        selection: &Selection,
    ) -> Result<Vec<Recommendation>> {
        let mut results = Vec::with_capacity(queries.len());
        for queries in pieces(queries, self.config.model.max_len) {
            let asked: Vec<&Query> = queries.iter().filter(|query| !query.is_empty()).collect();
            let seen: Vec<Vec<u32>> = asked
                .iter()
                .map(|query| if selection.filter_seen { distinct(&query.items) } else { vec![] })
                .collect();
            let mut found = self.best(self.batch(&asked), seen, selection)?.into_iter();
            for query in queries {
                let (items, fallback) = match query.is_empty() {
                    true => (self.popular(selection), Some(POPULARITY)),
                    false => (self.named(found.next().unwrap_or_default()), None),
                };
                let (user, unknown) = (query.user.clone(), query.unknown.clone());
                results.push(Recommendation { user, items, unknown, fallback });
            }
        }
        Ok(results)
    }

    /// The score of each item for its request; `None` for an item that the model does not know.
    ///
    /// # Errors
    /// As [`Self::query`] for any of them.
    pub fn score(&self, requests: &[(Request, Vec<String>)]) -> Result<Vec<Vec<Option<f32>>>> {
        let queries: Vec<Query> =
            requests.iter().map(|(request, _)| self.query(request)).collect::<Result<_>>()?;
        let items: Vec<&[String]> = requests.iter().map(|(_, items)| items.as_slice()).collect();
        self.score_queries(&queries, &items)
    }

    /// [`Self::score`] for what has been looked up: `items` has a list for each query. An empty query's
    /// scores are the items' numbers of interactions.
    ///
    /// # Errors
    /// [`Error::Config`] where a score is not finite.
    pub fn score_queries(
        &self,
        queries: &[Query],
        items: &[&[String]],
    ) -> Result<Vec<Vec<Option<f32>>>> {
        let mut results = Vec::with_capacity(queries.len());
        let mut items = items.iter();
        for queries in pieces(queries, self.config.model.max_len) {
            let wanted: Vec<Vec<Option<u32>>> = items
                .by_ref()
                .take(queries.len())
                .map(|names| names.iter().map(|name| self.index(name)).collect())
                .collect();
            let (mut asked, mut known) = (Vec::new(), Vec::new());
            for (query, wanted) in
                queries.iter().zip(&wanted).filter(|(query, _)| !query.is_empty())
            {
                asked.push(query);
                known.push(wanted.iter().copied().flatten().collect::<Vec<u32>>());
            }
            let known: Vec<&[u32]> = known.iter().map(Vec::as_slice).collect();
            let mut scores = match &self.gpu {
                None => self.scorer.score(&self.batch(&asked), &known)?,
                Some(gpu) => self.scorer.score_rows(&gpu.rows(self.batch(&asked))?, &known)?,
            }
            .into_iter();
            for (query, wanted) in queries.iter().zip(&wanted) {
                let scores = if query.is_empty() {
                    let known = wanted.iter().flatten();
                    known.map(|&item| self.count(item)).collect()
                } else {
                    scores.next().unwrap_or_default()
                };
                let mut scores = scores.into_iter();
                results.push(wanted.iter().map(|item| item.and_then(|_| scores.next())).collect());
            }
        }
        Ok(results)
    }

    /// The `k` items most like `item`, by the cosine of their embeddings.
    ///
    /// # Errors
    /// [`Error::Config`] where the model does not know `item`, or `k` is 0.
    pub fn similar(&self, item: &str, k: usize) -> Result<Vec<Scored>> {
        if k == 0 {
            return Err(Error::config("k", "is 0: no item is asked for", "ask for at least 1"));
        }
        let index = self.index(item).ok_or_else(|| {
            Error::config(
                "item",
                format!("the model does not know `{}`", shorten(item)),
                "give an id from items.tsv of the run directory",
            )
        })?;
        Ok(self.named(self.scorer.similar(index, k)?))
    }

    /// `[V, D]` vectors of all items, in the order of [`Self::items`], and `[V]` what their products with a
    /// user's vector lack of a score.
    pub fn item_vectors(&self) -> (&[f32], &[f32]) {
        (self.scorer.output_vectors(), self.scorer.output_bias())
    }

    /// `[queries, D]`: one vector for each of `queries`. A score is its product with an item's vector plus
    /// the item's bias.
    ///
    /// # Errors
    /// [`Error::Device`] and [`Error::Memory`] of a GPU.
    pub fn user_vectors(&self, queries: &[Query]) -> Result<Vec<f32>> {
        let mut vectors = Vec::with_capacity(queries.len() * self.config.model.hidden_size);
        for queries in pieces(queries, self.config.model.max_len) {
            let batch = self.batch(&queries.iter().collect::<Vec<_>>());
            vectors.extend(match &self.gpu {
                None => self.scorer.vectors(&batch),
                Some(gpu) => gpu.rows(batch)?,
            });
        }
        Ok(vectors)
    }

    /// The best items for each row of `batch` but those of its list of `seen` (ascending).
    fn best(
        &self,
        batch: Batch,
        seen: Vec<Vec<u32>>,
        selection: &Selection,
    ) -> Result<Vec<Vec<Entry>>> {
        let (candidates, k) = (&selection.candidates, selection.longest());
        let slices: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        match &self.gpu {
            None => self.scorer.top_k(&batch, &slices, candidates, k),
            Some(_) if seen.is_empty() => Ok(Vec::new()),
            Some(gpu) if k > gpu::MOST_BEST => {
                self.scorer.top_k_of_rows(&gpu.rows(batch)?, &slices, candidates, k)
            }
            Some(gpu) => gpu.best(batch, Best { seen, bias: candidates.limited(), k }),
        }
    }

    fn index(&self, item: &str) -> Option<u32> {
        self.items.find(item).map(|number| number as u32 + 1)
    }

    fn count(&self, item: u32) -> f32 {
        self.counts[item as usize - 1] as f32
    }

    /// The sequences that evaluation would predict the next item from.
    fn batch(&self, queries: &[&Query]) -> Batch {
        let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
        let mut rows = Vec::with_capacity(queries.len());
        for (user, query) in (0..).zip(queries) {
            let read = query.items.len().min(evaluation::context(&self.config.model));
            sequences.items.extend_from_slice(&query.items[query.items.len() - read..]);
            // The place of the item to predict, which nobody knows: MASK covers it, or it is not read (causal).
            sequences.items.push(0);
            sequences.offsets.push(sequences.items.len() as u64);
            rows.push(EvalRow { user, position: read as u32 });
        }
        evaluation::rows(&sequences, &rows, self.items().len(), &self.config.model)
    }

    fn popular(&self, selection: &Selection) -> Vec<Scored> {
        let eligible = self.by_count.iter().filter(|&&item| selection.candidates.contains(item));
        let best = eligible.take(selection.k).map(|&item| Entry { item, score: self.count(item) });
        self.named(best.collect())
    }

    fn named(&self, entries: Vec<Entry>) -> Vec<Scored> {
        let named = |Entry { item, score }| Scored {
            item: self.items().get(item as usize - 1).to_string(),
            score,
        };
        entries.into_iter().map(named).collect()
    }
}

/// Cuts queries into runs that go through the network at once.
fn pieces(queries: &[Query], max_len: usize) -> impl Iterator<Item = &[Query]> {
    let mut rest = queries;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |query: &&Query| {
            tokens += query.items.len().min(max_len) + 1;
            tokens <= TOKENS
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (piece, after) = rest.split_at(count);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Ascending, each item once.
fn distinct(items: &[u32]) -> Vec<u32> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

/// An id as an error shows it: printable and not long.
fn shorten(id: &str) -> String {
    let mut shown: String = id.chars().take(40).flat_map(char::escape_debug).collect();
    if id.chars().nth(40).is_some() {
        shown.push('…');
    }
    shown
}
