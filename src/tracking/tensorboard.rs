//! TensorBoard's event file: `metrics.jsonl`, once more.
//!
//! A file is a chain of records (`length` U64, masked CRC-32C of it, the bytes, masked CRC-32C of these), each
//! an `Event` in protocol buffers; only the fields that are used stand below. It begins with the configuration
//! as hyperparameters. A run that goes on writes the file anew from the lines that `metrics.jsonl` then has, so
//! it never holds what a resumed run takes back.

use crate::config::value::Value;
use crate::config::{Config, keys};
use crate::error::Error;
use crate::train::metrics_log::Line;
use crate::train::progress::say;
use crate::train::results::Results;
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A time stamp of 0 and a fixed end: the file is found again, and TensorBoard asks only for `tfevents`.
pub const FILE_NAME: &str = "events.out.tfevents.0.b4r";
/// TensorBoard's plugin, and the tags by which it knows the beginning and the end of a run.
const HPARAMS: &str = "hparams";
const STARTED: &str = "_hparams_/session_start_info";
const ENDED: &str = "_hparams_/session_end_info";
/// `STATUS_SUCCESS`.
const SUCCESS: i32 = 1;

/// The event file of a run under way.
#[derive(Debug)]
pub struct EventFile {
    /// `None` once a write has failed.
    file: Option<File>,
    path: PathBuf,
    /// When the run began, in seconds since 1970, as if it had never been stopped.
    began: f64,
    /// Tokens and training seconds at the latest line.
    before: (u64, f64),
}

impl EventFile {
    /// Begins the file with `config` and the `lines` that a resumed run has behind it. Where it cannot be
    /// written, that is said, and the run goes on without.
    pub fn begin(path: &Path, config: &Config, lines: &[Line]) -> Self {
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let began = now - lines.last().map_or(0.0, |line| line.seconds);
        let mut events =
            EventFile { file: None, path: path.to_path_buf(), began, before: (0, 0.0) };
        match OpenOptions::new().create(true).write(true).truncate(true).open(path) {
            Ok(file) => events.file = Some(file),
            Err(source) => events.give_up(&Error::io("write", path)(source)),
        }
        events.write(&[
            Event {
                wall_time: began,
                file_version: Some("brain.Event:2".into()),
                ..Event::default()
            },
            Event::of(began, 0, vec![hyperparameters(config, began)]),
        ]);
        lines.iter().for_each(|line| events.append(line));
        events
    }

    /// Adds an evaluation.
    pub fn append(&mut self, line: &Line) {
        let (tokens, seconds) =
            (line.tokens.saturating_sub(self.before.0), line.train_seconds - self.before.1);
        self.before = (line.tokens, line.train_seconds);
        let mut values = vec![
            Scalar::new("train/loss", line.train_loss),
            Scalar::new("train/learning_rate", line.learning_rate.into()),
            Scalar::new("train/epoch", line.epoch.into()),
        ];
        if seconds > 0.0 {
            values.push(Scalar::new("train/tokens_per_second", tokens as f64 / seconds));
        }
        values.extend(scalars("valid", &line.valid));
        self.write(&[Event::of(self.began + line.seconds, line.step, values)]);
    }

    /// Adds the test metrics and the baselines', and the end.
    pub fn finish(&mut self, results: &Results) {
        let now = self.began + results.train_seconds + results.eval_seconds;
        let mut values = scalars("test", &results.test);
        for baseline in &results.baselines {
            values.extend(scalars(&format!("test_{}", baseline.name), &baseline.test));
        }
        let end = Session {
            end: Some(SessionEnd { status: SUCCESS, end_time: now }),
            ..Session::default()
        };
        let steps = results.steps;
        let end = Event::of(now, steps, vec![Scalar::about_session(ENDED, &end)]);
        self.write(&[Event::of(now, steps, values), end]);
    }

