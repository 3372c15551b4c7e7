//! `b4r-bench recipes FILE...`: trains configurations with several seeds and tables what they come to.
//!
//! Each run is one of b4r-train's, in a directory of its own; one that is finished already is read and not
//! repeated, and one that was interrupted goes on, so that the same command ends what it began.

use super::bars::Bars;
use super::report::Report;
use crate::config::{self, Config};
use crate::train::results::Results;
use crate::train::{Trainer, progress::say};
use crate::{Error, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The subcommand's arguments.
pub fn command() -> Command {
    Command::new("recipes")
        .about("Trains configurations with several seeds; mean and deviation of their test metrics")
        .arg(
            Arg::new("recipes")
                .value_name("CONFIG.yaml")
                .num_args(1..)
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Configurations as b4r-train takes them"),
        )
        .arg(
            Arg::new("seeds")
                .long("seeds")
                .default_value("1,2,3")
                .value_delimiter(',')
                .value_parser(value_parser!(u64))
                .help("Seeds, with commas between"),
        )
        .arg(
            Arg::new("metrics")
                .long("metrics")
                .default_value("ndcg@10,hit@10")
                .value_delimiter(',')
                .help("Test metrics to table"),
        )
        .arg(
            Arg::new("runs")
                .long("runs")
                .value_name("DIR")
                .default_value("runs/recipes")
                .value_parser(value_parser!(PathBuf))
                .help("Where the run directories <recipe>-seed<seed> lie"),
        )
        .arg(
            Arg::new("flags")
                .last(true)
                .num_args(0..)
                .value_parser(value_parser!(OsString))
                .help("Flags of b4r-train for every run, after --"),
        )
        .args(super::report::arguments())
}

/// A configuration with one seed.
struct Recipe {
    name: String,
    config: Config,
}

/// A finished run of a recipe.
struct Run {
    name: String,
    results: Results,
}

impl Run {
    fn minutes(&self) -> f64 {
        (self.results.train_seconds + self.results.eval_seconds) / 60.0
    }

    fn test(&self, metric: &str) -> Option<f64> {
        self.results.test.get(metric).and_then(Value::as_f64)
    }

    fn baseline(&self, name: &str, metric: &str) -> Option<f64> {
        self.results.baseline(name)?.get(metric)?.as_f64()
    }
}

/// Trains what `arguments` name and tables it.
///
/// # Errors
/// Those of configurations and runs; [`Error::Config`] for a metric that a recipe does not compute.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let metrics: Vec<String> = arguments
        .get_many::<String>("metrics")
        .into_iter()
        .flatten()
        .map(|metric| metric.to_lowercase())
        .collect();
    // All of them are read before the first is trained, which may take an hour.
    let recipes = recipes(arguments, &metrics)?;
    let mut runs = Vec::new();
    for Recipe { name, config } in recipes {
        say(format_args!("recipe {name}, seed {}", config.train.seed));
        runs.push(Run { name, results: Trainer::new(config).run()? });
    }
    let mut report = Report::new("recipes");
    let groups: Vec<&[Run]> = runs.chunk_by(|a, b| a.name == b.name).collect();
    report.chart(chart(&groups, &metrics));
    report.table("recipes", &groups.iter().map(|runs| summary(runs, &metrics)).collect::<Vec<_>>());
    report.table("runs", &runs.iter().map(|run| line(run, &metrics)).collect::<Vec<_>>());
    report.note(
        "Test metrics of the epoch that validated best; means over the seeds, and the deviation of one seed (n - 1). \
         Minutes are those of training and evaluation.",
    );
    report.write(arguments)
}

fn recipes(arguments: &ArgMatches, metrics: &[String]) -> Result<Vec<Recipe>> {
    let folder = arguments.get_one::<PathBuf>("runs").map_or(Path::new("runs"), PathBuf::as_path);
    let flags: Vec<&OsString> = arguments.get_many("flags").into_iter().flatten().collect();
    let mut recipes: Vec<Recipe> = Vec::new();
    for file in arguments.get_many::<PathBuf>("recipes").into_iter().flatten() {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        if recipes.iter().any(|recipe| recipe.name == name) {
            return Err(Error::config(
                "recipes",
                format!("two files are called {name}, so their runs would share a directory"),
                "give one of them another name",
            ));
        }
        let words = [file.as_os_str()].into_iter().chain(flags.iter().map(|f| f.as_os_str()));
        let resolved = config::resolve(words.map(OsString::from))?.config;
        require(&resolved, file, metrics)?;
        for &seed in arguments.get_many::<u64>("seeds").into_iter().flatten() {
            let mut config = resolved.clone();
            config.train.seed = seed;
            config.run.run_dir = Some(folder.join(format!("{name}-seed{seed}")));
            config.run.resume = true;
            recipes.push(Recipe { name: name.clone(), config });
        }
    }
    Ok(recipes)
}

