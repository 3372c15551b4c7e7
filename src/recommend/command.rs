//! `b4r-recommend`: its flags, and what they set going.

use super::input::{Format as InputFormat, Source};
use super::output::{Format as OutputFormat, write_to};
use super::stream::{self, Task};
use super::{Computing, Options, Recommender, Scored, export};
use crate::config::{self, RunConfig};
use crate::serve;
use crate::train::progress::{draws_bars, say};
use crate::{Error, Result};
use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const ABOUT: &str = "Recommends items with a model that b4r-train has trained.\n\n\
    Requests are read from a file or from standard input, one a line, and answered in their order.";

const EXAMPLES: &str = r#"Examples:
  echo '{"user": "196"}' | b4r-recommend runs/ml-100k-seed2020
  echo '{"history": ["50", "181"]}' | b4r-recommend runs/ml-100k-seed2020 --k 5 --filter-seen=false
  b4r-recommend runs/ml-100k-seed2020 --input requests.csv --output lists.csv --output-format csv
  echo '{"user": "196", "items": ["50", "1"]}' | b4r-recommend runs/ml-100k-seed2020 --score
  b4r-recommend runs/ml-100k-seed2020 --similar 50
  b4r-recommend runs/ml-100k-seed2020 --export-items items.npy --export-users users.npy
  b4r-recommend runs/ml-100k-seed2020 --serve 127.0.0.1:8080

Exit status: 0 every request was answered; 1 some were refused, or the run failed;
2 nothing could be answered: the run directory, the flags or the whole input are at fault."#;

/// Most threads, as in training; their stacks have to fit.
const MAX_THREADS: i64 = 4096;

/// The command, for help and completion.
pub fn command() -> Command {
    Command::new("b4r-recommend")
        .version(clap::crate_version!())
        .about(ABOUT)
        .after_help(EXAMPLES)
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Run directory of b4r-train"),
        )
        .args(stream_flags())
        .args(choice_flags())
        .args([
            file_flag("export-items", "Write the items' vectors to FILE (.safetensors or .npy)"),
            file_flag("export-users", "Write the vectors of the run's users to FILE (same)"),
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .value_parser(value_parser!(u16).range(..=MAX_THREADS))
                .default_value("0")
                .help("Threads; 0 takes every core"),
            Arg::new("device")
                .long("device")
                .value_name("NAME")
                .default_value("auto")
                .help("auto (a GPU where one can compute this, else the CPU), cpu, cuda or cuda:N"),
            Arg::new("precision")
                .long("precision")
                .value_name("NAME")
                .help("f32 or bf16 (GPU only; bf16 there and f32 on the CPU otherwise)"),
        ])
        .args(serve::arguments())
}

fn stream_flags() -> [Arg; 4] {
    [
        file_flag("input", "Requests; `-` is standard input [default: -]"),
        Arg::new("input-format")
            .long("input-format")
            .value_name("FORMAT")
            .value_parser(["auto", "jsonl", "csv", "interactions"])
            .default_value("auto")
            .help("jsonl: {\"user\": \"u1\"} or {\"history\": [\"i1\", \"i2\"]}; csv: columns user, history; \
                   interactions: anything that b4r-train reads, a request for each user"),
        file_flag("output", "Results; `-` is standard output [default: -]"),
        Arg::new("output-format")
            .long("output-format")
            .value_name("FORMAT")
            .value_parser(["jsonl", "csv"])
            .default_value("jsonl")
            .help("jsonl: an object a request; csv: a line an item"),
    ]
}

fn choice_flags() -> [Arg; 6] {
    [
        Arg::new("k")
            .long("k")
            .short('k')
            .value_name("N")
            .value_parser(value_parser!(usize))
            .default_value("10")
            .help("Items for each request, at most"),
        Arg::new("filter-seen")
            .long("filter-seen")
            .alias("filter_seen")
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .value_parser(BoolishValueParser::new())
            .default_value("true")
            .default_missing_value("true")
            .help("Leave out the items of the history"),
        file_flag("allow", "Recommend only the items of FILE, one a line"),
        file_flag("deny", "Recommend none of the items of FILE, one a line"),
        Arg::new("score")
            .long("score")
            .action(ArgAction::SetTrue)
            .conflicts_with_all(["k", "filter-seen", "allow", "deny", "similar"])
            .help("Score the `items` of each request instead, or a file's pairs of user and item"),
        Arg::new("similar")
            .long("similar")
            .value_name("ITEM")
            .conflicts_with_all(["filter-seen", "allow", "deny", "input"])
            .help("Name the items most like ITEM, and stop"),
    ]
}

fn file_flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
}

/// Runs a command line, the program's name included; returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help, or a refusal; a closed stream leaves only the exit code to tell.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let fail = |error: Error, code: u8| {
        say(format_args!("error: {error}"));
        code
    };
    let run = path(&matches, "run");
    let computing = match computing(&matches) {
        Ok(computing) => computing,
        Err(error) => return fail(error, 2),
    };
    if let Some(options) = serve::options(&matches, &run, computing).transpose() {
        return serve::run(options);
    }
    let prepared = Recommender::open_on(&run, computing).and_then(|recommender| {
        say(recommender.choice());
        Work::new(&matches, recommender)
    });
    match prepared {
        // Whatever kept it from starting, nothing has been answered.
        Err(error) => fail(error, 2),
        Ok(work) => work.run(&matches).unwrap_or_else(|error| {
            let code = error.exit_code();
            fail(error, code)
        }),
    }
}

