//! What `b4r-bench` measures, models and compares.

pub mod bars;
pub mod case;
pub mod child;
pub mod compare;
pub mod eval;
pub mod kernels;
pub mod machine;
pub mod prepare;
pub mod rates;
pub mod recipes;
pub mod report;
pub mod roofline;
pub mod runs;
pub mod scaling;
pub mod settings;
pub mod train;
pub mod twin;
pub mod workload;

use crate::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use settings::{attention_dropout, configs, number, threads, timeout};
use std::path::PathBuf;
use workload::Workload;

/// The command line of `b4r-bench`.
pub fn command() -> Command {
    Command::new("b4r-bench")
        .version(clap::crate_version!())
        .about(
            "Measures b4r on generated or given histories, compares it with PyTorch, models what a GPU could do at \
             best, and compares runs",
        )
        .subcommand_required(true)
        .subcommand(runs::command())
        .subcommand(train_command())
        .subcommand(kernels_command())
        .subcommand(eval_command())
        .subcommand(prepare_command())
        .subcommand(scaling_command())
        .subcommand(compare_command())
        .subcommand(recipes::command())
        .subcommand(
            Command::new("roofline")
                .about("A model, not a measurement: bytes, FLOPs and least time of every CUDA kernel of a step")
                .arg(configs("A,B,C,D"))
                .arg(chip()),
        )
        .subcommand(
            Command::new("case")
                .hide(true)
                .about("One measurement, as the other subcommands ask for it")
                .arg(Arg::new("case").required(true)),
        )
}

fn train_command() -> Command {
    Command::new("train")
        .about("Real tokens a second of whole training steps: loading, masking, optimizer")
        .arg(configs("A,B,C,D"))
        .arg(threads())
        .arg(number("steps", "30", "Measured steps, after three that are not"))
        .arg(number(
            "rounds",
            "1",
            "Measurements of each case, in turn; the report has their medians",
        ))
        .arg(attention_dropout("0"))
        .arg(timeout())
        .args(Workload::arguments())
        .args(report::arguments())
}

fn kernels_command() -> Command {
    Command::new("kernels")
        .about("Each operation of the CPU engine against the roofline of this machine; of CUDA kernels the model")
        .arg(configs("A,B,C,D"))
        .arg(threads())
        .arg(number("steps", "10", "Repeats; their median counts"))
        .arg(attention_dropout("0.1"))
        .arg(chip())
        .arg(
            Arg::new("gpu")
                .long("gpu")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64).range(..256))
                .help("Measure the CUDA kernels of a training step on this GPU too"),
        )
        .args(Workload::arguments())
        .args(report::arguments())
}

fn chip() -> Arg {
    Arg::new("chip")
        .long("chip")
        .default_value("A100")
        .value_parser(roofline::CHIPS.map(|chip| chip.name))
        .help("GPU whose peak rates the model takes")
}

fn eval_command() -> Command {
    Command::new("eval")
        .about("Users a second of ranking, among all items and among negatives")
        .arg(configs("A,B,C,D"))
        .arg(threads())
        .arg(Arg::new("modes").long("modes").default_value("full,uni100,pop100").help(
            "full, uniN (N negatives drawn uniformly), popN (by popularity), with commas between",
        ))
        .arg(number("most-users", "6040", "Users to rank at most"))
        .arg(number("steps", "5", "Passes; their median counts"))
        .arg(timeout())
        .args(Workload::arguments())
        .args(report::arguments())
}

fn prepare_command() -> Command {
    Command::new("prepare")
        .about("Rows a second from an interaction file to sequences, split and first batch")
        .arg(
            Arg::new("dataset")
                .long("dataset")
                .value_name("FILE or NAME")
                .help("What b4r-train takes; otherwise a file with drawn histories"),
        )
        .arg(configs("B"))
        .arg(number("steps", "5", "Repeats; their median counts"))
        .args(Workload::arguments())
        .args(report::arguments())
}

fn scaling_command() -> Command {
    Command::new("scaling")
        .about("Time and memory over users, over items, and over threads")
        .arg(
            Arg::new("over")
                .long("over")
                .default_value("users,items,threads")
                .value_delimiter(',')
                .value_parser(["users", "items", "threads"])
                .help("What is varied, with commas between"),
        )
        .arg(number("largest", "1000000", "Most users, and most items; from a thousand on by tens"))
        .arg(threads())
        .arg(number("steps", "10", "Measured steps, after three that are not"))
        .arg(number(
            "rounds",
            "1",
            "Measurements of each case, in turn; the report has their medians",
        ))
        .arg(timeout())
        .args(report::arguments())
}

fn compare_command() -> Command {
    Command::new("compare")
        .about("b4r beside a lean PyTorch BERT4Rec (benches/peers/torch_b4r.py), in turn on the same sequences")
        .arg(
            Arg::new("python")
                .long("python")
                .required(true)
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Python with PyTorch 2.9 and NumPy"),
        )
        .arg(configs("A,B,C,D"))
        .arg(threads())
        .arg(
            number("steps", "20", "Measured steps, after three that are not: one number or, with commas between, one for each configuration")
                .value_delimiter(','),
        )
        .arg(number("rounds", "3", "Rounds over all that is compared; the report has their medians"))
        .arg(attention_dropout("0,0.1"))
        .arg(
            Arg::new("variants")
                .long("variants")
                .default_value("padded,compiled,bucketed")
                .value_delimiter(',')
                .value_parser(twin::VARIANTS.map(|variant| variant.name))
                .help("How PyTorch trains: padded batches, the same through torch.compile, or bucketed by length"),
        )
        .arg(
            Arg::new("eval")
                .long("eval")
                .action(ArgAction::SetTrue)
                .help("Compare users a second of full ranking too"),
        )
        .arg(number("most-users", "1024", "Users to rank at most"))
        .arg(timeout())
        .args(Workload::arguments())
        .args(report::arguments())
}

/// Does what the command line says.
///
/// # Errors
/// Those of the subcommand.
pub fn run(matches: &ArgMatches) -> Result<()> {
    match matches.subcommand() {
        Some(("runs", arguments)) => runs::run(arguments),
        Some(("train", arguments)) => train::run(arguments),
        Some(("kernels", arguments)) => kernels::run(arguments),
        Some(("eval", arguments)) => eval::run(arguments),
        Some(("prepare", arguments)) => prepare::run(arguments),
        Some(("scaling", arguments)) => scaling::run(arguments),
        Some(("compare", arguments)) => compare::run(arguments),
        Some(("recipes", arguments)) => recipes::run(arguments),
        Some(("case", arguments)) => {
            case::Case::run(arguments.get_one::<String>("case").map_or("", String::as_str))
        }
        Some((_, arguments)) => {
            let text = |key| arguments.get_one::<String>(key).map_or("", String::as_str);
            text("configs").split(',').try_for_each(|name| roofline::print(name, text("chip")))
        }
        None => Ok(()),
    }
}
