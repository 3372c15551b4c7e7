//! `results.json`, the table of test metrics, and the last line of stdout.

use super::files;
use super::judge::Tested;
use super::progress::say;
use super::training_loop::metric_map;
use crate::baseline::Evaluation;
use crate::config::{Metric, Objective};
use crate::data::Statistics;
use crate::{Error, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::io::Write;
use std::path::Path;

/// [`Protocol::split`] where everything trained and nothing was evaluated.
pub const ALL_DATA: &str = "all_data";

/// What a finished run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of the program.
    pub version: String,
    /// What was trained: `BERT4Rec`, or `SASRec-style (causal)`.
    #[serde(default = "bert4rec")]
    pub model: String,
    /// Name of the data set.
    pub dataset: String,
    /// SHA-256 of the interaction file.
    pub data_sha256: String,
    /// What computed: `cpu`, or `cuda` with the number of the GPU where that is not 0.
    pub device: String,
    /// Name of the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Number format of the computation: `f32` or `bf16`.
    pub precision: String,
    /// Threads used.
    pub threads: usize,
    /// Seed.
    pub seed: u64,
    /// Number of weights.
    pub parameters: usize,
    /// Peak of the learning rate that led to the weights kept: `learning_rate`, or `lr_fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Epoch whose weights are kept, from 1; the last where nothing was held out.
    pub best_epoch: u32,
    /// Epochs trained, the last perhaps in part.
    pub epochs: u32,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Why training ended.
    pub ended_by: String,
    /// Validation metrics of the best epoch.
    pub valid: Map<String, Value>,
    /// Test metrics under the protocol below.
    pub test: Map<String, Value>,
    /// Test metrics with the items of the history left in the ranking, where `test` leaves them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_seen_kept: Option<Map<String, Value>>,
    /// Test metrics with the items of the history left out, where `test` ranks them too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_seen_filtered: Option<Map<String, Value>>,
    /// What recommenders that only count come to on the same rows.
    #[serde(default)]
    pub baselines: Vec<BaselineResults>,
    /// Test rows whose target is in the history already: misses where seen items are left out.
    pub seen_targets: usize,
    /// How it was evaluated.
    pub protocol: Protocol,
    /// Time in training steps.
    pub train_seconds: f64,
    /// Time in evaluations, the test included.
    pub eval_seconds: f64,
    /// Tokens trained on a second of training time.
    pub tokens_per_second: f64,
    /// Largest resident memory of the process that finished the run.
    pub peak_rss_bytes: u64,
    /// Figures of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Statistics>,
}

/// What a baseline came to, under the protocol of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineResults {
    /// `popularity` or `markov`.
    pub name: String,
    /// Validation metrics.
    pub valid: Map<String, Value>,
    /// As [`Results::test`].
    pub test: Map<String, Value>,
    /// As [`Results::test_seen_kept`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_seen_kept: Option<Map<String, Value>>,
    /// As [`Results::test_seen_filtered`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_seen_filtered: Option<Map<String, Value>>,
}

impl BaselineResults {
    /// Arranged as the model's own.
    pub fn new(evaluation: &Evaluation, filter_seen: bool) -> Self {
        let Evaluation { name, valid, tested } = evaluation;
        let [test_seen_kept, test_seen_filtered] = others(tested, filter_seen);
        BaselineResults {
            name: name.to_string(),
            valid: metric_map(valid),
            test: metric_map(&tested.test),
            test_seen_kept,
            test_seen_filtered,
        }
    }
}

/// The test with the other choice about seen items, if there is one, as the fields `test_seen_kept` and
/// `test_seen_filtered`.
pub fn others(tested: &Tested, filter_seen: bool) -> [Option<Map<String, Value>>; 2] {
    let other = tested.other.as_ref().map(metric_map);
    if filter_seen { [other, None] } else { [None, other] }
}

/// How a model was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// The published protocol that the configuration named.
    pub name: Option<String>,
    /// Keys in which the run departs from that protocol.
    pub changed: Vec<String>,
    /// How interactions were divided.
    pub split: String,
    /// Shares of training, validation and test, where the split goes by shares.
    pub shares: Option<[f64; 3]>,
    /// What each validation target was ranked among.
    pub valid_mode: String,
    /// What each test target was ranked among.
    pub mode: String,
    /// What one ranked list is: `row`, or `recbole`.
    pub unit: String,
    /// `eval_negatives`, where there are any and not by RecBole's rules.
    pub negatives: Option<String>,
    /// Seed of the negatives, where there are any.
    pub negatives_seed: Option<u64>,
    /// Whether items of the history were left out of the ranking.
    pub filter_seen: bool,
    /// Interactions that trained.
    pub train_interactions: u64,
    /// Those of them that have another before them: RecBole's training rows.
    pub train_rows: u64,
    /// Users with training rows.
    pub train_users: u64,
    /// Validation rows.
    pub valid_rows: u64,
    /// Users with validation rows.
    pub valid_users: u64,
    /// Test rows.
    pub test_rows: u64,
    /// Users with test rows.
    pub test_users: u64,
}

