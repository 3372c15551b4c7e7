//! One thing to measure, in a process of its own: its peak memory is then its own, and nothing that was measured
//! before has warmed caches or taken memory.

use super::{child, eval, train};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Case {
    /// Whole training steps.
    Train(train::Case),
    /// Ranking of test rows.
    Eval(eval::Case),
}

impl Case {
    /// Measures in a new process of this program.
    ///
    /// # Errors
    /// Those of the measurement; [`Error::Io`] and [`Error::Config`] of the child process.
    pub fn measure<T: DeserializeOwned>(&self, limit: Duration) -> Result<T> {
        let program =
            std::env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
        let case = serde_json::to_string(self).map_err(not_json)?;
        let child = child::Child {
            program: &program,
            arguments: &["case", &case],
            environment: &[],
            key: "case",
            remedy: "run it by itself to see more; --timeout gives it more time",
        };
        let text = child.run(limit)?;
        serde_json::from_str(text.lines().last().unwrap_or_default()).map_err(not_json)
    }

    /// Measures the case that `text` describes, in this process, and prints what came out as one line of JSON.
    ///
    /// # Errors
    /// [`Error::Config`]; those of the measurement.
    pub fn run(text: &str) -> Result<()> {
        let outcome = match serde_json::from_str(text).map_err(not_json)? {
            Case::Train(case) => serde_json::to_string(&train::measure(&case)?),
            Case::Eval(case) => serde_json::to_string(&eval::measure(&case)?),
        };
        println!("{}", outcome.map_err(not_json)?);
        Ok(())
    }
}

fn not_json(error: serde_json::Error) -> Error {
    Error::config("case", error.to_string(), "leave `case` to the other subcommands")
}
