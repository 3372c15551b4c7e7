//! What grows with what: time a token over users, time and memory over items, throughput over threads.

use super::bars::Bars;
use super::rates::Rates;
use super::report::Report;
use super::settings::Settings;
use super::train::{Case, Row, rounds};
use super::workload::Workload;
use crate::Result;
use clap::ArgMatches;
use serde::Serialize;

/// Smallest number of users and of items.
const SMALLEST: usize = 1000;
/// Bytes that weights, gradient and both moments of AdamW take a parameter.
const BYTES_A_PARAMETER: f64 = 16.0;

/// One case.
#[derive(Serialize)]
struct Line {
    over: &'static str,
    config: String,
    users: usize,
    items: usize,
    threads: usize,
    parameters: usize,
    ms_a_step: f64,
    tokens_a_second: f64,
    microseconds_a_token: f64,
    peak_mib: f64,
    /// Peak memory less 16 bytes a parameter.
    mib_beyond_parameters: f64,
    /// Over the first case of its kind: of time a token, or for threads of throughput.
    times_the_first: f64,
}

/// `b4r-bench scaling`.
///
/// # Errors
/// Those of the measurement.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let settings = Settings::new(arguments);
    let largest = *arguments.get_one::<u64>("largest").unwrap_or(&(SMALLEST as u64)) as usize;
    let mut report = Report::new("scaling");
    let mut lines = Vec::new();
    let over: Vec<&String> = arguments.get_many("over").into_iter().flatten().collect();
    for (name, cases) in [
        ("users", over_users(&settings, largest)?),
        ("items", over_items(&settings, largest)?),
        ("threads", over_threads(&settings)?),
    ] {
        if over.iter().any(|given| *given == name) {
            lines.extend(measure(name, &cases, &settings)?);
        }
    }
    report.chart(chart(&lines));
    report.table("scaling", &lines);
    report.table("rates", &[Rates::measure(settings.threads)?]);
    report.note(
        "Users and items: the shape of C (short histories, L 50, D 64, 256 sequences a batch), all else fixed; the peak \
         includes the histories. Threads: A to D. Each case is a process of its own.",
    );
    report.write(arguments)
}

fn case(workload: Workload, settings: &Settings) -> Case {
    Case { workload, threads: settings.threads, steps: settings.steps, attention_dropout: 0.0 }
}

/// A thousand and its multiples by ten, up to `largest`.
fn sizes(largest: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(SMALLEST), |size| size.checked_mul(10))
        .take_while(move |&size| size <= largest)
}

fn over_users(settings: &Settings, largest: usize) -> Result<Vec<Case>> {
    let of = |users| Ok(case(Workload { users, ..Workload::preset("C")? }, settings));
    sizes(largest).map(of).collect()
}

fn over_items(settings: &Settings, largest: usize) -> Result<Vec<Case>> {
    let of = |items| Ok(case(Workload { items, ..Workload::preset("C")? }, settings));
    sizes(largest).map(of).collect()
}

fn over_threads(settings: &Settings) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for name in super::workload::NAMES {
        for threads in [1, settings.threads.max(2)] {
            cases.push(Case { threads, ..case(Workload::preset(name)?, settings) });
        }
    }
    Ok(cases)
}

fn measure(over: &'static str, cases: &[Case], settings: &Settings) -> Result<Vec<Line>> {
    let measured = rounds(cases, settings.rounds, settings.limit)?;
    let mut lines: Vec<Line> = Vec::new();
    for (case, rounds) in cases.iter().zip(&measured) {
        let row = Row::new(case, rounds, 1.0);
        let parameters = rounds.first().map_or(0, |measured| measured.parameters);
        let own = BYTES_A_PARAMETER * parameters as f64 / f64::from(1 << 20);
        let first = lines.iter().find(|line| over != "threads" || line.config == row.config);
        let times_the_first = first.map_or(1.0, |first| match over {
            "threads" => row.tokens_a_second / first.tokens_a_second,
            _ => first.tokens_a_second / row.tokens_a_second,
        });
        lines.push(Line {
            over,
            config: row.config,
            users: row.users,
            items: row.items,
            threads: row.threads,
            parameters,
            ms_a_step: row.ms_a_step,
            tokens_a_second: row.tokens_a_second,
            microseconds_a_token: 1e6 / row.tokens_a_second,
            peak_mib: row.peak_mib,
            mib_beyond_parameters: row.peak_mib - own,
            times_the_first,
        });
    }
    Ok(lines)
}

fn chart(lines: &[Line]) -> Bars {
    let groups = lines.chunk_by(|a, b| a.over == b.over).map(|lines| {
        let name = |line: &Line| match line.over {
            "users" => format!("{} users", line.users),
            "items" => format!("{} items", line.items),
            _ => format!("{}, {} threads", line.config, line.threads),
        };
        let bars = lines.iter().map(|line| (name(line), line.microseconds_a_token)).collect();
        (format!("over {}", lines[0].over), bars)
    });
    Bars { title: "Training, microseconds a real token".to_string(), groups: groups.collect() }
}
