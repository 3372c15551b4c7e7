//! Published evaluation protocols, each by one key. `docs/evaluation.md` says where each value was read.

use super::evaluation::{EvalConfig, EvalUnit, HeldOut, Mode, Negatives, SplitRule};
use super::keys;
use super::resolve::Resolved;

/// Keys that a protocol sets.
const KEYS: [&str; 6] = [
    "eval_args.split",
    "eval_args.mode",
    "eval_unit",
    "eval_negatives",
    "valid_users",
    "filter_seen",
];

/// A published evaluation protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// BERT4Rec itself: everything but the last item trains, 100 negatives by popularity.
    Sun2019,
    /// Petrov and Macdonald, RecSys 2022: 2,048 users validate, all items are ranked, seen ones left out.
    Petrov2022,
    /// Klenitskiy and Vasilev, RecSys 2023: all users validate, all items are ranked, seen ones left out.
    Klenitskiy2023,
    /// RecBole's defaults for sequential models: seen items are ranked too.
    RecBole,
}

impl Protocol {
    /// Names in a configuration.
    pub const NAMES: [(&str, Protocol); 4] = [
        ("sun2019", Protocol::Sun2019),
        ("petrov2022", Protocol::Petrov2022),
        ("klenitskiy2023", Protocol::Klenitskiy2023),
        ("recbole", Protocol::RecBole),
    ];

    /// Name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sun2019 => "sun2019",
            Protocol::Petrov2022 => "petrov2022",
            Protocol::Klenitskiy2023 => "klenitskiy2023",
            Protocol::RecBole => "recbole",
        }
    }

    /// The defaults with what this protocol says.
    pub fn config(self) -> EvalConfig {
        let base = EvalConfig { protocol: Some(self), ..EvalConfig::default() };
        match self {
            Protocol::Sun2019 => EvalConfig {
                split: SplitRule::LeaveOneOut(HeldOut::TestOnly),
                valid_mode: Mode::Popular(100),
                test_mode: Mode::Popular(100),
                ..base
            },
            Protocol::Petrov2022 => {
                EvalConfig { valid_users: Some(2048), negatives: Negatives::Any, ..base }
            }
            Protocol::Klenitskiy2023 => base,
            Protocol::RecBole => EvalConfig { unit: EvalUnit::RecBole, filter_seen: false, ..base },
        }
    }

    fn description(self) -> &'static str {
        match self {
            Protocol::Sun2019 => {
                "Sun et al. 2019: all but the last item trains, nothing validates, \
                 100 negatives by popularity"
            }
            Protocol::Petrov2022 => {
                "Petrov and Macdonald 2022: 2,048 users validate on their second-last item, which trains for \
                 all others; all items ranked, seen ones left out, also of negatives where popN asks for some"
            }
            Protocol::Klenitskiy2023 => {
                "Klenitskiy and Vasilev 2023: second-last items validate and never train; all items ranked, \
                 seen ones left out"
            }
            Protocol::RecBole => {
                "RecBole's defaults: leave-one-out, all items ranked, seen ones too; under sampling all rows of \
                 a user in one list"
            }
        }
    }
}

/// Names of the keys in which `eval` is not what its protocol says.
pub fn changed(eval: &EvalConfig) -> Vec<&'static str> {
    let Some(protocol) = eval.protocol else { return Vec::new() };
    let of = |eval: &EvalConfig| super::Config { eval: eval.clone(), ..Default::default() };
    let (preset, config) = (of(&protocol.config()), of(eval));
    let keys = KEYS.iter().filter_map(|name| keys::find(name));
    keys.filter(|key| (key.get)(&preset) != (key.get)(&config)).map(|key| key.name).collect()
}

/// What a user should know about the protocol: what it is, and which keys were set otherwise.
pub(super) fn note(resolved: &mut Resolved) {
    let Some(protocol) = resolved.config.eval.protocol else { return };
    resolved.notes.push(format!("protocol {}: {}", protocol.name(), protocol.description()));
    for name in changed(&resolved.config.eval) {
        let value = keys::find(name).and_then(|key| (key.get)(&resolved.config));
        let value = value.map_or("unset".to_string(), |value| value.to_string());
        let place = resolved.origins.get(name).map(|place| format!(" ({place})"));
        resolved.notes.push(format!(
            "protocol {}: {name} is {value} instead{}",
            protocol.name(),
            place.unwrap_or_default()
        ));
    }
}
