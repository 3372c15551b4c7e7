//! What the server asks of a model, and the slot that holds the one in use.

use crate::Result;
use crate::recommend::{Options, Query, Recommendation, Recommender, Request, Scored};
use std::sync::{Arc, PoisonError, RwLock};

/// The questions that can be asked over HTTP. [`Recommender`] answers them; tests put others in its place.
pub trait Model: Send + Sync {
    /// Items that the model knows.
    fn item_count(&self) -> usize;

    /// Looks up what a request names.
    ///
    /// # Errors
    /// An unknown user without a history.
    fn query(&self, request: &Request) -> Result<Query>;

    /// The best items for each of `queries`, and which items of the options' lists are unknown.
    ///
    /// # Errors
    /// One for the whole slice.
    fn top_k(
        &self,
        queries: &[Query],
        options: &Options,
    ) -> Result<(Vec<Recommendation>, Vec<String>)>;

    /// For each query the scores of its items; `None` where the item is unknown.
    ///
    /// # Errors
    /// One for the whole slice.
    fn score(&self, queries: &[Query], items: &[&[String]]) -> Result<Vec<Vec<Option<f32>>>>;

    /// The `k` items nearest to `item`.
    ///
    /// # Errors
    /// An unknown item.
    fn similar(&self, item: &str, k: usize) -> Result<Vec<Scored>>;

    /// Whether what it computes with has failed, so that a model loaded anew may do better.
    fn has_failed(&self) -> bool;
}

impl Model for Recommender {
    fn item_count(&self) -> usize {
        self.items().len()
    }

    fn query(&self, request: &Request) -> Result<Query> {
        self.query(request)
    }

    fn top_k(
        &self,
        queries: &[Query],
        options: &Options,
    ) -> Result<(Vec<Recommendation>, Vec<String>)> {
        let selection = self.select(options)?;
        Ok((self.recommend(queries, &selection)?, selection.unknown))
    }

    fn score(&self, queries: &[Query], items: &[&[String]]) -> Result<Vec<Vec<Option<f32>>>> {
        self.score_queries(queries, items)
    }

    fn similar(&self, item: &str, k: usize) -> Result<Vec<Scored>> {
        self.similar(item, k)
    }

    fn has_failed(&self) -> bool {
        self.has_failed()
    }
}

/// Holds the model in use. Whoever took it keeps it until done, so a change drops no request.
pub struct Slot(RwLock<Arc<dyn Model>>);

impl Slot {
    /// A slot that holds `model`.
    pub fn new(model: impl Model + 'static) -> Self {
        Slot(RwLock::new(Arc::new(model)))
    }

    /// The model in use.
    pub fn current(&self) -> Arc<dyn Model> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `model` to use from the next batch on.
    pub fn replace(&self, model: impl Model + 'static) {
        let new: Arc<dyn Model> = Arc::new(model);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        // Freeing a large model takes a while; nobody should wait for it at the lock.
        drop(old);
    }
}
