//! `b4r-train`: from an interaction file to a trained model.

use std::io::Write;
use std::process::ExitCode;

use b4r::config::{self, Invocation};
use b4r::train;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves only the exit code to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> b4r::Result<()> {
    match config::invocation(std::env::args_os().skip(1))? {
        Invocation::Text(text) => {
            // Closed early by a pager: nothing is lost.
            let _ = text.print();
            Ok(())
        }
        Invocation::Run(resolved) => {
            for note in &resolved.notes {
                let _ = writeln!(std::io::stderr(), "{note}");
            }
            if !resolved.explain {
                return train::run(&resolved.config);
            }
            let _ = write!(std::io::stdout(), "{}", config::explain(&resolved));
            // Only the data tells these; it may have to be downloaded first.
            let plan = train::explain(&resolved.config)?;
            let _ = writeln!(std::io::stdout(), "{plan}");
            Ok(())
        }
    }
}
