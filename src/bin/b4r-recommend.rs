//! `b4r-recommend`: from histories to recommendations.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(b4r::recommend::command::run(std::env::args_os()))
}