    fn write(&mut self, events: &[Event]) {
        let Some(file) = &mut self.file else { return };
        let bytes: Vec<u8> =
            events.iter().flat_map(|event| record(&event.encode_to_vec())).collect();
        if let Err(source) = file.write_all(&bytes) {
            let error = Error::io("write", &self.path)(source);
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &Error) {
        say(format_args!("{error}; TensorBoard will see nothing further of this run"));
        self.file = None;
    }
}

/// Bytes as a record of the file.
fn record(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| {
        let crc = crc32c::crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

fn scalars(group: &str, metrics: &serde_json::Map<String, serde_json::Value>) -> Vec<Scalar> {
    let numbers = metrics.iter().filter_map(|(key, value)| Some((key, value.as_f64()?)));
    numbers.map(|(key, value)| Scalar::new(&format!("{group}/{key}"), value)).collect()
}

/// What decides the numbers of a run.
fn hyperparameters(config: &Config, began: f64) -> Scalar {
    let values = keys::all().filter(|key| key.section != keys::Section::Run);
    let values =
        values.filter_map(|key| Some((key.name.to_string(), parameter((key.get)(config)?)?)));
    let start = SessionStart { hparams: values.collect(), start_time: began };
    Scalar::about_session(STARTED, &Session { start: Some(start), ..Session::default() })
}

/// `None` where a key is not set.
fn parameter(value: Value) -> Option<Parameter> {
    let mut parameter = Parameter::default();
    match value {
        Value::Null => return None,
        Value::Bool(value) => parameter.truth = Some(value),
        Value::Integer(value) => parameter.number = Some(value as f64),
        Value::Number(value) => parameter.number = Some(value),
        Value::Text(text) => parameter.text = Some(text),
        other => parameter.text = Some(other.to_string()),
    }
    Some(parameter)
}

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

impl Event {
    fn of(wall_time: f64, step: u64, values: Vec<Scalar>) -> Self {
        Event {
            wall_time,
            step: step as i64,
            file_version: None,
            summary: Some(Summary { values }),
        }
    }
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    value: Option<f32>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

impl Scalar {
    fn new(tag: &str, value: f64) -> Self {
        Scalar { tag: tag.to_string(), value: Some(value as f32), metadata: None }
    }

    fn about_session(tag: &str, session: &Session) -> Self {
        let plugin = Plugin { name: HPARAMS.to_string(), content: session.encode_to_vec() };
        Scalar {
            tag: tag.to_string(),
            value: None,
            metadata: Some(Metadata { plugin: Some(plugin) }),
        }
    }
}

/// `tensorflow.SummaryMetadata`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

/// `tensorflow.SummaryMetadata.PluginData`.
#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// `tensorboard.hparams.HParamsPluginData`.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

/// `tensorboard.hparams.SessionStartInfo`.
#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Parameter>,
    #[prost(double, tag = "5")]
    start_time: f64,
}

/// `tensorboard.hparams.SessionEndInfo`.
#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time: f64,
}

/// `google.protobuf.Value`, of which one field is set.
#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(double, optional, tag = "2")]
    number: Option<f64>,
    #[prost(string, optional, tag = "3")]
    text: Option<String>,
    #[prost(bool, optional, tag = "4")]
    truth: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    /// Splits a file into its events, checking every length and checksum.
    fn events(bytes: &[u8]) -> Vec<Event> {
        let (mut events, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(record(data), rest[..16 + length]);
            events.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    /// The checksum of `123456789` in CRC-32C is E3069283.
    #[test]
    fn records_are_framed() {
        let masked = 0xE306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
        let record = record(b"123456789");
        assert_eq!(record[..8], 9u64.to_le_bytes());
        assert_eq!(record[12..21], *b"123456789");
        assert_eq!(record[21..], masked.to_le_bytes());
    }

    #[test]
    fn a_run_that_goes_on_begins_with_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let line = |epoch: u32| Line {
            epoch,
            step: 10 * u64::from(epoch),
            train_loss: 1.0 / f64::from(epoch),
            learning_rate: 0.5,
            valid: Map::from_iter([("ndcg@10".to_string(), json!(0.25))]),
            tokens: 300 * u64::from(epoch),
            seconds: 3.0 * f64::from(epoch),
            train_seconds: 2.0 * f64::from(epoch),
        };
        let read = || events(&std::fs::read(&path).unwrap());
        let mut file = EventFile::begin(&path, &Config::default(), &[]);
        (1..=3).for_each(|epoch| file.append(&line(epoch)));
        let first = read();
        assert_eq!(first.len(), 5);
        let mut file = EventFile::begin(&path, &Config::default(), &[line(1)]);
        assert_eq!(read().len(), 3);
        (2..=3).for_each(|epoch| file.append(&line(epoch)));
        let again = read();
        let content = |events: Vec<Event>| -> Vec<_> {
            events.into_iter().skip(2).map(|event| (event.step, event.summary)).collect()
        };
        let times: Vec<f64> =
            again[2..].windows(2).map(|w| w[1].wall_time - w[0].wall_time).collect();
        assert!(times.iter().all(|time| (time - 3.0).abs() < 1e-3), "{times:?}");
        let values = &again[4].summary.as_ref().unwrap().values;
        let value = |tag: &str| values.iter().find(|value| value.tag == tag).unwrap().value;
        assert_eq!(value("train/tokens_per_second"), Some(150.0));
        assert_eq!(value("valid/ndcg@10"), Some(0.25));
        assert_eq!(content(first), content(again));
    }
}
