//! A new model takes the old one's place when its file changes or SIGHUP comes; no request notices.

use super::metrics::Metrics;
use super::model::Slot;
use crate::recommend::{Computing, Recommender};
use crate::train::progress::say;
use crate::train::rundir::{CONFIG, HISTORIES, ITEMS, MODEL, USERS};
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

/// What tells one file from the next of its name: inode, length, and time of change.
type FileStamp = Option<(u64, u64, SystemTime)>;

/// The stamps of all files that make a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp([FileStamp; 5]);

impl Stamp {
    /// The files of `run` as they are now.
    pub fn of(run: &Path) -> Self {
        Stamp([MODEL, CONFIG, ITEMS, USERS, HISTORIES].map(|name| {
            let about = metadata(run.join(name)).ok()?;
            Some((about.ino(), about.len(), about.modified().ok()?))
        }))
    }

    /// Whether no file is missing. One that is may be about to be replaced: a time to wait, not to complain.
    fn is_whole(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

/// Which run is served, and as it was when last read.
pub struct Watched {
    /// The run directory; a link may lead elsewhere later.
    pub run: PathBuf,
    /// What the model is to compute on.
    pub computing: Computing,
    /// Taken before the model in use was read.
    pub read: Stamp,
    /// How often to look.
    pub interval: Duration,
}

/// Watches for as long as it is polled.
pub async fn watch(
    mut watched: Watched,
    slot: Arc<Slot>,
    metrics: Arc<Metrics>,
    mut hangup: Signal,
) {
    let mut look = tokio::time::interval(watched.interval);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = watched.read;
    loop {
        let asked = tokio::select! {
            signal = hangup.recv() => signal.is_some(),
            _ = look.tick() => false,
        };
        let found = Stamp::of(&watched.run);
        // Files that still change from look to look are being written.
        let settled = std::mem::replace(&mut before, found) == found;
        if !asked && (found == watched.read || !found.is_whole() || !settled) {
            continue;
        }
        watched.read = found;
        let (run, computing) = (watched.run.clone(), watched.computing);
        // A panic over a damaged file must not end the server either.
        let open = move || Recommender::open_on(&run, computing);
        let opened = tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string());
        match opened.and_then(|opened| opened.map_err(|error| error.to_string())) {
            Ok(model) => {
                slot.replace(model);
                metrics.loaded(true);
                say("a new model is in use");
            }
            Err(error) => {
                metrics.loaded(false);
                say(format_args!("error: the model in use stays, the new one is no good: {error}"));
            }
        }
    }
}
