//! How a model is judged: split, mode, unit and metrics.

use super::protocol::Protocol;

/// How a model is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// `protocol`: the published protocol that the other values began from.
    pub protocol: Option<Protocol>,
    /// `eval_args.split`.
    pub split: SplitRule,
    /// `eval_args.group_by`: what a ratio split divides.
    pub grouping: Grouping,
    /// `eval_args.mode` of validation.
    pub valid_mode: Mode,
    /// `eval_args.mode` of the test.
    pub test_mode: Mode,
    /// `eval_unit`: what one ranked list is.
    pub unit: EvalUnit,
    /// `eval_negatives`: which items `uniN` and `popN` draw from.
    pub negatives: Negatives,
    /// `valid_users`: validate on so many users, drawn at random; the validation items of all others train.
    pub valid_users: Option<usize>,
    /// `eval_seed`: seed of negatives and of the draw of `valid_users`; `None` takes `seed`.
    pub seed: Option<u64>,
    /// `filter_seen`: whether items of the history are left out of the ranking.
    pub filter_seen: bool,
    /// `metrics`.
    pub metrics: Vec<Metric>,
    /// `topk`: cut-offs, ascending.
    pub topk: Vec<usize>,
    /// `valid_metric`: decides which epoch is best; its cut-off is 0 where the metric has none.
    pub valid_metric: (Metric, usize),
    /// `tail_ratio`: which items [`Metric::TailPercentage`] counts.
    pub tail_ratio: f64,
    /// `eval_batch_size`: sequences scored at once.
    pub batch_size: usize,
}

/// How interactions are divided into training, validation and test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SplitRule {
    /// `LS`: the last items of each user.
    LeaveOneOut(HeldOut),
    /// `RS`: by shares of the rows, of each user or of all together in time order.
    Ratio(Shares),
    /// `TS`: the latest share of all rows is the test; of what a user has before, the last is validation.
    Time(Shares),
}

impl SplitRule {
    /// Whether it should leave validation rows, and test rows.
    pub fn parts(self) -> (bool, bool) {
        match self {
            SplitRule::LeaveOneOut(held_out) => {
                (held_out != HeldOut::TestOnly, held_out != HeldOut::ValidOnly)
            }
            SplitRule::Ratio(Shares([_, valid, test]))
            | SplitRule::Time(Shares([_, valid, test])) => (valid > 0.0, test > 0.0),
        }
    }
}

/// What leave-one-out holds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOut {
    /// `valid_and_test`: the last item tests, the one before it validates.
    ValidAndTest,
    /// `valid_only`: the last item validates.
    ValidOnly,
    /// `test_only`: the last item tests.
    TestOnly,
}

/// Shares of training, validation and test, in any scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares(pub [f64; 3]);

impl Shares {
    /// The same with a sum of 1.
    pub fn normalised(self) -> [f64; 3] {
        let total: f64 = self.0.iter().sum();
        self.0.map(|share| share / total)
    }
}

/// What a ratio split divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// The rows of each user.
    User,
    /// All rows in time order.
    None,
}

/// What each target is ranked among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `full`: all items.
    Full,
    /// `uniN`: so many items drawn uniformly.
    Uniform(usize),
    /// `popN`: so many items drawn by how often they occur.
    Popular(usize),
}

impl Mode {
    /// As written in a configuration: `full`, `uni50`, `pop100`.
    pub fn name(self) -> String {
        match self {
            Mode::Full => "full".to_string(),
            Mode::Uniform(n) => format!("uni{n}"),
            Mode::Popular(n) => format!("pop{n}"),
        }
    }

    /// Negatives a row.
    pub fn negatives(self) -> Option<usize> {
        match self {
            Mode::Full => None,
            Mode::Uniform(n) | Mode::Popular(n) => Some(n),
        }
    }
}

/// What one ranked list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalUnit {
    /// Every row by itself, negatives distinct.
    Row,
    /// As RecBole does it: under sampling all rows of a user in one list, negatives drawn with replacement
    /// from all items but the row's own target.
    RecBole,
}

/// Which items the negatives of a row are drawn from. [`EvalUnit::RecBole`] has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negatives {
    /// Those outside the user's whole history; popular is what occurs often in training.
    Unseen,
    /// All but the row's target; popular is what occurs often in the whole file. Those that the user has seen
    /// count only where seen items are ranked.
    Any,
}

