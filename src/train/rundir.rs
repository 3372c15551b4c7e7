//! The run directory: where it lies, who may use it, and the files of it that do not change during training.
//!
//! | file | content |
//! |---|---|
//! | `config.yaml` | the resolved configuration |
//! | `items.tsv` | `index`, `item` (external id, escaped), `interactions` |
//! | `users.tsv` | `index`, `user` (external id, escaped) |
//! | `histories.safetensors` | `offsets` U64 `[users + 1]` into `items` U32: each user's item indices, oldest first; SHA-256 at its end |
//! | `negatives.safetensors` | under sampling: target and negatives of each row |
//! | `checkpoint/state.safetensors` | the latest checkpoint |
//! | `model.safetensors` | weights of the best epoch |
//! | `metrics.jsonl` | a line for each evaluation |
//! | `results.json` | what a finished run came to |
//! | `events.out.tfevents.0.b4r` | the log for TensorBoard |
//! | `report.html` | all of it, to look at |
//! | `wandb.id`, `wandb/` | with `log_wandb`: what Weights & Biases calls the run, and its own files |
//! | `.lock` | empty; locked while a process uses the directory, by the system, so that a kill frees it |
//!
//! External ids are escaped so that one line is one id: `\\`, `\t`, `\n`, `\r`.

mod inputs;

pub use inputs::items_sha256;

use super::files;
use crate::config::{Config, RunConfig};
use crate::tracking::{tensorboard, wandb};
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const LOCK: &str = ".lock";
/// The resolved configuration.
pub const CONFIG: &str = "config.yaml";
/// The item vocabulary and how often each item occurs.
pub const ITEMS: &str = "items.tsv";
/// The user vocabulary.
pub const USERS: &str = "users.tsv";
/// Each user's items.
pub const HISTORIES: &str = "histories.safetensors";
/// What each row was ranked among, where that is not all items.
pub const NEGATIVES: &str = "negatives.safetensors";
pub(super) const CHECKPOINT: &str = "checkpoint/state.safetensors";
/// Weights of the best epoch.
pub const MODEL: &str = "model.safetensors";
/// A line for each evaluation.
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const RESULTS: &str = "results.json";
/// The run to look at.
pub(crate) const REPORT: &str = "report.html";
/// Everything a run writes; the checkpoint first, so that a half-cleared directory cannot be resumed.
const ALL: [&str; 12] = [
    CHECKPOINT,
    RESULTS,
    MODEL,
    METRICS,
    NEGATIVES,
    HISTORIES,
    USERS,
    ITEMS,
    CONFIG,
    REPORT,
    tensorboard::FILE_NAME,
    wandb::ID_FILE,
];

/// A run directory that this process holds the lock of.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

/// Refuses, before hours of work, a directory that [`RunDir::open`] would refuse. Writes nothing.
///
/// # Errors
/// [`Error::Config`].
pub fn check(config: &Config) -> Result<()> {
    let run = &config.run;
    if run.resume && run.overwrite {
        return Err(Error::config(
            "resume",
            "cannot stand beside `overwrite`: one continues a run, the other discards it",
            "give one of the two",
        ));
    }
    let path = locate(config);
    match fs::metadata(&path) {
        Ok(about) if about.is_dir() => {
            if let Ok(lock) = File::open(path.join(LOCK)) {
                take_lock(&lock, &path)?;
            }
            check_use(&path, run)?;
        }
        Ok(_) => return Err(unusable(&path, "it is a file")),
        Err(_) => {}
    }
    // An unnamed file in the nearest folder that exists shows whether something can be written there.
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    match tempfile::tempfile_in(existing) {
        Ok(_) => Ok(()),
        Err(error) => Err(unusable(&path, &error.to_string())),
    }
}

impl RunDir {
    /// Creates or takes over the directory of `config`, empty but for what a resumed run continues from.
    ///
    /// # Errors
    /// [`Error::Config`] when it is in use, used without leave to, or cannot be written.
    pub fn open(config: &Config) -> Result<Self> {
        let (run, mut path) = (&config.run, locate(config));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unusable(&path, &error.to_string()))?;
        }
        while let Err(error) = fs::create_dir(&path) {
            if error.kind() != io::ErrorKind::AlreadyExists || path.is_file() {
                return Err(unusable(&path, &error.to_string()));
            }
            let next = locate(config);
            if next == path {
                break;
            }
            // Another run took the free name in between.
            path = next;
        }
        // Judged before the lock file appears: that file is what tells a run directory from any other.
        check_use(&path, run)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|error| unusable(&path, &error.to_string()))?;
        take_lock(&lock, &path)?;
        check_use(&path, run)?;
        let directory = RunDir { path, _lock: lock };
        if !(run.resume && directory.has_checkpoint()) {
            for name in ALL {
                let file = directory.path.join(name);
                files::remove_if_present(&file)?;
                files::remove_if_present(&files::temporary_path(&file))?;
            }
        }
        let folder = directory.path.join("checkpoint");
        fs::create_dir_all(&folder).map_err(|error| unusable(&folder, &error.to_string()))?;
        Ok(directory)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The latest checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join(CHECKPOINT)
    }

    /// Whether there is a checkpoint, be it one that cannot be read: that is an error, not a fresh start.
    pub fn has_checkpoint(&self) -> bool {
        has_checkpoint(&self.path)
    }

    /// Weights of the best epoch.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// A line for each evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// The log for TensorBoard.
    pub fn events(&self) -> PathBuf {
        self.path.join(tensorboard::FILE_NAME)
    }

    /// What the run came to.
    pub fn results(&self) -> PathBuf {
        self.path.join(RESULTS)
    }
}