/// What is to be done, once everything that can be checked beforehand has been.
struct Work {
    recommender: Recommender,
    stream: Option<(Source, Task)>,
}

impl Work {
    fn new(matches: &ArgMatches, recommender: Recommender) -> Result<Self> {
        let exports = ["export-items", "export-users"];
        for flag in exports {
            if let Some(path) = matches.get_one::<PathBuf>(flag) {
                export::check(path, flag)?;
            }
        }
        let only =
            exports.iter().any(|flag| matches.contains_id(flag)) && !matches.contains_id("input");
        if only || matches.contains_id("similar") {
            return Ok(Work { recommender, stream: None });
        }
        let task = if matches.get_flag("score") {
            Task::Score
        } else {
            recommend_task(matches, &recommender)?
        };
        let format = match text(matches, "input-format") {
            "jsonl" => Some(InputFormat::JsonLines),
            "csv" => Some(InputFormat::Csv),
            "interactions" => Some(InputFormat::Interactions),
            _ => None,
        };
        let data = &recommender.config().data;
        let input = file(matches, "input");
        let source = Source::open(input.as_deref(), format, data, draws_bars(None))?;
        let source = if matches.get_flag("score") { source.scoring() } else { source };
        Ok(Work { recommender, stream: Some((source, task)) })
    }

    fn run(self, matches: &ArgMatches) -> Result<u8> {
        let Work { recommender, stream } = self;
        if let Some(path) = matches.get_one::<PathBuf>("export-items") {
            export::items(&recommender, path)?;
        }
        if let Some(path) = matches.get_one::<PathBuf>("export-users") {
            export::users(&recommender, path)?;
        }
        let output = file(matches, "output");
        if let Some(item) = matches.get_one::<String>("similar") {
            let k = count(matches, &recommender)?;
            return similar(&recommender, item, k, output.as_deref());
        }
        let Some((mut source, task)) = stream else { return Ok(0) };
        let format = match text(matches, "output-format") {
            "csv" => OutputFormat::Csv,
            _ => OutputFormat::JsonLines,
        };
        let summary =
            stream::run_into(&recommender, &mut source, &task, output.as_deref(), format)?;
        say(summary);
        Ok(summary.exit_code())
    }
}

fn recommend_task(matches: &ArgMatches, recommender: &Recommender) -> Result<Task> {
    let list = |flag| matches.get_one::<PathBuf>(flag).map(|path| read_list(path)).transpose();
    let options = Options {
        k: count(matches, recommender)?,
        filter_seen: *matches.get_one::<bool>("filter-seen").unwrap_or(&true),
        allow: list("allow")?,
        deny: list("deny")?.unwrap_or_default(),
    };
    let selection = recommender.select(&options)?;
    if let Some(first) = selection.unknown.first() {
        say(format_args!(
            "{} items of the lists are unknown to the model, `{}` for one",
            selection.unknown.len(),
            super::shorten(first)
        ));
    }
    let longest = selection.longest();
    if longest < options.k {
        let k = options.k;
        say(format_args!("k is {k}, but there are only {longest} items to recommend"));
    }
    Ok(Task::Recommend(selection))
}

/// `--k`; where it is not given, no more than there are items.
fn count(matches: &ArgMatches, recommender: &Recommender) -> Result<usize> {
    let k = *matches.get_one::<usize>("k").unwrap_or(&0);
    let items = recommender.items().len();
    if k <= items {
        return Ok(k);
    }
    if matches.value_source("k") != Some(ValueSource::CommandLine) {
        return Ok(items);
    }
    let problem = format!("{k} is more than the {items} items that the model knows");
    Err(Error::config("k", problem, "ask for fewer"))
}

/// Item ids, one a line.
fn read_list(path: &Path) -> Result<Vec<String>> {
    let refused = |problem: String| {
        Error::input(path, problem, "give a text file with one item id on each line")
    };
    let text = fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(text).map_err(|_| refused("it is not UTF-8 text".to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect())
}

fn similar(recommender: &Recommender, item: &str, k: usize, output: Option<&Path>) -> Result<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        item: &'a str,
        items: Vec<Scored>,
    }
    let line = Line { item, items: recommender.similar(item, k)? };
    write_to(output, |out| {
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    })?;
    Ok(0)
}

fn path(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().unwrap_or_default()
}

/// A file; `None` for `-` and where the flag is not given.
fn file(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).filter(|path| path.as_os_str() != "-").cloned()
}

/// What `--threads`, `--device` and `--precision` say, read as b4r-train reads them.
fn computing(matches: &ArgMatches) -> Result<Computing> {
    let given = |name| matches.get_one::<String>(name).map(|value| format!("--{name}={value}"));
    let flags = ["device", "precision"].into_iter().filter_map(given);
    let RunConfig { device, precision, .. } =
        config::resolve(flags.map(OsString::from))?.config.run;
    let threads = usize::from(*matches.get_one::<u16>("threads").unwrap_or(&0));
    Ok(Computing { threads, device, precision })
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}
