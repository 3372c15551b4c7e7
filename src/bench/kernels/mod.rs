//! `b4r-bench kernels`: each operation by itself, against what the machine can do at best.

mod gpu; // CUDA kernels, by events and by replays
mod network; // operations of the passes, timed as a step calls them
mod whole; // operations on whole batches
mod work; // FLOPs and bytes of each

use super::bars::Bars;
use super::rates::Rates;
use super::report::Report;
use super::roofline::Shape;
use super::settings::Settings;
use super::workload::Workload;
use crate::Result;
use clap::ArgMatches;
use serde::Serialize;
use work::Work;

/// An operation, over a whole step.
#[derive(Serialize)]
struct Row {
    config: String,
    operation: String,
    milliseconds: f64,
    gflop: f64,
    megabytes: f64,
    /// `None` where there is no matrix product.
    gflops: Option<f64>,
    gbs: f64,
    /// What binds it at the measured rates.
    limit: &'static str,
    /// The least time at these rates over the time it took.
    roofline_share: f64,
}

/// What an operation took.
struct Timed {
    operation: String,
    seconds: f64,
}

/// `b4r-bench kernels`.
///
/// # Errors
/// Those of the histories and of the engine.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let settings = Settings::new(arguments);
    let (threads, repeats) = (settings.threads, settings.steps as usize);
    let attention_dropout = settings.attention_dropouts[0];
    let mut report = Report::new("kernels");
    let rates = Rates::measure(threads)?;
    let (mut rows, mut gpu) = (Vec::new(), Vec::new());
    let chip = arguments.get_one::<String>("chip").map_or("", String::as_str);
    for workload in Workload::from_arguments(arguments)? {
        let (batch, items) = workload.first_batch()?;
        let model = workload.model(attention_dropout);
        let shape = Shape::new(&batch, &model, items);
        let mut timed = network::measure(&model, &batch, items, threads, repeats)?;
        timed.extend(whole::measure(&model, &batch, items, threads, repeats)?);
        let segments = batch.token_segments.keys.len();
        let work = work::of(&shape, segments, network::absorbed(&model, &batch));
        rows.extend(timed.into_iter().filter_map(|timed| {
            let work = work.iter().find(|work| work.operation == timed.operation)?;
            Some(row(&workload, work, timed.seconds, &rates))
        }));
        let on_gpu = match arguments.get_one::<u64>("gpu") {
            Some(&number) => {
                Some(gpu::measure(number as u32, &workload, &model, &batch, items, repeats)?)
            }
            None => None,
        };
        gpu.extend(gpu::rows(&workload, &shape, chip, on_gpu.as_ref()));
        eprintln!("{}: measured", workload.name);
    }
    report.chart(Bars {
        title: "Operations of the CPU engine, milliseconds a step".to_string(),
        groups: rows
            .chunk_by(|a, b| a.config == b.config)
            .map(|rows| {
                let bars = rows.iter().map(|row| (row.operation.clone(), row.milliseconds));
                (rows[0].config.clone(), bars.collect())
            })
            .collect(),
    });
    report.table("kernels", &rows);
    report.table("rates", &[rates]);
    report.table("cuda", &gpu);
    report.note(
        "One step's worth of each operation, on all threads; the median of the repeats. FLOPs are those of matrix \
         products, bytes each operand and result once: what caches save is not taken off, and exponentials are not \
         counted. roofline share: the least time at the rates measured in this run over the time it took. The layers' \
         norms are part of projection and ffn; layernorm is one over all tokens. absorbed_attention: qkv and attention of \
         the last layer, where it does without keys and values. CUDA: least times of a step's kernels \
         from the batch's shapes at the chip's peak rates; where it says \"model\", nothing was measured. Measured: events \
         around each launch in bf16, and under \"whole step\" replays of the captured graph.",
    );
    report.write(arguments)
}

fn row(workload: &Workload, work: &Work, seconds: f64, rates: &Rates) -> Row {
    let least = [work.flops / (1e9 * rates.gemm_gflops), work.bytes / (1e9 * rates.memory_gbs)];
    Row {
        config: workload.name.clone(),
        operation: work.operation.to_string(),
        milliseconds: 1e3 * seconds,
        gflop: work.flops / 1e9,
        megabytes: work.bytes / 1e6,
        gflops: (work.flops > 0.0).then(|| work.flops / seconds / 1e9),
        gbs: work.bytes / seconds / 1e9,
        limit: if least[0] >= least[1] { "products" } else { "memory" },
        roofline_share: least[0].max(least[1]) / seconds,
    }
}