impl Negatives {
    /// Names in a configuration.
    pub const NAMES: [(&str, Negatives); 2] =
        [("unseen", Negatives::Unseen), ("any", Negatives::Any)];

    /// Name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Negatives::Unseen => "unseen",
            Negatives::Any => "any",
        }
    }
}

/// Ranking metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of a list's targets that were found.
    Recall,
    /// Whether any target was found.
    Hit,
    /// Normalised discounted cumulative gain.
    Ndcg,
    /// Reciprocal rank of the first target found.
    Mrr,
    /// Mean average precision.
    Map,
    /// Share of the list that are targets.
    Precision,
    /// Area under the ROC curve, averaged over lists by their number of targets.
    Gauc,
    /// Share of the catalogue that is recommended to anybody.
    ItemCoverage,
    /// Training interactions of recommended items.
    AveragePopularity,
    /// Entropy of what is recommended.
    ShannonEntropy,
    /// Inequality of how often items are recommended.
    GiniIndex,
    /// Share of recommendations that are rare items.
    TailPercentage,
}

impl Metric {
    /// All, in the order of the result table.
    pub const ALL: [Metric; 12] = [
        Metric::Recall,
        Metric::Hit,
        Metric::Ndcg,
        Metric::Mrr,
        Metric::Map,
        Metric::Precision,
        Metric::Gauc,
        Metric::ItemCoverage,
        Metric::AveragePopularity,
        Metric::ShannonEntropy,
        Metric::GiniIndex,
        Metric::TailPercentage,
    ];

    /// Those that are computed unless others are asked for.
    pub const DEFAULT: [Metric; 6] =
        [Metric::Recall, Metric::Hit, Metric::Ndcg, Metric::Mrr, Metric::Map, Metric::Precision];

    /// Lower-case name, as in result keys.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Recall => "recall",
            Metric::Hit => "hit",
            Metric::Ndcg => "ndcg",
            Metric::Mrr => "mrr",
            Metric::Map => "map",
            Metric::Precision => "precision",
            Metric::Gauc => "gauc",
            Metric::ItemCoverage => "itemcoverage",
            Metric::AveragePopularity => "averagepopularity",
            Metric::ShannonEntropy => "shannonentropy",
            Metric::GiniIndex => "giniindex",
            Metric::TailPercentage => "tailpercentage",
        }
    }

    /// Key of the value at cut-off `k`, such as `ndcg@10`; a metric of whole lists has only its name.
    pub fn key(self, k: usize) -> String {
        if self.has_cutoff() { format!("{}@{k}", self.name()) } else { self.name().to_string() }
    }

    /// Whether it looks at the first items of a list alone.
    pub fn has_cutoff(self) -> bool {
        self != Metric::Gauc
    }

    /// Whether it is about which items are recommended rather than where the targets are.
    pub fn needs_items(self) -> bool {
        match self {
            Metric::Recall | Metric::Hit | Metric::Ndcg | Metric::Mrr | Metric::Map => false,
            Metric::Precision | Metric::Gauc => false,
            Metric::ItemCoverage | Metric::AveragePopularity | Metric::ShannonEntropy => true,
            Metric::GiniIndex | Metric::TailPercentage => true,
        }
    }

    /// Whether smaller values are better.
    pub fn smaller_is_better(self) -> bool {
        matches!(self, Metric::AveragePopularity | Metric::GiniIndex)
    }
}

impl EvalConfig {
    /// Length of the lists of items that `metrics` look at; `None` where none does.
    pub fn list_length(&self) -> Option<usize> {
        let needed = self.metrics.iter().any(|metric| metric.needs_items());
        needed.then(|| self.topk.last().copied().unwrap_or(0))
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig {
            protocol: None,
            split: SplitRule::LeaveOneOut(HeldOut::ValidAndTest),
            grouping: Grouping::User,
            valid_mode: Mode::Full,
            test_mode: Mode::Full,
            unit: EvalUnit::Row,
            negatives: Negatives::Unseen,
            valid_users: None,
            seed: None,
            filter_seen: true,
            metrics: Metric::DEFAULT.to_vec(),
            topk: vec![5, 10, 20],
            valid_metric: (Metric::Ndcg, 10),
            tail_ratio: 0.1,
            batch_size: 1024,
        }
    }
}
