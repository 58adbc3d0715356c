//! What one worker thread has: its view of the configuration, discovery, keys and metrics.

use crate::{
    config::Config,
    discover::Discovery,
    observe::{Registry, stack::Stacks},
    secure::{Keyring, Trust},
};
use homarus_daemon::drain::Drain;
use std::{
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What all connections of one worker share. Never leaves its thread.
pub struct Worker {
    /// What the operator decided.
    pub config: Arc<Config>,
    /// What the control plane tells.
    pub discovery: Discovery,
    /// Our TLS.
    pub keyring: Keyring,
    /// What connections with meshed peers stand on.
    pub trust: Rc<Trust>,
    /// This worker's metric cells.
    pub registry: Registry,
    /// What is made to carry requests and connections, counted.
    pub stacks: Stacks,
    /// Tells when the process is ending.
    pub drain: Drain,
    /// Requests under way in all workers, inbound and outbound.
    pub in_flight: [Arc<InFlight>; 2],
}

/// How long a connection that has not said what it wants is kept when the process is ending.
const UNDECIDED: Duration = Duration::from_secs(1);

impl Worker {
    /// What a connection turns out to want; nothing, if the process is ending and it takes its time.
    /// Boxed by the caller, as this is too, so that an idle connection is small.
    pub async fn settled<T, E>(&self, settle: Pin<Box<impl Future<Output = Result<Option<T>, E>>>>) -> Result<Option<T>, E> {
        let mut drain = self.drain.clone();
        let late = async {
            drain.signaled().await;
            crate::net::sleep(UNDECIDED).await;
        };
        tokio::select! {
            biased;
            settled = settle => settled,
            () = late => Ok(None),
        }
    }
}

/// Counts requests under way, up to a limit. Shared by all workers.
#[derive(Debug)]
pub struct InFlight {
    now: AtomicUsize,
    limit: usize,
}

/// One request under way.
#[derive(Debug)]
pub struct Admitted(Arc<InFlight>);

impl InFlight {
    /// At most `limit` at a time.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { now: AtomicUsize::new(0), limit })
    }

    /// Admits one more, unless there are too many.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        if self.now.fetch_add(1, Relaxed) >= self.limit {
            self.now.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Admitted(self.clone()))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_up_to_the_limit() {
        let limit = InFlight::new(1);
        let first = limit.admit();
        assert!(first.is_some() && limit.admit().is_none());
        drop(first);
        assert!(limit.admit().is_some());
    }
}