/// Refuses metrics that `config` does not compute.
fn require(config: &Config, file: &Path, metrics: &[String]) -> Result<()> {
    let eval = &config.eval;
    let computed: Vec<String> =
        eval.metrics.iter().flat_map(|m| eval.topk.iter().map(|&k| m.key(k))).collect();
    match metrics.iter().find(|metric| !computed.contains(metric)) {
        None => Ok(()),
        Some(missing) => Err(Error::config(
            "metrics",
            format!("{} does not compute `{missing}`", file.display()),
            format!("write some of {}", computed.join(", ")),
        )),
    }
}

/// Means over the seeds, beside the baselines'.
fn chart(groups: &[&[Run]], metrics: &[String]) -> Bars {
    let bar = |name: String, values: Vec<f64>| Some((name, spread(values.into_iter()).0?));
    let of_metric = |runs: &[Run], metric: &str| {
        let baseline =
            |name: &str| runs.iter().filter_map(|run| run.baseline(name, metric)).collect();
        let bars = [
            bar(runs[0].name.clone(), runs.iter().filter_map(|run| run.test(metric)).collect()),
            bar("popularity".to_string(), baseline("popularity")),
            bar("markov".to_string(), baseline("markov")),
        ];
        (format!("{}, {metric}", runs[0].name), bars.into_iter().flatten().collect())
    };
    let groups = groups.iter().flat_map(|runs| metrics.iter().map(|m| of_metric(runs, m)));
    Bars { title: "Test metrics, mean over seeds".to_string(), groups: groups.collect() }
}

fn summary(runs: &[Run], metrics: &[String]) -> Value {
    let mut row = Map::new();
    let protocol = &runs[0].results.protocol;
    row.insert("recipe".to_string(), json!(runs[0].name));
    row.insert("data".to_string(), json!(runs[0].results.dataset));
    row.insert("ranked".to_string(), json!(protocol.mode));
    row.insert("seeds".to_string(), json!(runs.len()));
    for metric in metrics {
        let (mean, deviation) = spread(runs.iter().filter_map(|run| run.test(metric)));
        row.insert(metric.clone(), json!(mean));
        row.insert(format!("{metric} deviation"), json!(deviation));
        for name in ["popularity", "markov"] {
            let (mean, _) = spread(runs.iter().filter_map(|run| run.baseline(name, metric)));
            row.insert(format!("{name} {metric}"), json!(mean));
        }
    }
    let (minutes, _) = spread(runs.iter().map(Run::minutes));
    let longest = runs.iter().map(Run::minutes).fold(0.0, f64::max);
    row.insert("minutes".to_string(), json!(minutes));
    row.insert("longest minutes".to_string(), json!(longest));
    Value::Object(row)
}

fn line(run: &Run, metrics: &[String]) -> Value {
    let results = &run.results;
    let mut row = Map::new();
    row.insert("recipe".to_string(), json!(run.name));
    row.insert("seed".to_string(), json!(results.seed));
    for metric in metrics {
        row.insert(format!("valid {metric}"), results.valid.get(metric).cloned().into());
        row.insert(format!("test {metric}"), json!(run.test(metric)));
    }
    row.insert("best epoch".to_string(), json!(results.best_epoch));
    row.insert("epochs".to_string(), json!(results.epochs));
    row.insert("tokens a second".to_string(), json!(results.tokens_per_second));
    row.insert("minutes".to_string(), json!(run.minutes()));
    Value::Object(row)
}

/// Mean, and deviation of one value; `None` where there are none, or only one.
fn spread(values: impl Iterator<Item = f64>) -> (Option<f64>, Option<f64>) {
    let values: Vec<f64> = values.collect();
    let count = values.len() as f64;
    if values.is_empty() {
        return (None, None);
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (Some(mean), (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(spread([].into_iter()), (None, None));
        assert_eq!(spread([0.5].into_iter()), (Some(0.5), None));
        assert_eq!(spread([1.0, 2.0, 3.0].into_iter()), (Some(2.0), Some(1.0)));
    }
}
