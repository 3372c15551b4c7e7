//! `b4r-bench`: see [`b4r::bench`].

use std::process::ExitCode;

fn main() -> ExitCode {
    match b4r::bench::run(&b4r::bench::command().get_matches()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
