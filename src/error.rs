//! One error type for the crate: every variant carries what the reader needs to mend the cause.

use std::io;
use std::path::{Path, PathBuf};

/// Result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A data file cannot be used. `line` and `column` count from 1.
    #[error("{}{}: {problem}\n  remedy: {remedy}", path.display(), place(*line, column.as_deref()))]
    Input {
        /// The file.
        path: PathBuf,
        /// Line number, from 1, where one line is at fault.
        line: Option<u64>,
        /// Column name or number, where one column is at fault.
        column: Option<String>,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// A configuration key (or flag) has an unusable value, or is unknown.
    #[error("{key}: {problem}\n  remedy: {remedy}")]
    Config {
        /// The key as the user would write it.
        key: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// A named data set could be found nowhere.
    #[error("data set `{name}` is not at hand\n{tried}\n  remedy: {remedy}")]
    DatasetUnavailable {
        /// Name as given by the user.
        name: String,
        /// One line for each place tried and why it failed.
        tried: String,
        /// How to place the file by hand.
        remedy: String,
    },
    /// The run needs more memory than the machine can give.
    #[error("{what} needs {needed} bytes of memory, {available} are available\n  remedy: {remedy}")]
    Memory {
        /// What needs the memory.
        what: String,
        /// Bytes needed.
        needed: u128,
        /// Bytes available.
        available: u64,
        /// What the user can do.
        remedy: String,
    },
    /// The operating system refused a read or write in the middle of a run.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb phrase, such as `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// A checkpoint or model file is unreadable, damaged or does not fit this run.
    #[error("{}: {problem}\n  remedy: {remedy}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// The GPU, its driver or a kernel refused.
    #[error("cannot {action}: {problem}")]
    Device {
        /// Verb phrase that names the kernel, the buffer or the device.
        action: String,
        /// What is wrong, with sizes where they matter.
        problem: String,
    },
    /// Loss, gradient or weights became NaN or infinite; no checkpoint holds them.
    #[error(
        "step {step}: {tensor} is not finite (learning rate {learning_rate:e})\n  \
         remedy: lower learning_rate, or set clip_grad_norm; the last checkpoint, if any, is intact"
    )]
    NonFinite {
        /// Optimizer step, from 1.
        step: u64,
        /// `loss`, the gradient of a parameter, or a parameter.
        tensor: String,
        /// Learning rate of the step.
        learning_rate: f32,
    },
    /// A signal asked the run to stop; its state was saved.
    #[error("stopped by signal {signal}; continue with --resume")]
    Interrupted {
        /// Signal number (2 for Ctrl-C, 15 for SIGTERM).
        signal: i32,
    },
}

impl Error {
    /// Process exit code: 2 for input and configuration, 1 for a failed run, 128 + signal when interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input { .. }
            | Error::Config { .. }
            | Error::DatasetUnavailable { .. }
            | Error::Memory { .. } => 2,
            Error::Io { .. }
            | Error::Checkpoint { .. }
            | Error::Device { .. }
            | Error::NonFinite { .. } => 1,
            Error::Interrupted { signal } => 128u8.wrapping_add(*signal as u8),
        }
    }

    /// A [`Error::Config`] from anything printable.
    pub fn config(
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Error::Config { key: key.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// A [`Error::Input`] about a whole file.
    pub fn input(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Input {
            path: path.to_path_buf(),
            line: None,
            column: None,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Turns an [`io::Error`] into an [`Error::Io`]; for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }
}

fn place(line: Option<u64>, column: Option<&str>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(":{line}: column {column}"),
        (Some(line), None) => format!(":{line}"),
        (None, Some(column)) => format!(": column {column}"),
        (None, None) => String::new(),
    }
}
