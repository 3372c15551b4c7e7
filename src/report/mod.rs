//! `report.html`: a run in one file to look at, with no script and nothing fetched from anywhere.
//!
//! It is made from `config.yaml`, `metrics.jsonl` and `results.json` alone, so it can be made again at any time.

mod charts;
mod page;

use crate::config::{self, Config};
use crate::train::files;
use crate::train::metrics_log::{self, Line};
use crate::train::progress::say;
use crate::train::results::Results;
use crate::train::rundir::{CONFIG, METRICS, REPORT, RESULTS};
use crate::{Error, Result};
use std::path::Path;

/// What a finished run says about itself.
#[derive(Clone, Debug)]
pub struct Record {
    /// `config.yaml`.
    pub config: Config,
    /// `metrics.jsonl`.
    pub lines: Vec<Line>,
    /// `results.json`.
    pub results: Results,
}

impl Record {
    /// Reads it from a run directory.
    ///
    /// # Errors
    /// [`Error::Input`], [`Error::Config`] or [`Error::Io`] where a file is missing or none of ours.
    pub fn read(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(RESULTS);
        let remedy = "give the directory of a run that has ended; `--resume` ends one that has not";
        if !path.is_file() {
            return Err(Error::input(&path, "there is no such file", remedy));
        }
        let results = Results::read(&path).ok_or_else(|| {
            Error::input(&path, "not the results of a run of this program", remedy)
        })?;
        let config = config::read(&run_dir.join(CONFIG))?;
        Ok(Record { config, lines: metrics_log::read(&run_dir.join(METRICS))?, results })
    }
}

/// Writes the report of the finished run in `run_dir`, replacing the one before at once.
///
/// # Errors
/// Those of [`Record::read`]; [`Error::Io`] when the disk refuses.
pub fn write(run_dir: &Path) -> Result<()> {
    let record = Record::read(run_dir)?;
    let path = run_dir.join(REPORT);
    let charts = charts::of(&record).map_err(|error| Error::io("draw", &path)(error))?;
    let page = page::render(&record, &charts).into_string();
    files::replace(&path, |out| out.write_all(page.as_bytes()))
}

/// [`write()`] for a run that is not to fail at its very end: what goes wrong is said, and the run stands.
pub fn write_or_say(run_dir: &Path) {
    match write(run_dir) {
        Ok(()) => say(format_args!("report: {}", run_dir.join(REPORT).display())),
        Err(error) => {
            say(format_args!("the run is complete, but its report could not be made: {error}"))
        }
    }
}
