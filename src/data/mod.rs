//! From an interaction file to sequences: acquire, parse, filter, number, sort, split.

/// A prepared data set: each user's items in time order.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Short name, for reports.
    pub name: String,
    /// SHA-256 of the file as read (of the uncompressed text for `.gz`), in hex.
    pub sha256: String,
    /// External user ids; user `u` is `users.get(u)`.
    pub users: Vocabulary,
    /// External item ids; item `i`, from 1, is `items.get(i - 1)`. Order of first appearance after filters.
    pub items: Vocabulary,
    /// Histories of all users.
    pub sequences: Sequences,
    /// Time of each interaction, parallel to `sequences.items`; `None` where the file has none.
    pub times: Option<Vec<f64>>,
}

impl Dataset {
    /// `V`: number of items; indices run from 1 to `V`.
    pub fn item_count(&self) -> usize {
        self.items.len()
    }
}

/// Item indices of all users, one history after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// `[users + 1]`: where each history begins in `items`.
    pub offsets: Vec<u64>,
    /// Item indices, 1 to `V`.
    pub items: Vec<u32>,
}

impl Sequences {
    /// Number of users.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole history of `user`, oldest first.
    pub fn get(&self, user: usize) -> &[u32] {
        &self.items[self.offsets[user] as usize..self.offsets[user + 1] as usize]
    }
}

/// Distinct strings, numbered from 0 in order of first appearance, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    text: String,
    ends: Vec<u64>,
}

impl Vocabulary {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `index`.
    pub fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.text[start..self.ends[index] as usize]
    }

    /// Appends a string; the caller knows that it is new.
    pub fn push(&mut self, id: &str) {
        self.text.push_str(id);
        self.ends.push(self.text.len() as u64);
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// One thing to predict: the item at `position` of `user`'s history, from everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalRow {
    /// User index.
    pub user: u32,
    /// Index of the target within the user's history; at least 1.
    pub position: u32,
}

/// Which interactions train and which are predicted. Every rule leaves a prefix of each history to training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// For each user, how many leading interactions train.
    pub train_lengths: Vec<u32>,
    /// Validation rows, by user.
    pub valid: Vec<EvalRow>,
    /// Test rows, by user.
    pub test: Vec<EvalRow>,
}
