//! Users a second of ranking their test items, among all items or among negatives.

use super::bars::Bars;
use super::case;
use super::rates::median;
use super::report::Report;
use super::settings::Settings;
use super::workload::{Histories, Workload};
use crate::config::{EvalConfig, EvalUnit, Mode, Negatives};
use crate::cpu::CpuEngine;
use crate::data::training_counts;
use crate::eval::{Draw, Procedure, RankedData, draw, rank};
use crate::{Error, Result};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Rows before those that are measured.
const WARM_UP: usize = 256;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Sizes and histories.
    pub workload: Workload,
    /// Threads.
    pub threads: usize,
    /// `full`, `uniN` or `popN`.
    pub mode: String,
    /// Most users.
    pub most_users: usize,
    /// Passes over them.
    pub repeats: u64,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `V`
    pub items: usize,
    /// Users that were ranked.
    pub users: usize,
    /// Median of the passes.
    pub users_a_second: f64,
}

#[derive(Serialize)]
struct Row {
    config: String,
    mode: String,
    items: usize,
    users: usize,
    threads: usize,
    users_a_second: f64,
    microseconds_a_user: f64,
}

/// As the configuration writes it.
///
/// # Errors
/// [`Error::Config`].
pub fn mode(text: &str) -> Result<Mode> {
    let number = |prefix: &str| -> Option<usize> {
        text.strip_prefix(prefix)?.parse().ok().filter(|&number| number > 0)
    };
    match (text, number("uni"), number("pop")) {
        ("full", ..) => Ok(Mode::Full),
        (_, Some(number), _) => Ok(Mode::Uniform(number)),
        (_, _, Some(number)) => Ok(Mode::Popular(number)),
        _ => Err(Error::config(
            "modes",
            format!("no mode `{text}`"),
            "use full, uniN or popN, such as pop100",
        )),
    }
}

/// Measures a case in this process: whole passes, from histories to ranks; negatives are drawn before, as
/// training does once.
///
/// # Errors
/// Those of the histories and of the engine.
pub fn measure(case: &Case) -> Result<Measured> {
    let Case { workload, threads, most_users, repeats, .. } = case;
    let Histories { sequences, split, items } = workload.histories()?;
    let model = workload.model(0.0);
    let mut engine = CpuEngine::new(&model, &workload.train(), items, *threads)?;
    let rows = &split.test[..split.test.len().min(*most_users)];
    let counts = training_counts(&sequences, &split, items, false)?;
    let negatives = |rows| {
        let (mode, unit, negatives) = (mode(&case.mode)?, EvalUnit::Row, Negatives::Unseen);
        draw(&Draw { sequences: &sequences, rows, counts: &counts, mode, unit, negatives, seed: 1 })
    };
    let procedure = Procedure {
        model: &model,
        batch_size: EvalConfig::default().batch_size,
        filters: &[true],
        list_length: None,
        unit: EvalUnit::Row,
        progress: false,
    };
    let mut pass = |rows, candidates: &Option<_>| {
        let candidates = candidates.as_ref();
        let data = RankedData { sequences: &sequences, rows, item_count: items, candidates };
        let start = Instant::now();
        rank(&mut engine, &data, &procedure)?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    let first = &rows[..rows.len().min(WARM_UP)];
    pass(first, &negatives(first)?)?;
    let candidates = negatives(rows)?;
    let mut seconds =
        (0..*repeats).map(|_| pass(rows, &candidates)).collect::<Result<Vec<f64>>>()?;
    let users_a_second = rows.len() as f64 / median(&mut seconds);
    Ok(Measured { items, users: rows.len(), users_a_second })
}

/// `b4r-bench eval`.
///
/// # Errors
/// Those of the measurement.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let settings = Settings::new(arguments);
    let most_users = *arguments.get_one::<u64>("most-users").unwrap_or(&u64::MAX) as usize;
    let modes = arguments.get_one::<String>("modes").map_or("full", String::as_str);
    let modes: Vec<&str> = modes.split(',').map(str::trim).collect();
    modes.iter().try_for_each(|name| mode(name).map(|_| ()))?;
    let mut report = Report::new("eval");
    let mut rows = Vec::new();
    for workload in Workload::from_arguments(arguments)? {
        for name in &modes {
            let case = Case {
                workload: workload.clone(),
                threads: settings.threads,
                mode: name.to_string(),
                most_users,
                repeats: settings.steps,
            };
            let Measured { items, users, users_a_second } =
                case::Case::Eval(case).measure(settings.limit)?;
            eprintln!("{}, {name}: {users_a_second:.0} users/s", workload.name);
            rows.push(Row {
                config: workload.name.clone(),
                mode: name.to_string(),
                items,
                users,
                threads: settings.threads,
                users_a_second,
                microseconds_a_user: 1e6 / users_a_second,
            });
        }
    }
    let bars = rows.chunk_by(|a, b| a.config == b.config).map(|rows| {
        let bars = rows.iter().map(|row| (row.mode.clone(), row.users_a_second)).collect();
        (rows[0].config.clone(), bars)
    });
    report.chart(Bars { title: "Evaluation, users a second".to_string(), groups: bars.collect() });
    report.table("eval", &rows);
    report.note(
        "From histories to ranks, seen items left out; the weights are those before training. Negatives are \
         drawn beforehand, as a training run draws them once.",
    );
    report.write(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_configurations_write_them() {
        for name in ["full", "uni100", "pop1"] {
            assert_eq!(mode(name).unwrap().name(), name);
        }
        for name in ["", "uni", "pop0", "all", "uni1x"] {
            assert!(mode(name).is_err(), "{name}");
        }
    }
}
