//! b4r and PyTorch in turn, on the same sequences.

use super::bars::Bars;
use super::rates::{median, median_of, product_gflops};
use super::report::Report;
use super::settings::Settings;
use super::twin::{Trained, Twin, VARIANTS, Variant};
use super::workload::Workload;
use super::{case, eval, train};
use crate::{Error, Result};
use clap::ArgMatches;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One configuration with one attention dropout: medians of all rounds.
#[derive(Serialize)]
struct Row {
    config: String,
    attention_dropout: f64,
    threads: usize,
    b4r_tokens_a_second: f64,
    /// Needed FLOPs over the better of the products' rates.
    b4r_utilisation: f64,
    gemm_gflops: f64,
    pytorch_gflops: f64,
    /// The better of eager and compiled.
    padded_tokens_a_second: Option<f64>,
    padded_by: Option<&'static str>,
    bucketed_tokens_a_second: Option<f64>,
    times_padded: Option<f64>,
    times_bucketed: Option<f64>,
    b4r_peak_mib: f64,
    /// The least of its variants.
    pytorch_peak_mib: Option<f64>,
    memory_share: Option<f64>,
}

/// One measurement.
#[derive(Serialize)]
struct Single {
    round: u64,
    config: String,
    attention_dropout: f64,
    by: &'static str,
    tokens_a_second: f64,
    peak_mib: f64,
}

#[derive(Serialize)]
struct Ranked {
    config: String,
    users: usize,
    threads: usize,
    b4r_users_a_second: f64,
    pytorch_users_a_second: f64,
    times: f64,
}

/// What large products do in a round of a configuration.
#[derive(Serialize)]
struct Products {
    round: u64,
    config: String,
    attention_dropout: f64,
    gemm_gflops: f64,
    pytorch_gflops: f64,
}

/// All measurements, in the order in which they were taken.
#[derive(Default)]
struct Singles {
    training: Vec<Single>,
    products: Vec<Products>,
}

/// What is compared on one file of sequences.
struct Comparison<'a> {
    twin: &'a Twin,
    variants: Vec<Variant>,
    settings: Settings,
    workload: Workload,
}

/// `b4r-bench compare`.
///
/// # Errors
/// Those of both sides.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let settings = Settings::new(arguments);
    let workloads = Workload::from_arguments(arguments)?;
    let steps = steps_of_each(arguments, workloads.len())?;
    let python = arguments.get_one::<PathBuf>("python").map_or(Path::new(""), PathBuf::as_path);
    let twin = Twin::new(python)?;
    let named: Vec<&String> = arguments.get_many("variants").into_iter().flatten().collect();
    let variants =
        VARIANTS.into_iter().filter(|variant| named.iter().any(|name| *name == variant.name));
    let variants: Vec<Variant> = variants.collect();
    let mut report = Report::new("compare");
    let folder = tempfile::tempdir().map_err(Error::io("make", Path::new("a temporary folder")))?;
    let (mut rows, mut singles, mut ranked) = (Vec::new(), Singles::default(), Vec::new());
    for (mut workload, steps) in workloads.into_iter().zip(steps) {
        let data = folder.path().join(format!("{}.inter", workload.name));
        workload.histories()?.write(&data)?;
        workload.data = Some(data);
        let comparison = Comparison {
            twin: &twin,
            variants: variants.clone(),
            settings: Settings { steps, ..settings.clone() },
            workload,
        };
        for &attention_dropout in &settings.attention_dropouts {
            rows.push(comparison.train(attention_dropout, &mut singles)?);
        }
        if arguments.get_flag("eval") {
            let most_users = *arguments.get_one::<u64>("most-users").unwrap_or(&u64::MAX);
            ranked.push(comparison.evaluate(most_users as usize)?);
        }
    }
    report.chart(chart(&rows));
    report.table("training", &rows);
    if !ranked.is_empty() {
        report.table("evaluation", &ranked);
    }
    report.table("products", &singles.products);
    report.table("measurements", &singles.training);
    report.note(format!(
        "PyTorch {}. Both sides read one file of sequences, mask a fifth of the items and have a hidden dropout of 0.1; \
         loading, masking and optimizer are included. PyTorch's last layer works at every token, ours where it is read. \
         utilisation: needed FLOPs over the better of gemm's and PyTorch's product of 2048 x 2048 matrices, measured in \
         each round between the others, medians all. Peak memory: each measurement is a process of its own; PyTorch's is \
         the least of its variants.",
        twin.torch
    ));
    report.write(arguments)
}

/// Measured steps of each of `count` configurations: one number for all, or one for each.
fn steps_of_each(arguments: &ArgMatches, count: usize) -> Result<Vec<u64>> {
    let given: Vec<u64> = arguments.get_many("steps").into_iter().flatten().copied().collect();
    match given[..] {
        [steps] => Ok(vec![steps; count]),
        _ if given.len() == count => Ok(given),
        _ => Err(Error::config(
            "steps",
            format!("has {} numbers for {count} configurations", given.len()),
            "give one number, or one for each configuration",
        )),
    }
}