impl Results {
    /// Reads what [`Self::write`] wrote; `None` where there is nothing of the kind.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Replaces `results.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::io("lay out", path)(std::io::Error::other(error)))?;
        files::replace(path, |out| writeln!(out, "{text}"))
    }

    /// Test metrics of the baseline `name`; `None` where the run has none of that name.
    pub fn baseline(&self, name: &str) -> Option<&Map<String, Value>> {
        let found = self.baselines.iter().find(|baseline| baseline.name == name);
        found.map(|baseline| &baseline.test)
    }

    /// The table for people on stderr and, last on stdout, the test metrics as one JSON object.
    ///
    /// # Errors
    /// [`Error::Io`] when stdout refuses.
    pub fn print(&self) -> Result<()> {
        let protocol = &self.protocol;
        if protocol.test_rows == 0 {
            say("nothing was held out for a test, so there are no test metrics");
        } else {
            say(protocol);
            say(self.table());
        }
        let kept = if protocol.valid_rows == 0 { "last" } else { "best" };
        say(format_args!(
            "{kept} epoch {} of {} (ended by {}), {:.1} s training, {:.1} s evaluation, {:.0} tokens/s, \
             {} MiB peak memory",
            self.best_epoch,
            self.epochs,
            self.ended_by,
            self.train_seconds,
            self.eval_seconds,
            self.tokens_per_second,
            self.peak_rss_bytes >> 20
        ));
        let line = Value::Object(self.test.clone());
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .map_err(Error::io("write", Path::new("stdout")))
    }

    /// Test metrics of the model and the baselines, once for each treatment of seen items: the protocol's own
    /// first.
    pub fn blocks(&self) -> Vec<Block<'_>> {
        let filter = self.protocol.filter_seen;
        let others = [&self.test_seen_kept, &self.test_seen_filtered].into_iter();
        let baselines = self.baselines.iter();
        let own = baselines.clone().map(|baseline| (baseline.name.as_str(), &baseline.test));
        let other = baselines.filter_map(|baseline| {
            let metrics = baseline.test_seen_kept.as_ref().or(baseline.test_seen_filtered.as_ref());
            Some((baseline.name.as_str(), metrics?))
        });
        let mut blocks = vec![Block {
            seen_left_out: filter,
            rows: [(&self.model[..], &self.test)].into_iter().chain(own).collect(),
        }];
        blocks.extend(others.flatten().map(|metrics| Block {
            seen_left_out: !filter,
            rows: [(&self.model[..], metrics)].into_iter().chain(other.clone()).collect(),
        }));
        blocks
    }

    /// Names of the metrics and their cut-offs, in order.
    pub fn columns(&self) -> (Vec<&str>, Vec<&str>) {
        let cutoffs = self.test.keys().filter_map(|key| Some(key.split_once('@')?.1));
        let mut cutoffs = distinct(cutoffs);
        if cutoffs.is_empty() {
            // No metric has one.
            cutoffs.push("");
        }
        let name = |key: &'_ String| key.split_once('@').map_or(key.len(), |(name, _)| name.len());
        (distinct(self.test.keys().map(|key| &key[..name(key)])), cutoffs)
    }

    /// Test metrics with and without seen items: a row for each cut-off and model, a column for each metric.
    fn table(&self) -> Table {
        let (names, cutoffs) = self.columns();
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let header = ["seen items", "K", "model"].into_iter().chain(names.iter().copied());
        table.set_header(header.collect::<Vec<_>>());
        for block in self.blocks() {
            for cutoff in &cutoffs {
                for (model, metrics) in &block.rows {
                    let value = |name: &&str| shown(metrics, &key_at(metrics, name, cutoff));
                    let seen = if block.seen_left_out { "left out" } else { "ranked" };
                    let mut row = vec![seen.to_string(), cutoff.to_string(), model.to_string()];
                    row.extend(names.iter().map(value));
                    table.add_row(row);
                }
            }
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            if index != 0 && index != 2 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// One line: what the numbers below it are.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protocol { split, mode, unit, test_rows, test_users, .. } = self;
        write!(f, "test: {split}, {mode}, ")?;
        match (unit.as_str(), self.negatives_seed) {
            ("row", None) => write!(f, "{test_rows} rows of {test_users} users"),
            ("row", Some(seed)) => {
                let from = self.negatives.as_deref().unwrap_or_default();
                write!(f, "{test_rows} rows of {test_users} users, {from} negatives of seed {seed}")
            }
            (_, seed) => {
                write!(f, "lists as in RecBole, {test_rows} rows of {test_users} users")?;
                seed.map_or(Ok(()), |seed| write!(f, ", negatives of seed {seed}"))
            }
        }
    }
}

/// What a model is called beside the baselines. A causal one is trained and read as SASRec is, but has BERT4Rec's
/// head.
pub fn model_name(objective: Objective) -> &'static str {
    match objective {
        Objective::Cloze => "BERT4Rec",
        Objective::Causal => "SASRec-style (causal)",
    }
}

