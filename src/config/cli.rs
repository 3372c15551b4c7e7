//! The command line: every key is a flag, made from the registry.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::foreign::{FOREIGN, suggest};
use super::keys::{self, Key, Section};
use super::legacy;
use super::parse::boolean;
use super::resolve::{Entry, Place};
use super::value::{Value, shorten};
use crate::{Error, Result};

/// What the command line says, before any key has been looked at.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Configuration files, in order.
    pub files: Vec<PathBuf>,
    /// Flags, in order.
    pub flags: Vec<Entry>,
    /// Whether `--explain` was given.
    pub explain: bool,
}

/// A command line that could be read.
pub enum Parsed {
    /// Files and flags.
    Arguments(Arguments),
    /// Help or version text.
    Text(Box<clap::Error>),
}

/// Names of what is given on the command line only.
const FILES: &str = "config";
const CONFIG_FILES: &str = "config_files";
const EXPLAIN: &str = "explain";

/// Flags that have no place in a file.
pub const COMMAND_LINE_ONLY: &[&str] = &[CONFIG_FILES, EXPLAIN];

/// Spellings of parts of a key, as RecBole's command line allows them.
const PARTS: &[&str] = &[
    "eval_args",
    "eval_args.split.LS",
    "eval_args.split.RS",
    "eval_args.split.TS",
    "eval_args.mode.valid",
    "eval_args.mode.test",
    "clip_grad_norm.max_norm",
    "clip_grad_norm.norm_type",
    "val_interval.rating",
];

const ABOUT: &str = "Trains BERT4Rec on an interaction file.\n\n\
    Settings come from YAML files and from flags; a later file wins over an earlier one, and flags win \
    over files. Every key can stand in a file (epochs: 20) or be a flag (--epochs 20, --epochs=20); \
    dashes and underscores are the same. Keys are named as in RecBole where RecBole has them, and \
    RecBole's files can be used as they are.";

const EXAMPLES: &str = "Examples:
  b4r-train                                           MovieLens-100K with the defaults
  b4r-train --dataset ml-1m --max_len 200 --seed 7
  b4r-train --dataset plays.csv --USER_ID_FIELD listener --ITEM_ID_FIELD song --TIME_FIELD at
  b4r-train recbole.yaml --epochs=20 --run-dir runs/a
  b4r-train --run-dir runs/a --resume                 continue where it stopped
  b4r-train recbole.yaml --explain                    what would run, and which keys are ignored

Exit status: 0 done; 1 the run failed; 2 input or configuration error, nothing written;
130 or 143 interrupted, after saving.";

/// The command, for help and completion.
pub fn command() -> Command {
    let mut command = Command::new("b4r-train")
        .version(clap::crate_version!())
        .about(ABOUT)
        .after_help(EXAMPLES)
        .override_usage("b4r-train [CONFIG.yaml]... [--key=value]...")
        .no_binary_name(true)
        .arg(
            Arg::new(FILES)
                .value_name("CONFIG.yaml")
                .help("Configuration files; later ones win")
                .num_args(0..)
                .value_parser(ValueParser::path_buf()),
        )
        .arg(text_flag(CONFIG_FILES).hide(true));
    for section in Section::ALL {
        for key in keys::all().filter(|key| key.section == section) {
            command = command.arg(key_flag(key));
        }
    }
    command = command.arg(
        Arg::new(EXPLAIN)
            .long(EXPLAIN)
            .help("Show the resulting configuration and what it needs, and stop")
            .help_heading(Section::Run.name())
            .action(ArgAction::SetTrue)
            .overrides_with(EXPLAIN),
    );
    let extra = FOREIGN.iter().map(|foreign| foreign.name);
    let extra = extra.chain(PARTS.iter().chain(legacy::NAMES).copied());
    for name in extra {
        let flag = text_flag(name).hide(true);
        command = command.arg(if name == "model" { flag.short('m') } else { flag });
    }
    command
}

/// A flag with a value; `--a_b` and `--a-b` are the same.
fn text_flag(name: &'static str) -> Arg {
    let flag = Arg::new(name)
        .long(name)
        .action(ArgAction::Append)
        .num_args(1)
        .allow_negative_numbers(true)
        .value_parser(ValueParser::os_string());
    if name.contains('_') { flag.alias(name.replace('_', "-")) } else { flag }
}

