//! Ctrl-C and SIGTERM: the first asks the loop to stop at the next step, a second ends the process at once.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{self, Handle};
use signal_hook::{SigId, flag, low_level};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A signal this soon after the first is its echo: `timeout` and job schedulers send one to the process and
/// another to its group.
const ECHO: Duration = Duration::from_millis(500);

/// Whether a signal has come. Dropping it gives the signals back: to whoever had them, or to the system, which ends
/// the process.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    registered: Vec<SigId>,
    watch: Handle,
    /// `None` once it has been waited for.
    watcher: Option<JoinHandle<()>>,
    _listening: Listening,
}

/// Counts who listens. A signal that nobody listens to any more would be lost: the library that delivers signals
/// never gives one back to the system, so what the system would do is done in its place.
#[derive(Debug)]
struct Listening;

struct Listeners {
    count: Mutex<usize>,
    none: Arc<AtomicBool>,
}

static LISTENERS: LazyLock<Listeners> =
    LazyLock::new(|| Listeners { count: Mutex::new(0), none: Arc::new(AtomicBool::new(true)) });
static DEFAULTS: OnceLock<()> = OnceLock::new();

impl Listening {
    fn begin() -> io::Result<Self> {
        let mut count = LISTENERS.count.lock().unwrap_or_else(PoisonError::into_inner);
        if DEFAULTS.get().is_none() {
            for signal in [SIGINT, SIGTERM].into_iter().filter(|&signal| ends_process(signal)) {
                flag::register_conditional_default(signal, LISTENERS.none.clone())?;
            }
            let _ = DEFAULTS.set(());
        }
        *count += 1;
        LISTENERS.none.store(false, Ordering::Relaxed);
        Ok(Listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut count = LISTENERS.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        LISTENERS.none.store(*count == 0, Ordering::Relaxed);
    }
}

/// Whether nobody handles `signal` yet, so that it ends the process.
fn ends_process(signal: i32) -> bool {
    // SAFETY: a zeroed struct is a valid one to be written to.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to `present`.
    let failed = unsafe { libc::sigaction(signal, std::ptr::null(), &mut present) } != 0;
    !failed && present.sa_sigaction == libc::SIG_DFL
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn listen() -> Result<Self> {
        let refused = || Error::io("listen to", Path::new("signals"));
        let listening = Listening::begin().map_err(refused())?;
        let arriving = iterator::Signals::new([SIGINT, SIGTERM]).map_err(refused())?;
        let watch = arriving.handle();
        let watcher = std::thread::Builder::new()
            .name("signals".to_string())
            .spawn(|| end_at_the_second(arriving))
            .map_err(refused())?;
        let (received, registered) = (Arc::default(), Vec::new());
        let mut signals =
            Signals { received, registered, watch, watcher: Some(watcher), _listening: listening };
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
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_signal_is_noticed_and_does_not_end_the_process() {
        let signals = Signals::listen().unwrap();
        assert!(signals.check().is_ok());
        low_level::raise(SIGTERM).unwrap();
        assert_eq!(signals.received(), Some(15));
        assert_eq!(signals.check().unwrap_err().exit_code(), 143);
    }

    /// In a process of its own, which the signal ends.
    #[test]
    fn once_nobody_listens_a_signal_ends_the_process_again() {
        const ALONE: &str = "B4R_TEST_OF_SIGNALS";
        const NAME: &str =
            "train::signals::tests::once_nobody_listens_a_signal_ends_the_process_again";
        if std::env::var_os(ALONE).is_some() {
            drop(Signals::listen().unwrap());
            drop(Signals::listen().unwrap());
            low_level::raise(SIGTERM).unwrap();
            return;
        }
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", NAME]).env(ALONE, "1").stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(test.status().unwrap().signal(), Some(SIGTERM));
    }
}
