//! From files and flags to one [`Config`]: later sources win, and every key is accounted for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::foreign::{self, Otherwise};
use super::keys::{self, Key, Scope, Section};
use super::parse::Problem;
use super::value::{Value, shorten};
use super::{Config, EvalConfig, Protocol, cli, legacy, parse as parsers, settle, validate, yaml};
use crate::train::{recbole_file, rundir};
use crate::{Error, Result};

/// Name of the configuration in a run directory.
pub const CONFIG_FILE: &str = "config.yaml";

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
    },
    /// On the command line.
    Flag,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => write!(f, "{}:{line}", path.display()),
            Place::Flag => f.write_str("command line"),
        }
    }
}

/// One `key: value` as written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Value.
    pub value: Value,
    /// Where.
    pub place: Place,
}

/// A configuration and how it came about.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The configuration; it has passed [`validate::validate`].
    pub config: Config,
    /// A line for each key that was ignored or adjusted, for stderr.
    pub notes: Vec<String>,
    /// Foreign keys whose value describes what happens anyway.
    pub satisfied: Vec<String>,
    /// Where each key that is not at its default was last written, by canonical name.
    pub origins: BTreeMap<&'static str, Place>,
    /// Whether only an explanation is wanted, no run.
    pub explain: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// A run, or its explanation.
    Run(Box<Resolved>),
    /// Help or version text; its `print` writes it to stdout.
    Text(Box<clap::Error>),
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// [`Error::Config`] and [`Error::Input`], naming key and place.
pub fn invocation(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    match cli::parse(arguments)? {
        cli::Parsed::Text(text) => Ok(Invocation::Text(text)),
        cli::Parsed::Arguments(arguments) => {
            Ok(Invocation::Run(Box::new(resolve_arguments(&arguments)?)))
        }
    }
}

/// Reads a command line that asks for a run; see [`invocation`].
///
/// # Errors
/// As [`invocation`]; also when help or the version is asked for.
pub fn resolve(arguments: impl IntoIterator<Item = OsString>) -> Result<Resolved> {
    match invocation(arguments)? {
        Invocation::Run(resolved) => Ok(*resolved),
        Invocation::Text(_) => Err(Error::config(
            "--help",
            "help and version are no configuration",
            "leave the flag out",
        )),
    }
}

/// Reads a configuration file alone, such as a run directory's.
///
/// # Errors
/// [`Error::Config`] and [`Error::Input`], naming key and place.
pub fn read(path: &Path) -> Result<Config> {
    complete(&yaml::read(path)?)
}

/// Reads a configuration that stands in the file at `path`, such as a checkpoint's.
///
/// # Errors
/// [`Error::Config`] and [`Error::Input`], naming key and place.
pub fn parse(text: &str, path: &Path) -> Result<Config> {
    complete(&yaml::parse(text, path)?)
}

fn complete(entries: &[Entry]) -> Result<Config> {
    Ok(resolve_sources(&[entries.to_vec()])?.config)
}

fn resolve_arguments(arguments: &cli::Arguments) -> Result<Resolved> {
    let mut sources = Vec::new();
    for file in &arguments.files {
        sources.push(yaml::read(file)?);
    }
    sources.push(arguments.flags.clone());
    let mut resolved = resolve_sources(&sources)?;
    let mut stored_found = false;
    if resolved.config.run.resume {
        // The stored configuration comes first, so that a resumed run need not be told again what it is.
        let run_dir = rundir::locate(&resolved.config);
        let stored = run_dir.join(CONFIG_FILE);
        if stored.is_file() {
            let mut entries = yaml::read(&stored)?;
            entries.retain(|entry| {
                keys::find(&entry.key).is_none_or(|key| key.scope != Scope::Invocation)
            });
            sources.insert(0, entries);
            resolved = resolve_sources(&sources)?;
            resolved.config.run.run_dir = Some(run_dir);
            stored_found = true;
        }
    }
    if !stored_found && let Some(place) = &resolved.config.train.init_from {
        sources.insert(0, network_of(place)?);
        resolved = resolve_sources(&sources)?;
    }
    require_epochs(&resolved)?;
    resolved.explain = arguments.explain;
    Ok(resolved)
}

/// What another run's configuration, or a file from RecBole, says about the network: weights fit no other.
fn network_of(place: &Path) -> Result<Vec<Entry>> {
    let file = place.join(CONFIG_FILE);
    if place.is_file() {
        return recbole_file::network(place);
    }
    if !file.is_file() {
        // `init_from` fails later, with all that is missing there.
        return Ok(Vec::new());
    }
    let mut entries = yaml::read(&file)?;
    entries.retain(|entry| keys::find(&entry.key).is_some_and(|key| key.section == Section::Model));
    Ok(entries)
}

