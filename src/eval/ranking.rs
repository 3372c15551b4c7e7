//! Lists that a model ranked, and where their targets stand.

use crate::config::EvalUnit;

/// Rank of a target that was filtered out as seen.
pub const FILTERED: u32 = u32::MAX;

/// What evaluation keeps of each ranked list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Places of all targets, from 1, list after list, ascending within a list.
    places: Vec<u32>,
    /// Where each list ends in `places`.
    ends: Vec<usize>,
    /// How many items each list ranked, targets included.
    lengths: Vec<u32>,
    /// `[lists, list_length]` the best items of each list, 0 where it has no more.
    items: Vec<u32>,
    list_length: usize,
}

impl Ranking {
    /// No list yet; the best `list_length` items of each will be kept, 0 for none.
    pub fn new(list_length: usize) -> Self {
        Ranking { list_length, ..Ranking::default() }
    }

    /// Lists with one target each, at `ranks`, of `length` items.
    pub fn from_ranks(ranks: &[u32], length: u32) -> Self {
        let mut ranking = Ranking::default();
        ranks.iter().for_each(|&rank| ranking.push(&[rank], length, []));
        ranking
    }

    /// Appends a list of `length` items whose targets stand at `places` (ascending), and its best items.
    pub fn push(&mut self, places: &[u32], length: u32, best: impl IntoIterator<Item = u32>) {
        self.places.extend_from_slice(places);
        self.ends.push(self.places.len());
        self.lengths.push(length);
        self.items.extend(best.into_iter().take(self.list_length));
        self.items.resize(self.ends.len() * self.list_length, 0);
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Places of the targets of each list, and its length.
    pub fn lists(&self) -> impl Iterator<Item = (&[u32], u32)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let places = starts.zip(&self.ends).map(|(start, &end)| &self.places[start..end]);
        places.zip(self.lengths.iter().copied())
    }

    /// Places of all targets.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The best items of each list, at most `k` and as many as it has; nothing where none were kept.
    pub fn items(&self, k: usize) -> impl Iterator<Item = &[u32]> {
        self.items.chunks_exact(self.list_length.max(1)).map(move |items| {
            let items = &items[..k.min(items.len())];
            &items[..items.iter().position(|&item| item == 0).unwrap_or(items.len())]
        })
    }
}

/// An item of a list, from 1, its score and whether it is a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Item index.
    pub item: u32,
    /// Its score.
    pub score: f32,
    /// Whether it should be found.
    pub target: bool,
}

/// Brings a list into order, best first. Targets come after whatever scores the same; a score that is NaN
/// is the best of all, and the worst for a target.
pub fn order(list: &mut [Scored]) {
    let score = |entry: &Scored| match (entry.score.is_nan(), entry.target) {
        (false, _) => entry.score + 0.0,
        (true, false) => f32::INFINITY,
        (true, true) => f32::NEG_INFINITY,
    };
    list.sort_unstable_by(|a, b| {
        let by_score = score(b).total_cmp(&score(a));
        by_score.then(a.target.cmp(&b.target)).then(a.item.cmp(&b.item))
    });
}

/// Scores of the rows of one user, put together as RecBole does it.
#[derive(Debug, Default)]
pub struct UserList {
    /// Target and negatives of each row, end to end.
    rows: Vec<(Vec<u32>, Vec<f32>)>,
}

impl UserList {
    /// Takes in a row: its candidates, the target first, and their scores.
    pub fn add(&mut self, candidates: &[u32], scores: &[f32]) {
        self.rows.push((candidates.to_vec(), scores.to_vec()));
    }

    /// Whether there is a row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Appends the list to each of `rankings` and begins anew. Of an item that occurs several times the last score
    /// counts: targets come first, then the first negative of each row, then the second.
    pub fn finish(&mut self, rankings: &mut [Ranking]) {
        let longest = self.rows.iter().map(|(items, _)| items.len()).max().unwrap_or(0);
        let mut list: Vec<Scored> = Vec::new();
        for place in 0..longest {
            for (items, scores) in &self.rows {
                if let (Some(&item), Some(&score)) = (items.get(place), scores.get(place)) {
                    list.push(Scored { item, score, target: false });
                }
            }
        }
        // Stable, so that the last of several stays the last; then the others go.
        list.sort_by_key(|entry| entry.item);
        list.reverse();
        list.dedup_by_key(|entry| entry.item);
        let targets: Vec<u32> = self.rows.iter().map(|(items, _)| items[0]).collect();
        list.iter_mut().for_each(|entry| entry.target = targets.contains(&entry.item));
        order(&mut list);
        let places = (1u32..).zip(&list).filter(|(_, entry)| entry.target).map(|(place, _)| place);
        let places: Vec<u32> = places.collect();
        for ranking in rankings {
            ranking.push(&places, list.len() as u32, list.iter().map(|entry| entry.item));
        }
        self.rows.clear();
    }
}

/// What metrics of recommended items compare with.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue<'a> {
    /// `[V]` training interactions of each item.
    pub counts: &'a [u32],
    /// Which items are rare: a share up to 1, or a number of interactions.
    pub tail_ratio: f64,
    /// Whose formulas to follow where they differ.
    pub unit: EvalUnit,
}