impl Comparison<'_> {
    fn train(&self, attention_dropout: f64, singles: &mut Singles) -> Result<Row> {
        let Settings { threads, steps, rounds, limit, .. } = self.settings;
        let case =
            train::Case { workload: self.workload.clone(), threads, steps, attention_dropout };
        let mut ours: Vec<train::Measured> = Vec::new();
        let mut theirs: Vec<Vec<Trained>> = vec![Vec::new(); self.variants.len()];
        let mut products = Vec::new();
        for round in 1..=rounds {
            products.push(Products {
                round,
                config: self.workload.name.clone(),
                attention_dropout,
                gemm_gflops: product_gflops(threads)?,
                pytorch_gflops: self.twin.matmul(threads, limit)?,
            });
            let mut note = |by: &'static str, tokens_a_second: f64, peak_bytes: u64| {
                let (config, peak_mib) = (self.workload.name.clone(), mebibytes(peak_bytes as f64));
                eprintln!(
                    "round {round}: {config}, attention dropout {attention_dropout}, {by}: {tokens_a_second:.0} tokens/s"
                );
                singles.training.push(Single {
                    round,
                    config,
                    attention_dropout,
                    by,
                    tokens_a_second,
                    peak_mib,
                });
            };
            let measured: train::Measured = case::Case::Train(case.clone()).measure(limit)?;
            note("b4r", measured.tokens_a_second, measured.peak_bytes);
            ours.push(measured);
            for (variant, theirs) in self.variants.iter().zip(&mut theirs) {
                let trained = self.twin.train(&case, *variant, limit)?;
                note(variant.name, trained.tokens_a_second, trained.peak_bytes);
                theirs.push(trained);
            }
        }
        let row = self.row(&case, &ours, &theirs, &products);
        singles.products.append(&mut products);
        Ok(row)
    }

    fn row(
        &self,
        case: &train::Case,
        ours: &[train::Measured],
        theirs: &[Vec<Trained>],
        products: &[Products],
    ) -> Row {
        let gemm_gflops = median_of(products, |round| round.gemm_gflops);
        let pytorch_gflops = median_of(products, |round| round.pytorch_gflops);
        let own = train::Row::new(case, ours, gemm_gflops.max(pytorch_gflops));
        let speeds: Vec<(Variant, f64)> = self
            .variants
            .iter()
            .zip(theirs)
            .map(|(variant, rounds)| {
                (*variant, median_of(rounds, |trained| trained.tokens_a_second))
            })
            .collect();
        let best = |bucketed: bool| {
            let of = speeds.iter().filter(|(variant, _)| (variant.name == "bucketed") == bucketed);
            of.max_by(|a, b| a.1.total_cmp(&b.1)).copied()
        };
        let (padded, bucketed) = (best(false), best(true));
        let peaks =
            theirs.iter().map(|rounds| median_of(rounds, |trained| trained.peak_bytes as f64));
        let peak = peaks.min_by(f64::total_cmp).map(mebibytes);
        let speed = |found: Option<(Variant, f64)>| found.map(|(_, speed)| speed);
        let times = |found| speed(found).map(|speed| own.tokens_a_second / speed);
        Row {
            config: own.config,
            attention_dropout: own.attention_dropout,
            threads: own.threads,
            b4r_tokens_a_second: own.tokens_a_second,
            b4r_utilisation: own.utilisation,
            gemm_gflops,
            pytorch_gflops,
            padded_tokens_a_second: speed(padded),
            padded_by: padded.map(|(variant, _)| variant.name),
            bucketed_tokens_a_second: speed(bucketed),
            times_padded: times(padded),
            times_bucketed: times(bucketed),
            b4r_peak_mib: own.peak_mib,
            pytorch_peak_mib: peak,
            memory_share: peak.map(|peak| own.peak_mib / peak),
        }
    }

    fn evaluate(&self, most_users: usize) -> Result<Ranked> {
        let Settings { threads, rounds, limit, .. } = self.settings;
        let case = eval::Case {
            workload: self.workload.clone(),
            threads,
            mode: "full".to_string(),
            most_users,
            // As many as the script does.
            repeats: 3,
        };
        let (mut ours, mut theirs, mut users) = (Vec::new(), Vec::new(), 0);
        for round in 1..=rounds {
            let measured: eval::Measured = case::Case::Eval(case.clone()).measure(limit)?;
            let pytorch = self.twin.evaluate(&self.workload, threads, measured.users, limit)?;
            eprintln!(
                "round {round}: {}, evaluation: b4r {:.0}, PyTorch {pytorch:.0} users/s",
                self.workload.name, measured.users_a_second
            );
            ours.push(measured.users_a_second);
            theirs.push(pytorch);
            users = measured.users;
        }
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        Ok(Ranked {
            config: self.workload.name.clone(),
            users,
            threads,
            b4r_users_a_second: ours,
            pytorch_users_a_second: theirs,
            times: ours / theirs,
        })
    }
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn chart(rows: &[Row]) -> Bars {
    let group = |row: &Row| {
        let bars = [
            ("b4r", Some(row.b4r_tokens_a_second)),
            ("PyTorch, padded", row.padded_tokens_a_second),
            ("PyTorch, bucketed", row.bucketed_tokens_a_second),
        ];
        let bars = bars.into_iter().filter_map(|(name, speed)| Some((name.to_string(), speed?)));
        (format!("{}, attention dropout {}", row.config, row.attention_dropout), bars.collect())
    };
    let title = "Training on the CPU, real tokens a second".to_string();
    Bars { title, groups: rows.iter().map(group).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_given_once_or_for_each_configuration() {
        let steps = |given: &str| {
            let line = ["b4r-bench", "compare", "--python", "python", "--steps", given];
            let matches = crate::bench::command().try_get_matches_from(line).unwrap();
            steps_of_each(matches.subcommand().unwrap().1, 3)
        };
        assert_eq!(steps("7").unwrap(), [7, 7, 7]);
        assert_eq!(steps("40,20,6").unwrap(), [40, 20, 6]);
        let refused = steps("40,20").unwrap_err().to_string();
        assert!(refused.contains("2 numbers for 3 configurations"), "{refused}");
    }
}
