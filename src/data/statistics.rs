//! What was read, dropped and kept, for the user to check at a glance.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

use super::table::Table;
use super::{Dataset, Sequences};

/// Interactions left out, by cause, in the order in which the filters ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The user or item id was empty.
    pub without_id: u64,
    /// `rm_dup_inter`: the user had this item already, or again.
    pub duplicates: u64,
    /// `val_interval`: the rating lies outside.
    pub rating: u64,
    /// `rm_consecutive_dup`: the same item as just before.
    pub consecutive: u64,
    /// `user_inter_num_interval` and `item_inter_num_interval`.
    pub core: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.causes().iter().map(|(_, count)| count).sum()
    }

    fn causes(&self) -> [(&'static str, u64); 5] {
        [
            ("without id", self.without_id),
            ("duplicates", self.duplicates),
            ("by rating", self.rating),
            ("consecutive duplicates", self.consecutive),
            ("by k-core", self.core),
        ]
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.causes().into_iter().filter(|(_, count)| *count > 0);
        let parts: Vec<String> =
            some.map(|(cause, count)| format!("{} {cause}", thousands(count))).collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// How long the histories are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Shortest.
    pub minimum: u64,
    /// A quarter is no longer than this.
    pub lower_quartile: u64,
    /// Half is no longer than this.
    pub median: u64,
    /// Three quarters are no longer than this.
    pub upper_quartile: u64,
    /// 95 of 100 are no longer than this.
    pub percentile_95: u64,
    /// Longest.
    pub maximum: u64,
    /// Arithmetic mean.
    pub mean: f64,
}

impl Lengths {
    fn new(sequences: &Sequences) -> Self {
        let mut lengths: Vec<u64> =
            sequences.offsets.windows(2).map(|ends| ends[1] - ends[0]).collect();
        lengths.sort_unstable();
        let Some(last) = lengths.len().checked_sub(1) else { return Lengths::default() };
        // Nearest rank from below: always a length that occurs.
        let quantile = |percent: usize| lengths[last * percent / 100];
        Lengths {
            minimum: lengths[0],
            lower_quartile: quantile(25),
            median: quantile(50),
            upper_quartile: quantile(75),
            percentile_95: quantile(95),
            maximum: lengths[last],
            mean: sequences.items.len() as f64 / lengths.len() as f64,
        }
    }
}

/// Figures of a prepared data set. Printed as a small table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Short name of the data set.
    pub name: String,
    /// The file that was read; empty for data from memory.
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    /// Rows in the file.
    pub rows_read: u64,
    /// Rows left out.
    pub dropped: Dropped,
    /// Users left.
    pub users: u64,
    /// Items left, `V`.
    pub items: u64,
    /// Interactions left.
    pub interactions: u64,
    /// Share of all user-item pairs that occur, repetitions counted.
    pub density: f64,
    /// History lengths.
    pub lengths: Lengths,
    /// Users with fewer than 3 interactions: they train, but leave-one-out does not evaluate them.
    pub short_users: u64,
    /// Whether the file has times.
    pub timed: bool,
    /// What else the user should know: places passed over, columns guessed or absent.
    pub notes: Vec<String>,
}

impl Statistics {
    pub(super) fn new(dataset: &Dataset, table: &Table, dropped: Dropped) -> Self {
        Statistics {
            path: table.path.clone(),
            rows_read: table.rows_read(),
            dropped,
            notes: table.notes.clone(),
            ..Self::of(dataset)
        }
    }

    /// Those of a data set of which nobody knows where it came from.
    pub fn of(dataset: &Dataset) -> Self {
        let users = dataset.users.len() as u64;
        let items = dataset.items.len() as u64;
        let interactions = dataset.sequences.items.len() as u64;
        let pairs = users as f64 * items as f64;
        let short = |ends: &&[u64]| ends[1] - ends[0] < 3;
        Statistics {
            name: dataset.name.clone(),
            path: PathBuf::new(),
            rows_read: interactions,
            dropped: Dropped::default(),
            users,
            items,
            interactions,
            density: if pairs > 0.0 { interactions as f64 / pairs } else { 0.0 },
            lengths: Lengths::new(&dataset.sequences),
            short_users: dataset.sequences.offsets.windows(2).filter(short).count() as u64,
            timed: dataset.times.is_some(),
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = &self.lengths;
        let quantiles = format!(
            "{} / {} / {} / {} / {} / {}, mean {:.1}",
            thousands(lengths.minimum),
            thousands(lengths.lower_quartile),
            thousands(lengths.median),
            thousands(lengths.upper_quartile),
            thousands(lengths.percentile_95),
            thousands(lengths.maximum),
            lengths.mean
        );
        writeln!(f, "{} ({})", self.name, self.path.display())?;
        let mut row = |label: &str, value: &str| writeln!(f, "  {label:<14}{value}");
        row("rows read", &thousands(self.rows_read))?;
        if self.dropped.total() > 0 {
            row("dropped", &self.dropped.to_string())?;
        }
        row("users", &thousands(self.users))?;
        row("items", &thousands(self.items))?;
        row("interactions", &thousands(self.interactions))?;
        row("density", &format!("{:.4} %", 100.0 * self.density))?;
        row("lengths", &format!("{quantiles} (min / 25 % / 50 % / 75 % / 95 % / max)"))?;
        row("order", if self.timed { "by time" } else { "as in the file" })?;
        if self.short_users > 0 {
            let count = thousands(self.short_users);
            row(
                "short",
                &format!(
                    "{count} users have fewer than 3 interactions: leave-one-out does not evaluate them"
                ),
            )?;
        }
        for note in &self.notes {
            row("note", note)?;
        }
        Ok(())
    }
}

/// A path that is no UTF-8 is still worth a line in the results.
fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Digits in groups of three.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
