//! Ctrl-C and SIGTERM: the first asks the loop to stop at the next step, the second ends the process at once.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a signal has come. Dropping it gives the signals back to whoever had them.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    registered: Vec<SigId>,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn listen() -> Result<Self> {
        let mut signals = Signals { received: Arc::default(), registered: Vec::new() };
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the shutdown must not see the flag that the same signal raises.
            let shutdown = flag::register_conditional_shutdown(signal, 128 + signal, again.clone());
            signals.keep(shutdown)?;
            signals.keep(flag::register(signal, again.clone()))?;
            let number = signal as usize;
            signals.keep(flag::register_usize(signal, signals.received.clone(), number))?;
        }
        Ok(signals)
    }

    fn keep(&mut self, id: std::io::Result<SigId>) -> Result<()> {
        self.registered.push(id.map_err(Error::io("handle", Path::new("signals")))?);
        Ok(())
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

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
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
