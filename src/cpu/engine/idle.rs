//! Buffers that change hands.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sets of buffers that nobody is using: no more than were ever in use at once, whatever the number of tasks.
pub struct Idle<T>(Mutex<Vec<T>>);

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Idle(Mutex::default())
    }
}

impl<T> Idle<T> {
    /// Lends a set to `work`: one that is idle, or else what `make` makes.
    pub fn lend<R>(&self, make: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let waiting = self.waiting().pop();
        let mut set = waiting.unwrap_or_else(make);
        let out = work(&mut set);
        self.waiting().push(set);
        out
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<T>> {
        // Whoever panicked left no half-written buffers here: they are moved in and out whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
