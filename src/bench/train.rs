//! Real tokens a second of whole training steps: loading, masking, optimizer included.

use super::bars::Bars;
use super::machine;
use super::rates::{Rates, median, median_of};
use super::report::Report;
use super::workload::Workload;
use super::{case, settings::Settings};
use crate::Result;
use crate::batch::loader::prefetch;
use crate::cpu::CpuEngine;
use crate::model::engine::{Engine, Step};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps before those that are measured.
const WARM_UP: u64 = 3;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Sizes and histories.
    pub workload: Workload,
    /// Threads.
    pub threads: usize,
    /// Measured steps.
    pub steps: u64,
    /// Dropout of attention probabilities.
    pub attention_dropout: f64,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `V`
    pub items: usize,
    /// Histories.
    pub users: usize,
    /// Number of weights.
    pub parameters: usize,
    /// Median of the steps.
    pub milliseconds_a_step: f64,
    /// `T`, on average.
    pub tokens_a_step: f64,
    /// `P`, on average.
    pub rows_a_step: f64,
    /// All tokens over all time.
    pub tokens_a_second: f64,
    /// FLOPs a token that the model needs, forward and backward.
    pub flops_a_token: f64,
    /// Largest resident set of the process, data included.
    pub peak_bytes: u64,
    /// Of the last step.
    pub loss: f64,
}

/// A line of the report: one case, over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Preset, and its sizes as they were.
    pub config: String,
    /// `V`
    pub items: usize,
    /// Histories.
    pub users: usize,
    /// `L`
    pub max_len: usize,
    /// `D`
    pub hidden_size: usize,
    /// `B`
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Dropout of attention probabilities.
    pub attention_dropout: f64,
    /// Median of the rounds' medians.
    pub ms_a_step: f64,
    /// `T`, on average.
    pub tokens_a_step: f64,
    /// Median of the rounds.
    pub tokens_a_second: f64,
    /// Needed GFLOP/s at that rate.
    pub gflops: f64,
    /// That over the measured rate of matrix products on as many threads.
    pub utilisation: f64,
    /// Largest resident set of the process, data included.
    pub peak_mib: f64,
    /// Of the last step.
    pub loss: f64,
}

impl Row {
    /// Medians of the rounds of a case.
    pub fn new(case: &Case, rounds: &[Measured], gemm_gflops: f64) -> Self {
        let middle = |of: fn(&Measured) -> f64| median_of(rounds, of);
        let (workload, tokens_a_second) = (&case.workload, middle(|m| m.tokens_a_second));
        let gflops = tokens_a_second * middle(|m| m.flops_a_token) / 1e9;
        Row {
            config: workload.name.clone(),
            items: rounds.first().map_or(0, |m| m.items),
            users: rounds.first().map_or(0, |m| m.users),
            max_len: workload.max_len,
            hidden_size: workload.hidden_size,
            batch: workload.sequences,
            threads: case.threads,
            attention_dropout: case.attention_dropout,
            ms_a_step: middle(|m| m.milliseconds_a_step),
            tokens_a_step: middle(|m| m.tokens_a_step),
            tokens_a_second,
            gflops,
            utilisation: gflops / gemm_gflops,
            peak_mib: middle(|m| m.peak_bytes as f64) / f64::from(1 << 20),
            loss: middle(|m| m.loss),
        }
    }
}

/// FLOPs a token that a training step needs, forward and backward, with r = P / T and l = Σ length² / Σ length:
/// 3 [(N-1)(8D² + 4lD + 4DF) + 4D² + r(4D² + 4lD + 4DF) + r(2D² + 2DV)].
pub fn flops_a_token(workload: &Workload, items: usize, r: f64, l: f64) -> f64 {
    let [n, d, v] = [workload.n_layers, workload.hidden_size, items].map(|size| size as f64);
    let f = 4.0 * d;
    let layer = 8.0 * d * d + 4.0 * l * d + 4.0 * d * f;
    let last = 4.0 * d * d + r * (4.0 * d * d + 4.0 * l * d + 4.0 * d * f);
    3.0 * ((n - 1.0) * layer + last + r * (2.0 * d * d + 2.0 * d * v))
}

