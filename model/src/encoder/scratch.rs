//! Buffers that steps leave to the next ones.

use std::sync::{Mutex, PoisonError};

/// Buffers of finished steps: as many as threads ever stepped at once, so that a step at work allocates nothing. Those of a
/// step that panics are dropped with it.
#[derive(Debug)]
pub(crate) struct ScratchPool<T>(Mutex<Vec<T>>);

impl<T> Default for ScratchPool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> ScratchPool<T> {
    /// Runs a step with idle buffers, or with new ones where all are at work.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut T) -> R) -> R {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = idle.unwrap_or_default();
        let result = step(&mut scratch);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scratch);
        result
    }
}
