//! Flags that several subcommands share.

use clap::{Arg, ArgMatches, value_parser};
use std::time::Duration;

/// Their values; where a subcommand has no such flag, what it would be by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Threads.
    pub threads: usize,
    /// Measured steps, or repeats.
    pub steps: u64,
    /// Rounds over all cases.
    pub rounds: u64,
    /// Dropouts of attention probabilities to measure with.
    pub attention_dropouts: Vec<f64>,
    /// Longest time for one measurement.
    pub limit: Duration,
}

impl Settings {
    /// Of a subcommand.
    pub fn new(arguments: &ArgMatches) -> Self {
        let number = |key: &str, default| match arguments.try_get_one::<u64>(key) {
            Ok(Some(&number)) => number,
            _ => default,
        };
        let dropouts = arguments.try_get_many::<f64>("attention-dropout").ok().flatten();
        Settings {
            threads: number("threads", 2) as usize,
            steps: number("steps", 20),
            rounds: number("rounds", 1),
            attention_dropouts: dropouts.map_or(vec![0.0], |given| given.copied().collect()),
            limit: Duration::from_secs(number("timeout", 900)),
        }
    }
}

/// `--configs`.
pub fn configs(default: &'static str) -> Arg {
    Arg::new("configs")
        .long("configs")
        .default_value(default)
        .help("A: ml-100k shape; B: ml-1m; C: Beauty (short histories); D: ML-20M, width 256")
}

/// A whole number above 0.
pub fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    let parser = value_parser!(u64).range(1..);
    Arg::new(name).long(name).default_value(default).value_parser(parser).help(help)
}

/// `--threads`.
pub fn threads() -> Arg {
    number("threads", "2", "Threads")
}

/// `--timeout`.
pub fn timeout() -> Arg {
    number("timeout", "900", "Seconds after which one measurement is given up")
}

/// `--attention-dropout`, one or more with commas between.
pub fn attention_dropout(default: &'static str) -> Arg {
    let in_range = |text: &str| match text.parse::<f64>() {
        Ok(dropout) if (0.0..1.0).contains(&dropout) => Ok(dropout),
        _ => Err("write numbers from 0 to below 1, with commas between"),
    };
    Arg::new("attention-dropout")
        .long("attention-dropout")
        .default_value(default)
        .value_delimiter(',')
        .value_parser(in_range)
        .help("Dropouts of attention probabilities to measure with; hidden dropout is 0.1")
}