/// Of results that do not say: they were written before there was another.
fn bert4rec() -> String {
    model_name(Objective::Cloze).to_string()
}

/// Test metrics under one treatment of seen items.
pub struct Block<'a> {
    /// Whether the items of the history were left out of the ranking.
    pub seen_left_out: bool,
    /// Name and metrics: the model, then the baselines.
    pub rows: Vec<(&'a str, &'a Map<String, Value>)>,
}

/// Key of a metric at a cut-off; a metric without cut-off is the same at each.
pub fn key_at(metrics: &Map<String, Value>, name: &str, cutoff: &str) -> String {
    if metrics.contains_key(name) { name.to_string() } else { format!("{name}@{cutoff}") }
}

/// Whether the smallest value of this key is the best.
pub fn smaller_is_better(key: &str) -> bool {
    let name = key.split_once('@').map_or(key, |(name, _)| name);
    Metric::ALL.iter().any(|metric| metric.name() == name && metric.smaller_is_better())
}

/// A metric as tables have it.
pub fn shown(metrics: &Map<String, Value>, key: &str) -> String {
    let value = metrics.get(key).and_then(Value::as_f64);
    value.map_or("-".to_string(), |value| format!("{value:.4}"))
}

/// `values` without repetitions, in order of first appearance.
pub fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let map = |scale: f64| {
            let keys = ["ndcg@5", "ndcg@10", "hit@5", "hit@10"];
            let values = keys.iter().enumerate();
            values.map(|(i, key)| (key.to_string(), Value::from(scale / (i + 3) as f64))).collect()
        };
        Results {
            version: "1".into(),
            model: "BERT4Rec".into(),
            dataset: "d".into(),
            data_sha256: "ab".into(),
            device: "cuda:1".into(),
            gpu: Some("NVIDIA L4".into()),
            precision: "f32".into(),
            threads: 2,
            seed: u64::MAX,
            parameters: 9,
            learning_rate: Some(1e-3),
            best_epoch: 3,
            epochs: 5,
            steps: 50,
            ended_by: "epochs".into(),
            valid: map(0.1),
            test: map(0.3),
            test_seen_kept: Some(map(0.7)),
            test_seen_filtered: None,
            baselines: vec![BaselineResults {
                name: "popularity".into(),
                valid: map(0.01),
                test: map(0.06),
                test_seen_kept: Some(map(0.03)),
                test_seen_filtered: None,
            }],
            seen_targets: 0,
            protocol: Protocol {
                name: Some("petrov2022".into()),
                changed: vec!["filter_seen".into()],
                split: "ratio_global".into(),
                shares: Some([0.5, 0.25, 0.25]),
                valid_mode: "full".into(),
                mode: "uni50".into(),
                unit: "row".into(),
                negatives: Some("any".into()),
                negatives_seed: Some(3),
                filter_seen: true,
                train_interactions: 99,
                train_rows: 92,
                train_users: 7,
                valid_rows: 7,
                valid_users: 7,
                test_rows: 7,
                test_users: 7,
            },
            train_seconds: 1.5,
            eval_seconds: 0.1,
            tokens_per_second: 1e5,
            peak_rss_bytes: 1 << 21,
            data: Some(Statistics { path: "a.csv".into(), users: 3, ..Statistics::default() }),
        }
    }

    #[test]
    fn comes_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        assert_eq!(Results::read(&path), None);
        results().write(&path).unwrap();
        assert_eq!(Results::read(&path), Some(results()));
        // Written before there was another model.
        let mut older = serde_json::to_value(results()).unwrap();
        older.as_object_mut().unwrap().remove("model");
        std::fs::write(&path, older.to_string()).unwrap();
        assert_eq!(Results::read(&path), Some(results()));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Results::read(&path), None);
    }

    #[test]
    fn the_table_shows_both_rankings() {
        let text = results().table().to_string();
        let row = |start: &str, model: &str| {
            let here = |line: &&str| line.contains(start) && line.contains(model);
            let line = text.lines().find(here).unwrap_or_default();
            let fields = line.split(['│', '┆']).map(str::trim).filter(|field| !field.is_empty());
            fields.map(str::to_string).collect::<Vec<_>>()
        };
        assert_eq!(row("seen items", ""), ["seen items", "K", "model", "ndcg", "hit"]);
        assert_eq!(row("left out", "BERT4Rec"), ["left out", "5", "BERT4Rec", "0.1000", "0.0600"]);
        assert_eq!(row("left out", "pop"), ["left out", "5", "popularity", "0.0200", "0.0120"]);
        assert_eq!(row("ranked", "BERT4Rec"), ["ranked", "5", "BERT4Rec", "0.2333", "0.1400"]);
        assert_eq!(row("ranked", "pop"), ["ranked", "5", "popularity", "0.0100", "0.0060"]);
        assert_eq!(text.matches("left out").count(), 4, "two cut-offs for each");
    }
}
