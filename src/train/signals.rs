//! Ctrl-C and SIGTERM: the first asks the loop to stop at the next step, a second ends the process at once.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{self, Handle};
use signal_hook::{SigId, flag, low_level};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A signal this soon after the first is its echo: `timeout` and job schedulers send one to the process and
/// another to its group.
const ECHO: Duration = Duration::from_millis(500);

/// Whether a signal has come. Dropping it gives the signals back to whoever had them.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    registered: Vec<SigId>,
    watch: Handle,
    /// `None` once it has been waited for.
    watcher: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn listen() -> Result<Self> {
        let refused = || Error::io("listen to", Path::new("signals"));
        let arriving = iterator::Signals::new([SIGINT, SIGTERM]).map_err(refused())?;
        let watch = arriving.handle();
        let watcher = std::thread::Builder::new()
            .name("signals".to_string())
            .spawn(|| end_at_the_second(arriving))
            .map_err(refused())?;
        let (received, registered) = (Arc::default(), Vec::new());
        let mut signals = Signals { received, registered, watch, watcher: Some(watcher) };
        for signal in [SIGINT, SIGTERM] {
            let flag = flag::register_usize(signal, signals.received.clone(), signal as usize);
            signals.registered.push(flag.map_err(refused())?);
        }
        Ok(signals)
    }

    /// Number of the signal that came, if one did.
    pub fn received(&self) -> Option<i32> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// [`Error::Interrupted`] once a signal has come.
    ///
    /// # Errors
    /// That one.
    pub fn check(&self) -> Result<()> {
        self.received().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
    }
}

fn end_at_the_second(mut arriving: iterator::Signals) {
    let mut first: Option<Instant> = None;
    for signal in arriving.forever() {
        if first.get_or_insert_with(Instant::now).elapsed() >= ECHO {
            low_level::exit(128 + signal);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
        self.watch.close();
        // Its loop has no way to panic, and nothing is left to do if it had.
        let _ = self.watcher.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noticed_and_does_not_end_the_process() {
        let signals = Signals::listen().unwrap();
        assert!(signals.check().is_ok());
        low_level::raise(SIGTERM).unwrap();
        assert_eq!(signals.received(), Some(15));
        assert_eq!(signals.check().unwrap_err().exit_code(), 143);
    }
}
