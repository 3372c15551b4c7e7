//! The registry: one entry for each key. Flags, YAML keys, help, `config.yaml` and the comparison on
//! resume all derive from it.

mod data;
mod evaluation;
mod model;
mod run;
mod train;

pub(super) use model::MAX_LEN;
pub(super) use run::{MAX_THREADS, gpu_id};

use super::Config;
use super::parse::Parsed;
use super::value::Value;

/// Heading under which a key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Which interactions to read and how.
    Data,
    /// The network.
    Model,
    /// Batches, optimizer and stopping.
    Training,
    /// Splits, ranking and metrics.
    Evaluation,
    /// Where and on what the run happens.
    Run,
}

impl Section {
    /// All, in the order shown.
    pub const ALL: [Section; 5] =
        [Section::Data, Section::Model, Section::Training, Section::Evaluation, Section::Run];

    /// Heading.
    pub fn name(self) -> &'static str {
        match self {
            Section::Data => "Data",
            Section::Model => "Model",
            Section::Training => "Training",
            Section::Evaluation => "Evaluation",
            Section::Run => "Run",
        }
    }

    /// A key under this heading. What says where and on what the run happens belongs to one invocation;
    /// anything else decides the numbers, unless [`Key::scope`] says otherwise.
    const fn key(
        self,
        name: &'static str,
        value_name: &'static str,
        help: &'static str,
        get: fn(&Config) -> Option<Value>,
        set: fn(&mut Config, &Value) -> Parsed<()>,
    ) -> Key {
        let scope = match self {
            Section::Run => Scope::Invocation,
            _ => Scope::Result,
        };
        Key { name, aliases: &[], section: self, value_name, help, scope, hidden: false, get, set }
    }
}

/// What a key decides, and so what `--resume` does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The numbers: a resumed run must have the same.
    Result,
    /// Not the numbers, but the run as a whole: a resumed run keeps it unless it is given anew.
    Run,
    /// Only the present invocation: a resumed run does not remember it.
    Invocation,
}

/// One key of the configuration.
pub struct Key {
    /// Name; RecBole's where RecBole has the key. A dot stands for nesting in YAML.
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: &'static [&'static str],
    /// Heading.
    pub section: Section,
    /// Placeholder of the value in help; empty for flags that may stand alone.
    pub value_name: &'static str,
    /// Explanation, without default.
    pub help: &'static str,
    /// What it decides.
    pub scope: Scope,
    /// Whether help and suggestions leave it out, as they do a RecBole spelling of another key.
    pub hidden: bool,
    /// Reads it from a configuration; `None` where there is nothing to write down.
    pub get: fn(&Config) -> Option<Value>,
    /// Writes it into a configuration.
    pub set: fn(&mut Config, &Value) -> Parsed<()>,
}

impl Key {
    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Whether the flag may stand without a value.
    pub fn is_switch(&self) -> bool {
        self.value_name.is_empty()
    }

    /// The default as it would be written, for keys that have one.
    pub fn default_text(&self) -> Option<String> {
        match (self.get)(&Config::default())? {
            Value::Null => None,
            Value::Text(text) => Some(text),
            other => Some(other.to_string()),
        }
    }
}

/// All keys, section by section.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [data::KEYS, model::KEYS, train::KEYS, evaluation::KEYS, run::KEYS].into_iter().flatten()
}

/// The key of this name or alias; dashes count as underscores.
pub fn find(name: &str) -> Option<&'static Key> {
    let name = name.replace('-', "_");
    all().find(|key| key.name == name || key.aliases.contains(&name.as_str()))
}
