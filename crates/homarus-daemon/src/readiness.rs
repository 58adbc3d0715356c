//! What a program still waits for before it may be sent work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ready when every [`Gate`] is open. A program without gates is ready at once.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<Vec<(String, Gate)>>>,
}

/// One thing that must happen first.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicBool>);

impl Readiness {
    /// Adds something to wait for, under the name that `/ready` shows. It begins closed.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let gate = Gate(Arc::new(AtomicBool::new(false)));
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).push((name.into(), gate.clone()));
        gate
    }

    /// The names of the gates that are still closed.
    pub fn waiting_for(&self) -> Vec<String> {
        self.gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, gate)| !gate.is_open())
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl Gate {
    /// This has happened.
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// This no longer holds.
    pub fn close(&self) {
        self.0.store(false, Ordering::Release);
    }
}