/// Nothing stops a run early that never validates, and the default number of epochs counts on being stopped.
fn require_epochs(resolved: &Resolved) -> Result<()> {
    let Config { data, eval, .. } = &resolved.config;
    let (validates, _) = eval.split.parts();
    if (!data.all_data && validates) || resolved.origins.contains_key("epochs") {
        return Ok(());
    }
    let what = if data.all_data { "all_data, which has" } else { "a split that has" };
    Err(Error::config(
        "epochs",
        format!("has to be given with {what} no validation to end training"),
        "give the best_epoch of a run that did validate (its results.json has it); after init_from, a few",
    ))
}

fn resolve_sources(sources: &[Vec<Entry>]) -> Result<Resolved> {
    let mut draft = Draft { base: protocol_of(sources)?, ..Draft::default() };
    draft.resolved.config.eval = draft.base.clone();
    for source in sources {
        let legacy::Rewritten { entries, notes } = legacy::rewrite(source.clone())?;
        draft.resolved.notes.extend(notes);
        draft.apply_source(&entries)?;
    }
    draft.finish()
}

/// What evaluation begins from: the protocol that is named last, wherever the other keys stand.
fn protocol_of(sources: &[Vec<Entry>]) -> Result<EvalConfig> {
    let Some(entry) = sources.iter().flatten().rfind(|entry| entry.key == "protocol") else {
        return Ok(EvalConfig::default());
    };
    let named = |value: &Value| parsers::choice(value, &Protocol::NAMES);
    let protocol =
        parsers::optional(&entry.value, named).map_err(|problem| problem_at(entry, problem))?;
    Ok(protocol.map_or_else(EvalConfig::default, Protocol::config))
}

/// A configuration in the making.
#[derive(Default)]
struct Draft {
    resolved: Resolved,
    /// Evaluation before any other key: the defaults, or a protocol.
    base: EvalConfig,
    /// Last value of each key as written, for checks across keys.
    written: BTreeMap<&'static str, Value>,
}

impl Draft {
    /// Applies the entries of one file, or all flags.
    fn apply_source(&mut self, entries: &[Entry]) -> Result<()> {
        let mut seen: BTreeMap<&'static str, Value> = BTreeMap::new();
        for entry in entries {
            self.apply(entry, &mut seen)?;
        }
        check_pairs(&seen, entries)
    }

    fn apply(&mut self, entry: &Entry, seen: &mut BTreeMap<&'static str, Value>) -> Result<()> {
        if entry.key == "eval_args" {
            return self.apply_eval_args(entry, seen);
        }
        if let Some(key) = keys::find(&entry.key) {
            return self.apply_key(key, entry, seen);
        }
        if let Some(foreign) = foreign::find(&entry.key) {
            return self.apply_foreign(foreign, entry);
        }
        match nested(entry) {
            Some(nested) => self.apply(&nested, seen),
            None => Err(unknown(entry)),
        }
    }

    fn apply_eval_args(
        &mut self,
        entry: &Entry,
        seen: &mut BTreeMap<&'static str, Value>,
    ) -> Result<()> {
        match &entry.value {
            Value::Map(fields) => {
                self.replace_eval_args(entry);
                fields.iter().try_for_each(|(field, value)| {
                    let (key, place) = (format!("eval_args.{field}"), entry.place.clone());
                    self.apply(&Entry { key, value: value.clone(), place }, seen)
                })
            }
            value if value.is_null() => Ok(()),
            value => Err(problem_at(
                entry,
                Problem::new(
                    format!("`{}` is not a mapping", value.brief()),
                    "write eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}",
                ),
            )),
        }
    }

    /// A mapping replaces what an earlier source says about `eval_args`, as in RecBole; what it leaves out
    /// becomes our default, or the protocol's.
    fn replace_eval_args(&mut self, entry: &Entry) {
        let earlier = |place: &Place| match (place, &entry.place) {
            (Place::File { path, .. }, Place::File { path: this, .. }) => path != this,
            (Place::File { .. }, Place::Flag) => true,
            (Place::Flag, _) => false,
        };
        let of_eval_args = |name: &str| name.starts_with("eval_args.");
        let origins = &mut self.resolved.origins;
        if origins.iter().any(|(name, place)| of_eval_args(name) && earlier(place)) {
            let note =
                format!("eval_args ({}): replaces the whole of an earlier eval_args", entry.place);
            self.resolved.notes.push(note);
            origins.retain(|name, _| !of_eval_args(name));
            let eval = &mut self.resolved.config.eval;
            (eval.split, eval.grouping) = (self.base.split, self.base.grouping);
            (eval.valid_mode, eval.test_mode) = (self.base.valid_mode, self.base.test_mode);
        }
    }