/// The directory a run with `config` would use now: `run_dir`, else `runs/<dataset>-seed<seed>` with `-2`,
/// `-3`, ... appended: the first that is free or, to resume or overwrite, the last that is there.
pub fn locate(config: &Config) -> PathBuf {
    if let Some(path) = &config.run.run_dir {
        return path.clone();
    }
    let name = format!("{}-seed{}", short_name(&config.data.dataset), config.train.seed);
    let numbered = |number: u64| match number {
        1 => Path::new("runs").join(&name),
        _ => Path::new("runs").join(format!("{name}-{number}")),
    };
    let mut free = 1;
    while numbered(free).symlink_metadata().is_ok() {
        free += 1;
    }
    let existing = config.run.resume || config.run.overwrite;
    numbered(if existing { free.max(2) - 1 } else { free })
}

/// The data set's name, or the file's without folder and extensions, safe as a file name.
fn short_name(dataset: &str) -> String {
    let file = Path::new(dataset).file_name().unwrap_or_default().to_string_lossy();
    let stem = file.trim_start_matches('.').split('.').next().unwrap_or_default();
    let safe = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let name: String = stem.chars().map(safe).take(80).collect();
    if name.is_empty() { "data".to_string() } else { name }
}

fn has_checkpoint(path: &Path) -> bool {
    path.join(CHECKPOINT).symlink_metadata().is_ok()
}

fn check_use(path: &Path, run: &RunConfig) -> Result<()> {
    let Some(present) = ALL.iter().find(|name| path.join(name).symlink_metadata().is_ok()) else {
        return Ok(());
    };
    if !path.join(LOCK).exists() {
        return Err(Error::config(
            "run_dir",
            format!("{} holds {present}, but no run was made there", path.display()),
            "choose another directory",
        ));
    }
    let made = [RESULTS, MODEL].into_iter().find(|name| path.join(name).exists());
    let begins_again = run.resume && !run.overwrite && !has_checkpoint(path);
    if let Some(made) = made.filter(|_| begins_again) {
        return Err(Error::config(
            "resume",
            format!(
                "{} holds {made} but no checkpoint: training would begin again and discard it",
                path.display()
            ),
            "put checkpoint/state.safetensors back, discard the run with --overwrite, or choose another directory",
        ));
    }
    if run.resume || run.overwrite {
        return Ok(());
    }
    Err(Error::config(
        "run_dir",
        format!("{} has been used by a run ({present} is there)", path.display()),
        "--resume continues that run, --overwrite discards it, or choose another directory",
    ))
}

fn take_lock(lock: &File, path: &Path) -> Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::config(
            "run_dir",
            format!("another process is running in {}", path.display()),
            "wait for it to end, or choose another directory",
        )),
        // A file system without locks: two runs at once are then the user's to avoid.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(unusable(path, &error.to_string())),
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::config(
        "run_dir",
        format!("cannot write in {}: {why}", path.display()),
        "choose a directory that can be written",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> Config {
        let mut config = Config::default();
        config.run.run_dir = Some(path.to_path_buf());
        config
    }

    fn message<T: std::fmt::Debug>(outcome: Result<T>) -> String {
        let error = outcome.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder.path().join("a/b"));
        check(&config).unwrap();
        assert!(!folder.path().join("a").exists(), "a check writes nothing");
        let held = RunDir::open(&config).unwrap();
        config.run.resume = true;
        assert!(message(check(&config)).contains("another process"));
        assert!(message(RunDir::open(&config)).contains("another process"));
        drop(held);
        check(&config).unwrap();
        RunDir::open(&config).unwrap();
    }

    #[test]
    fn a_used_directory_needs_leave() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        drop(RunDir::open(&config).unwrap());
        let names = [CONFIG, CHECKPOINT, RESULTS];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
        fs::write(folder.path().join("mine"), "x").unwrap();
        assert!(message(check(&config)).contains("--resume"));
        assert!(message(RunDir::open(&config)).contains("--overwrite"));
        config.run.resume = true;
        check(&config).unwrap();
        drop(RunDir::open(&config).unwrap());
        assert!(names.iter().all(|name| folder.path().join(name).exists()));
        config.run.overwrite = true;
        assert!(message(check(&config)).contains("overwrite"));
        config.run.resume = false;
        drop(RunDir::open(&config).unwrap());
        assert!(!names.iter().any(|name| folder.path().join(name).exists()));
        assert!(folder.path().join("mine").exists());
    }

    #[test]
    fn foreign_files_are_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.run.overwrite = true;
        fs::write(folder.path().join(CONFIG), "mine").unwrap();
        assert!(message(check(&config)).contains("no run was made there"));
        assert!(message(RunDir::open(&config)).contains("no run was made there"));
        assert_eq!(fs::read(folder.path().join(CONFIG)).unwrap(), b"mine");
        assert!(!folder.path().join(LOCK).exists());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            message(check(&config(&path)));
            message(RunDir::open(&config(&path)));
        }
    }

    #[test]
    fn names_are_short_and_safe() {
        assert_eq!(short_name("ml-100k"), "ml-100k");
        assert_eq!(short_name("some/where/clicks.csv.gz"), "clicks");
        assert_eq!(short_name("/a/my file!.inter"), "my_file_");
        assert_eq!(short_name(".."), "data");
    }
}
