//! `b4r-bench`: measures the engine on generated sequences, and compares runs.

use b4r::batch::loader::prefetch;
use b4r::batch::training::TrainingBatches;
use b4r::config::{BatchSize, ModelConfig, TrainConfig};
use b4r::cpu::CpuEngine;
use b4r::data::{Sequences, Split};
use b4r::model::engine::{Engine, Step};
use b4r::philox;
use clap::{Arg, Command, value_parser};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Sizes of a measured configuration.
struct Preset {
    name: &'static str,
    items: usize,
    users: usize,
    lengths: Lengths,
    max_len: usize,
    hidden_size: usize,
    n_heads: usize,
    sequences: usize,
}

/// How history lengths are distributed.
enum Lengths {
    /// Median, mean, least.
    LogNormal(f64, f64, f64),
    /// Mean, least.
    Geometric(f64, f64),
}

const PRESETS: [Preset; 4] = [
    Preset {
        name: "A",
        items: 1682,
        users: 943,
        lengths: Lengths::LogNormal(65.0, 106.0, 20.0),
        max_len: 50,
        hidden_size: 64,
        n_heads: 2,
        sequences: 128,
    },
    Preset {
        name: "B",
        items: 3416,
        users: 6040,
        lengths: Lengths::LogNormal(96.0, 165.0, 20.0),
        max_len: 200,
        hidden_size: 64,
        n_heads: 2,
        sequences: 128,
    },
    Preset {
        name: "C",
        items: 12_101,
        users: 22_363,
        lengths: Lengths::Geometric(8.9, 3.0),
        max_len: 50,
        hidden_size: 64,
        n_heads: 2,
        sequences: 256,
    },
    Preset {
        name: "D",
        items: 26_744,
        users: 20_000,
        lengths: Lengths::LogNormal(68.0, 144.0, 20.0),
        max_len: 200,
        hidden_size: 256,
        n_heads: 8,
        sequences: 64,
    },
];

fn main() -> ExitCode {
    let matches = command().get_matches();
    let outcome = match matches.subcommand() {
        Some(("train", arguments)) => {
            let names = arguments.get_one::<String>("configs").map_or("", String::as_str);
            let [threads, steps] =
                ["threads", "steps"].map(|key| *arguments.get_one::<u64>(key).unwrap_or(&0));
            let dropout = *arguments.get_one::<f64>("attention-dropout").unwrap_or(&0.0);
            names.split(',').try_for_each(|name| train(name, threads as usize, steps, dropout))
        }
        Some(("runs", arguments)) => b4r::bench::runs::run(arguments),
        _ => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn command() -> Command {
    Command::new("b4r-bench")
        .version(clap::crate_version!())
        .about("Measures b4r on generated sequences, and compares runs")
        .subcommand_required(true)
        .subcommand(b4r::bench::runs::command())
        .subcommand(
            Command::new("train")
                .about("Real tokens a second of whole training steps: loading, masking, optimizer")
                .arg(Arg::new("configs").long("configs").default_value("A,B,C,D").help(
                    "A: ml-100k shape; B: ml-1m; C: Beauty (short histories); D: ML-20M, width 256",
                ))
                .arg(number("threads", "2", "Threads"))
                .arg(number("steps", "30", "Measured steps, after three that are not"))
                .arg(
                    Arg::new("attention-dropout")
                        .long("attention-dropout")
                        .default_value("0")
                        .value_parser(value_parser!(f64))
                        .help("Dropout of attention probabilities; hidden dropout is 0.1"),
                ),
        )
}

fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u64)).help(help)
}

fn train(name: &str, threads: usize, steps: u64, attention_dropout: f64) -> b4r::Result<()> {
    let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
        return Err(b4r::Error::config(
            "configs",
            format!("no preset `{name}`"),
            "use A, B, C or D",
        ));
    };
    let sequences = Arc::new(synthetic(preset));
    let lengths = sequences.offsets.windows(2).map(|w| (w[1] - w[0]) as u32);
    let split = Arc::new(Split {
        train_lengths: lengths.map(|n| n.min(preset.max_len as u32)).collect(),
        ..Split::default()
    });
    let model = ModelConfig {
        hidden_size: preset.hidden_size,
        n_heads: preset.n_heads,
        inner_size: 4 * preset.hidden_size,
        max_len: preset.max_len,
        hidden_dropout: 0.1,
        attention_dropout,
        ..ModelConfig::default()
    };
    let config = TrainConfig {
        batch_size: BatchSize::Sequences(preset.sequences),
        last_item_ratio: 0.0,
        weight_decay: 0.01,
        ..TrainConfig::default()
    };
    let source = Arc::new(TrainingBatches::new(sequences, split, preset.items, &model, &config)?);
    let mut engine = CpuEngine::new(&model, &config, preset.items, threads)?;
    let (mut seconds, mut tokens, mut rows, mut number, mut epoch) = (Vec::new(), 0, 0, 0, 0);
    let mut loss = 0.0;
    while (seconds.len() as u64) < steps {
        let mut loader = prefetch(source.clone(), epoch, 0)?;
        epoch += 1;
        loop {
            let start = Instant::now();
            let Some(batch) = loader.next() else { break };
            number += 1;
            loss = engine.train_step(&batch, &Step { number, seed: 1, learning_rate: 1e-3 })?.loss;
            if number > 3 {
                seconds.push(start.elapsed().as_secs_f64());
                tokens += batch.token_count();
                rows += batch.row_count();
            }
            loader.recycle(batch);
            if seconds.len() as u64 == steps {
                break;
            }
        }
    }
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{name} threads {threads} attention dropout {attention_dropout}: {:.1} ms/step (median), {:.0} tokens/s, \
         {} tokens and {} rows a step, loss {loss:.4}, peak {} MiB",
        1e3 * seconds[seconds.len() / 2],
        tokens as f64 / total,
        tokens / seconds.len(),
        rows / seconds.len(),
        b4r::memory::peak_resident() >> 20,
    );
    Ok(())
}

/// Histories whose lengths follow the preset's law and whose items fall off like real popularity.
fn synthetic(preset: &Preset) -> Sequences {
    let mut counter = 0;
    let mut uniform = || {
        counter += 1;
        philox::unit(philox::block(philox::key(7), [counter, 0, 0, 0])[0])
    };
    let weights = (0..preset.items).map(|i| (i as f64 + 10.0).powf(-0.8));
    let cumulative: Vec<f64> = weights
        .scan(0.0, |sum, w| {
            *sum += w;
            Some(*sum)
        })
        .collect();
    let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
    for _ in 0..preset.users {
        let length = match preset.lengths {
            Lengths::LogNormal(median, mean, least) => {
                let normal =
                    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
                (median.ln() + (2.0 * (mean / median).ln()).sqrt() * normal).exp().max(least)
            }
            Lengths::Geometric(mean, least) => {
                least + (uniform().ln() / (1.0 - 1.0 / (mean - least + 1.0)).ln()).floor()
            }
        };
        for _ in 0..(length as usize).min(preset.items) {
            let at = uniform() * cumulative[preset.items - 1];
            let item = cumulative.partition_point(|&c| c < at).min(preset.items - 1);
            sequences.items.push(item as u32 + 1);
        }
        sequences.offsets.push(sequences.items.len() as u64);
    }
    sequences
}
