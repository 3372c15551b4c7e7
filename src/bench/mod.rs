//! What `b4r-bench` measures, models and compares.

pub mod presets;
pub mod roofline;
pub mod runs;
pub mod train;

use crate::Result;
use clap::{Arg, ArgMatches, Command, value_parser};

/// The command line of `b4r-bench`.
pub fn command() -> Command {
    Command::new("b4r-bench")
        .version(clap::crate_version!())
        .about("Measures b4r on generated sequences, models what a GPU could do at best, and compares runs")
        .subcommand_required(true)
        .subcommand(runs::command())
        .subcommand(
            Command::new("train")
                .about("Real tokens a second of whole training steps: loading, masking, optimizer")
                .arg(configs())
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
        .subcommand(
            Command::new("roofline")
                .about("A model, not a measurement: bytes, FLOPs and least time of every CUDA kernel of a step")
                .arg(configs())
                .arg(
                    Arg::new("chip")
                        .long("chip")
                        .default_value("A100")
                        .value_parser(roofline::CHIPS.map(|chip| chip.name))
                        .help("Whose peak rates to take"),
                ),
        )
}

/// Does what the command line says.
///
/// # Errors
/// Those of the subcommand.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let Some((subcommand, arguments)) = matches.subcommand() else { return Ok(()) };
    if subcommand == "runs" {
        return runs::run(arguments);
    }
    let names = arguments.get_one::<String>("configs").map_or("", String::as_str).split(',');
    if subcommand == "roofline" {
        let chip = arguments.get_one::<String>("chip").map_or("", String::as_str);
        return names.into_iter().try_for_each(|name| roofline::print(name, chip));
    }
    let [threads, steps] =
        ["threads", "steps"].map(|key| *arguments.get_one::<u64>(key).unwrap_or(&0));
    let dropout = *arguments.get_one::<f64>("attention-dropout").unwrap_or(&0.0);
    names.into_iter().try_for_each(|name| train::train(name, threads as usize, steps, dropout))
}

fn configs() -> Arg {
    Arg::new("configs")
        .long("configs")
        .default_value("A,B,C,D")
        .help("A: ml-100k shape; B: ml-1m; C: Beauty (short histories); D: ML-20M, width 256")
}

fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u64)).help(help)
}