/// Measures a case in this process.
///
/// # Errors
/// Those of the histories and of the engine.
pub fn measure(case: &Case) -> Result<Measured> {
    let Case { workload, threads, steps, attention_dropout } = case;
    let histories = workload.histories()?;
    let (items, users) = (histories.items, histories.sequences.len());
    let source = Arc::new(workload.batches(&histories)?);
    let (model, config) = (workload.model(*attention_dropout), workload.train());
    let mut engine = CpuEngine::new(&model, &config, items, *threads)?;
    let (mut seconds, mut tokens, mut rows, mut squares) = (Vec::new(), 0, 0, 0.0);
    let (mut number, mut epoch, mut loss) = (0, 0, 0.0);
    while (seconds.len() as u64) < *steps {
        let mut loader = prefetch(source.clone(), epoch, 0)?;
        epoch += 1;
        while (seconds.len() as u64) < *steps {
            let start = Instant::now();
            let Some(batch) = loader.next() else { break };
            number += 1;
            engine.train_step(&batch, &Step { number, seed: 1, learning_rate: 1e-3 })?;
            for outcome in engine.outcomes(false)? {
                loss = outcome.loss;
            }
            if number > WARM_UP {
                seconds.push(start.elapsed().as_secs_f64());
                tokens += batch.token_count();
                rows += batch.row_count();
                let lengths = batch.cu_seqlens.windows(2).map(|pair| f64::from(pair[1] - pair[0]));
                squares += lengths.map(|length| length * length).sum::<f64>();
            }
            loader.recycle(batch);
        }
    }
    let (total, count) = (seconds.iter().sum::<f64>(), seconds.len() as f64);
    let (tokens, rows) = (tokens as f64, rows as f64);
    Ok(Measured {
        items,
        users,
        parameters: engine.table().total,
        milliseconds_a_step: 1e3 * median(&mut seconds),
        tokens_a_step: tokens / count,
        rows_a_step: rows / count,
        tokens_a_second: tokens / total,
        flops_a_token: flops_a_token(workload, items, rows / tokens, squares / tokens),
        peak_bytes: machine::peak_resident(),
        loss,
    })
}

/// Measures all cases, each in a process of its own, in turn for each round.
///
/// # Errors
/// Those of [`case::Case::measure`].
pub fn rounds(cases: &[Case], rounds: u64, limit: Duration) -> Result<Vec<Vec<Measured>>> {
    let mut measured = vec![Vec::new(); cases.len()];
    for round in 1..=rounds {
        for (case, measured) in cases.iter().zip(&mut measured) {
            let outcome: Measured = case::Case::Train(case.clone()).measure(limit)?;
            eprintln!(
                "round {round}: {}, threads {}, attention dropout {}: {:.0} tokens/s",
                case.workload.name, case.threads, case.attention_dropout, outcome.tokens_a_second
            );
            measured.push(outcome);
        }
    }
    Ok(measured)
}

/// `b4r-bench train`.
///
/// # Errors
/// Those of the measurement.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let settings = Settings::new(arguments);
    let mut report = Report::new("train");
    let mut cases = Vec::new();
    for workload in Workload::from_arguments(arguments)? {
        for &attention_dropout in &settings.attention_dropouts {
            let (workload, Settings { threads, steps, .. }) = (workload.clone(), settings.clone());
            cases.push(Case { workload, threads, steps, attention_dropout });
        }
    }
    let measured = rounds(&cases, settings.rounds, settings.limit)?;
    let rates = Rates::measure(settings.threads)?;
    let rows: Vec<Row> = cases
        .iter()
        .zip(&measured)
        .map(|(case, rounds)| Row::new(case, rounds, rates.gemm_gflops))
        .collect();
    report.chart(Bars {
        title: "Training, real tokens a second".to_string(),
        groups: rows
            .iter()
            .map(|row| (label(row), vec![("b4r".to_string(), row.tokens_a_second)]))
            .collect(),
    });
    report.table("train", &rows);
    report.table("rates", &[rates]);
    report.note(
        "Whole steps: loading, masking and optimizer included; tokens are items and masks, never pads. \
         utilisation: needed FLOPs (docs/performance.md) over the rate of gemm in this run.",
    );
    report.write(arguments)
}

fn label(row: &Row) -> String {
    format!("{}, attention dropout {}", row.config, row.attention_dropout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/performance.md: millions of FLOPs a token.
    #[test]
    fn needed_flops_are_those_of_the_documents() {
        for (name, r, l, expected) in [("A", 0.2, 47.0, 0.57e6), ("C", 0.2, 12.0, 1.2e6)] {
            let workload = Workload::preset(name).unwrap();
            let flops = flops_a_token(&workload, workload.items, r, l);
            assert!((flops / expected - 1.0).abs() < 0.3, "{name}: {flops:e}");
        }
    }
}