    fn apply_key(
        &mut self,
        key: &'static Key,
        entry: &Entry,
        seen: &mut BTreeMap<&'static str, Value>,
    ) -> Result<()> {
        (key.set)(&mut self.resolved.config, &entry.value)
            .map_err(|problem| problem_at(entry, problem))?;
        self.resolved.origins.insert(key.name, entry.place.clone());
        self.written.insert(key.name, entry.value.clone());
        let again = seen.insert(key.name, entry.value.clone()).is_some();
        if again && entry.place != Place::Flag {
            return Err(problem_at(
                entry,
                Problem::new(
                    format!("{} is given twice in one file", key.name),
                    "keep one of the two lines",
                ),
            ));
        }
        Ok(())
    }

    fn apply_foreign(&mut self, foreign: &foreign::Foreign, entry: &Entry) -> Result<()> {
        if foreign.is_satisfied(&entry.value) {
            let name = foreign.name.to_string();
            if !self.resolved.satisfied.contains(&name) {
                self.resolved.satisfied.push(name);
            }
            return Ok(());
        }
        match foreign.otherwise {
            Otherwise::Ignore(reason) => {
                self.resolved
                    .notes
                    .push(format!("{} ({}): ignored: {reason}", foreign.name, entry.place));
                Ok(())
            }
            Otherwise::Reject { problem, remedy } => Err(problem_at(
                entry,
                Problem::new(format!("`{}`: {problem}", entry.value.brief()), remedy),
            )),
        }
    }

    /// Checks across keys, then the ranges of all values.
    fn finish(mut self) -> Result<Resolved> {
        settle::settle(&mut self.resolved, &self.written)?;
        let origins = &self.resolved.origins;
        validate::validate(&self.resolved.config).map_err(|error| match error {
            Error::Config { key, problem, remedy } => {
                let place = keys::find(&key).and_then(|key| origins.get(key.name));
                let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
                Error::config(key, format!("{problem}{place}"), remedy)
            }
            other => other,
        })?;
        Ok(self.resolved)
    }
}

/// `clip_grad_norm.max_norm: 5` as `clip_grad_norm: {max_norm: 5}`, where the part before a dot is a key.
fn nested(entry: &Entry) -> Option<Entry> {
    /// Deep enough for `eval_args.split.LS`.
    const MAX_PARTS: usize = 4;
    if entry.key.split('.').count() > MAX_PARTS {
        return None;
    }
    let mut dots = entry.key.match_indices('.').rev().map(|(at, _)| at);
    let at = dots.find(|&at| keys::find(&entry.key[..at]).is_some())?;
    let value = entry.key[at + 1..]
        .rsplit('.')
        .fold(entry.value.clone(), |value, field| Value::Map(vec![(field.to_string(), value)]));
    Some(Entry { key: entry.key[..at].to_string(), value, place: entry.place.clone() })
}

/// Keys that exclude each other within one source; between sources the later one wins.
fn check_pairs(seen: &BTreeMap<&'static str, Value>, entries: &[Entry]) -> Result<()> {
    let place = entries.first().map(|entry| match &entry.place {
        Place::File { path, .. } => path.display().to_string(),
        flag => flag.to_string(),
    });
    let place = place.unwrap_or_default();
    if seen.contains_key("train_batch_size") && seen.contains_key("train_batch_sequences") {
        return Err(Error::config(
            "train_batch_sequences",
            format!("given together with train_batch_size ({place})"),
            "keep one of them: interactions a batch, or sequences a batch",
        ));
    }
    let truth = |key| seen.get(key).and_then(|value| super::parse::boolean(value).ok());
    if let (Some(filter), Some(repeatable)) = (truth("filter_seen"), truth("repeatable"))
        && filter == repeatable
    {
        return Err(Error::config(
            "repeatable",
            format!("{repeatable} contradicts filter_seen: {filter} ({place})"),
            "keep filter_seen alone; repeatable: true means filter_seen: false",
        ));
    }
    Ok(())
}

pub(super) fn problem_at(entry: &Entry, problem: Problem) -> Error {
    let mut name = shorten(&entry.key);
    if let Some(key) = keys::find(&entry.key)
        && let ([alias, ..], Place::Flag) = (key.aliases, &entry.place)
    {
        // The command line knows the key alone, not which of its names was written.
        name = format!("{} ({alias})", key.name);
    }
    Error::config(name, format!("{} ({})", problem.problem, entry.place), problem.remedy)
}

fn unknown(entry: &Entry) -> Error {
    if cli::COMMAND_LINE_ONLY.contains(&entry.key.as_str()) {
        let remedy = format!("remove it here and give --{} instead", entry.key);
        return problem_at(entry, Problem::new("belongs on the command line", remedy));
    }
    let remedy = match foreign::suggest(&entry.key) {
        Some(name) => format!("write {name}; b4r-train --help lists all keys"),
        None => "remove it; b4r-train --help lists all keys".to_string(),
    };
    problem_at(entry, Problem::new("there is no such key", remedy))
}
