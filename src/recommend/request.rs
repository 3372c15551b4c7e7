//! What is asked and what is answered.

use crate::cpu::Candidates;
use serde::Serialize;

/// What a result says that did not come from the model.
pub const POPULARITY: &str = "popularity";

/// One user to recommend to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Items, oldest first. Where there is none, the history that the run holds of `user` is taken; an empty one is
    /// answered by popularity.
    pub history: Option<Vec<String>>,
    /// Who it is; any name where `history` is given.
    pub user: Option<String>,
}

/// What to recommend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Items to name for each request, at most.
    pub k: usize,
    /// Whether to leave out the items of the history.
    pub filter_seen: bool,
    /// Only these items, where given.
    pub allow: Option<Vec<String>>,
    /// None of these.
    pub deny: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { k: 10, filter_seen: true, allow: None, deny: Vec::new() }
    }
}

/// An item and its score: the model's logit, or the number of interactions where a result says
/// `popularity`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// External id.
    pub item: String,
    /// Higher is better; comparable within one result.
    pub score: f32,
}

/// The answer to a request; serialized, it is a line of `b4r-recommend`'s output.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recommendation {
    /// The request's user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Best first; fewer than asked for where no more are left.
    pub items: Vec<Scored>,
    /// Items of the history that the model does not know.
    pub unknown: Vec<String>,
    /// [`POPULARITY`] where the history held no item that the model knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<&'static str>,
}

/// A request whose items have been looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The request's user.
    pub user: Option<String>,
    /// Items of the history that the model does not know.
    pub unknown: Vec<String>,
    /// Known items, oldest first.
    pub(super) items: Vec<u32>,
}

impl Query {
    /// Whether there is nothing to go by but popularity.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// [`Options`] whose items have been looked up.
pub struct Selection {
    /// Items of the lists that the model does not know; they are left out of consideration.
    pub unknown: Vec<String>,
    pub(super) candidates: Candidates,
    pub(super) k: usize,
    pub(super) filter_seen: bool,
}

impl Selection {
    /// Most items that a result can have.
    pub fn longest(&self) -> usize {
        self.k.min(self.candidates.count())
    }
}
