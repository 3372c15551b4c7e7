//! The flags of serving, for `b4r-recommend` to add to its own.

use super::ServeOptions;
use super::batcher::BatchRule;
use super::guard::{TOKEN_VARIABLE, Token};
use super::limits::Limits;
use crate::Result;
use crate::recommend::Computing;
use clap::builder::{RangedU64ValueParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SERVE: &str = "serve";
const TOKEN_FILE: &str = "token-file";
const ALLOW_HOST: &str = "allow-host";
const ALLOW_ORIGIN: &str = "allow-origin";
const MAX_BODY: &str = "max-body";
const MAX_HISTORY: &str = "max-history";
const MAX_K: &str = "max-k";
const MAX_CONNECTIONS: &str = "max-connections";
const READ_TIMEOUT: &str = "read-timeout";
const ANSWER_TIMEOUT: &str = "answer-timeout";
const DRAIN_TIMEOUT: &str = "drain-timeout";
const BATCH_REQUESTS: &str = "batch-requests";
const BATCH_WAIT: &str = "batch-wait";

/// Numbers with a name, a unit for the help, a range, a default and what they mean.
const NUMBERS: [(&str, &str, u64, u64, &str, &str); 9] = [
    (MAX_BODY, "BYTES", 64, 1 << 30, "262144", "Largest body of a request"),
    (MAX_HISTORY, "ITEMS", 1, 1 << 20, "5000", "Longest history"),
    (MAX_K, "ITEMS", 1, 1 << 20, "1000", "Most items in an answer"),
    (MAX_CONNECTIONS, "N", 1, 1 << 16, "512", "Most connections at a time"),
    (
        READ_TIMEOUT,
        "SECONDS",
        1,
        3600,
        "10",
        "Time for a request's head, and for its body, to arrive",
    ),
    (
        ANSWER_TIMEOUT,
        "SECONDS",
        1,
        3600,
        "30",
        "Time to answer a request, and for the client to read it",
    ),
    (DRAIN_TIMEOUT, "SECONDS", 0, 3600, "30", "Time to finish requests when the server ends"),
    (BATCH_REQUESTS, "N", 1, 4096, "64", "Most requests in one pass through the network"),
    (
        BATCH_WAIT,
        "MICROSECONDS",
        0,
        100_000,
        "300",
        "Longest wait for other requests to share the pass",
    ),
];

/// Flags of `b4r-recommend` that say what to do with a stream of requests instead.
const OF_STREAMS: [&str; 12] = [
    "input",
    "input-format",
    "output",
    "output-format",
    "k",
    "filter-seen",
    "allow",
    "deny",
    "score",
    "similar",
    "export-items",
    "export-users",
];

/// The flags of serving.
pub fn arguments() -> Vec<Arg> {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).help_heading("Serving")
    };
    let with_serve = |argument: Arg| argument.requires(SERVE);
    let mut arguments = vec![
        flag(SERVE, "ADDR", "Answer over HTTP at this address, such as 127.0.0.1:8080")
            .conflicts_with_all(OF_STREAMS),
        with_serve(flag(
            TOKEN_FILE,
            "FILE",
            "Ask clients for the bearer token in this file (or in the variable B4R_TOKEN)",
        ))
        .value_parser(ValueParser::path_buf()),
        with_serve(flag(ALLOW_HOST, "HOST", "A further name that clients may call the server by"))
            .action(ArgAction::Append),
        with_serve(flag(ALLOW_ORIGIN, "ORIGIN", "A web site whose pages may use the server"))
            .action(ArgAction::Append),
    ];
    for (name, unit, least, most, default, help) in NUMBERS {
        let range = RangedU64ValueParser::<u64>::new().range(least..=most);
        arguments
            .push(with_serve(flag(name, unit, help)).default_value(default).value_parser(range));
    }
    arguments
}

/// What the flags say; `None` without `--serve`.
///
/// # Errors
/// [`crate::Error::Config`] when the token cannot be used.
pub fn options(
    matches: &ArgMatches,
    run: &Path,
    computing: Computing,
) -> Result<Option<ServeOptions>> {
    let Some(address) = matches.get_one::<String>(SERVE) else { return Ok(None) };
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    let seconds = |name: &str| Duration::from_secs(number(name));
    let strings = |name: &str| -> Vec<String> {
        matches.get_many::<String>(name).unwrap_or_default().cloned().collect()
    };
    let token = match matches.get_one::<PathBuf>(TOKEN_FILE) {
        Some(path) => Some(Token::read(path)?),
        None => token_of_environment()?,
    };
    Ok(Some(ServeOptions {
        run: run.to_path_buf(),
        computing,
        address: address.clone(),
        token,
        allow_hosts: strings(ALLOW_HOST),
        allow_origins: strings(ALLOW_ORIGIN),
        limits: Limits {
            body: size(MAX_BODY),
            history: size(MAX_HISTORY),
            k: size(MAX_K),
            connections: size(MAX_CONNECTIONS),
            head_time: seconds(READ_TIMEOUT),
            body_time: seconds(READ_TIMEOUT),
            answer_time: seconds(ANSWER_TIMEOUT),
            write_time: seconds(ANSWER_TIMEOUT),
            drain_time: seconds(DRAIN_TIMEOUT),
        },
        batch: BatchRule {
            size: size(BATCH_REQUESTS),
            wait: Duration::from_micros(number(BATCH_WAIT)),
            ..BatchRule::DEFAULT
        },
    }))
}

fn token_of_environment() -> Result<Option<Token>> {
    match std::env::var(TOKEN_VARIABLE) {
        Ok(secret) => Token::new(TOKEN_VARIABLE, &secret).map(Some),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Token::new(TOKEN_VARIABLE, "").map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> std::result::Result<ArgMatches, clap::Error> {
        let command = crate::recommend::command::command().no_binary_name(true);
        command.try_get_matches_from([&["run"], flags].concat())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let matches = parse(&["--serve", "127.0.0.1:0"]).unwrap();
        let computing = Computing::default();
        let options = options(&matches, Path::new("run"), computing).unwrap().unwrap();
        assert_eq!(options.limits, Limits::DEFAULT);
        assert_eq!(options.batch, BatchRule::DEFAULT);
        assert!(
            super::options(&parse(&[]).unwrap(), Path::new("run"), computing).unwrap().is_none()
        );
    }

    #[test]
    fn flags_without_serve_and_numbers_out_of_range_are_refused() {
        assert!(parse(&["--max-k=5"]).is_err());
        assert!(parse(&["--serve=127.0.0.1:0", "--max-k=0"]).is_err());
        assert!(parse(&["--serve=127.0.0.1:0", "--token=abc"]).is_err());
        assert!(parse(&["--serve=127.0.0.1:0", "--input=x"]).is_err());
    }
}