fn key_flag(key: &'static Key) -> Arg {
    let mut help = key.help.to_string();
    if let Some(default) = key.default_text() {
        help.push_str(&format!(" [default: {default}]"));
    }
    let mut flag = text_flag(key.name)
        .help(help)
        .help_heading(key.section.name())
        .hide(key.hidden)
        .value_name(if key.is_switch() { "BOOL" } else { key.value_name });
    for alias in key.aliases {
        flag = flag.visible_alias(*alias).alias(alias.replace('_', "-"));
    }
    if key.is_switch() {
        flag = flag.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    if key.name == "dataset" { flag.short('d') } else { flag }
}

/// Reads a command line without the program's name.
///
/// # Errors
/// [`Error::Config`] that names the flag.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    match command().try_get_matches_from(join_switches(arguments)) {
        Ok(matches) => Ok(Parsed::Arguments(from_matches(&matches)?)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Text(Box::new(error))),
            _ => Err(from_clap(&error)),
        },
    }
}

/// A switch may stand alone, so its value needs a `=`; adds it to `--filter_seen false`.
fn join_switches(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_switch = |argument: &OsString| {
        let name = argument.to_str().and_then(|text| text.strip_prefix("--"));
        name.and_then(keys::find).is_some_and(Key::is_switch)
    };
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match (joined.last_mut(), argument.to_str()) {
            (Some(last), Some(text))
                if is_switch(last) && boolean(&Value::Text(text.to_string())).is_ok() =>
            {
                last.push("=");
                last.push(text);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

fn from_clap(error: &clap::Error) -> Error {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.clone(),
        Some(ContextValue::Strings(flags)) => flags.join(" "),
        _ => "command line".to_string(),
    };
    // Clap shows a known flag with its placeholder: `--epochs <N>`.
    let name = flag.split([' ', '=', '[']).next().unwrap_or_default();
    let key = shorten(name);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let remedy = match suggest(name.trim_start_matches('-')) {
                Some(known) => format!("write --{known}; b4r-train --help lists all flags"),
                None => "remove it; b4r-train --help lists all flags".to_string(),
            };
            Error::config(key, "there is no such flag", remedy)
        }
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            Error::config(&key, "has no value", format!("write {key}=VALUE"))
        }
        ErrorKind::TooManyValues => {
            Error::config(key, "takes no value", "write it alone, without `=`")
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Error::config(
                key,
                shorten(line.trim_start_matches("error: ")),
                "b4r-train --help shows how flags are written",
            )
        }
    }
}

fn from_matches(matches: &ArgMatches) -> Result<Arguments> {
    let mut result = Arguments { explain: matches.get_flag(EXPLAIN), ..Arguments::default() };
    result.files = matches.get_many::<PathBuf>(FILES).unwrap_or_default().cloned().collect();
    let mut flags = Vec::new();
    for id in matches.ids() {
        let name = id.as_str();
        let given = matches.value_source(name) == Some(ValueSource::CommandLine);
        if !given || name == FILES || name == EXPLAIN {
            continue;
        }
        let values = matches.get_many::<OsString>(name).unwrap_or_default();
        for (index, value) in matches.indices_of(name).unwrap_or_default().zip(values) {
            let Some(text) = value.to_str() else {
                return Err(Error::config(
                    format!("--{name}"),
                    "the value is not UTF-8 text",
                    "rename the file or folder, or write the value as UTF-8",
                ));
            };
            if name == CONFIG_FILES {
                // RecBole puts all files into one string.
                result.files.extend(text.split_whitespace().map(PathBuf::from));
            } else {
                flags.push((index, flag_entry(name, text)));
            }
        }
    }
    flags.sort_by_key(|(index, _)| *index);
    result.flags = flags.into_iter().map(|(_, entry)| entry).collect();
    Ok(result)
}

fn flag_entry(name: &str, text: &str) -> Entry {
    Entry { key: name.to_string(), value: Value::from_argument(text), place: Place::Flag }
}
