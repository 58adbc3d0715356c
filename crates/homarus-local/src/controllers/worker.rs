//! Runs a controller: takes keys, one at a time, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::cluster::{Cause, Cluster, Fault};
use super::queue::Queue;
use super::store::Key;

/// When to look at an object again if nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Only when something changes.
    OnChange,
    /// After this time.
    After(Duration),
}

impl From<Option<Duration>> for Next {
    fn from(after: Option<Duration>) -> Next {
        after.map_or(Next::OnChange, Next::After)
    }
}

/// Brings one kind of object to where it should be.
pub(super) trait Controller: Send + Sync + 'static {
    /// What its log lines are marked with.
    const NAME: &'static str;

    /// Whom it is to look at.
    fn queue(cluster: &Cluster) -> &Queue;

    /// Looks at one object, and does what is to be done about it now.
    fn reconcile(&self, cluster: &Cluster, key: &Key) -> impl Future<Output = Result<Next, Fault>> + Send;
}

/// Work that isn't about one object.
pub(super) trait Chore: Send + Sync + 'static {
    /// What its log lines are marked with.
    const NAME: &'static str;

    /// Does all there is to do now.
    fn run(&mut self, cluster: &Cluster) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Lets controllers act once the stores are filled, and no longer than wanted.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) cluster: Arc<Cluster>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Gate {
    /// Waits until the stores are filled; false if the end came first.
    pub(super) async fn opened(&self) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.cluster.synced() => true,
            _ = stop.wait_for(|stop| *stop) => false,
        }
    }

    pub(super) async fn run<C: Controller>(mut self, controller: C) {
        if !self.opened().await {
            return;
        }
        let cluster = self.cluster.clone();
        let queue = C::queue(&cluster);
        loop {
            let key = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return,
                key = queue.next() => key,
            };
            match controller.reconcile(&cluster, &key).await {
                Ok(next) => {
                    queue.succeeded(&key);
                    if let Next::After(delay) = next {
                        queue.add_after(key, delay);
                    }
                }
                Err(fault) => failed::<C>(queue, key, &fault),
            }
        }
    }

    pub(super) async fn run_every<C: Chore>(mut self, period: Duration, mut chore: C) {
        if !self.opened().await {
            return;
        }
        let mut ticks = tokio::time::interval(period);
        loop {
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = chore.run(&self.cluster).await {
                tracing::warn!(controller = C::NAME, %error, "trying again");
            }
        }
    }
}

fn failed<C: Controller>(queue: &Queue, key: Key, fault: &Fault) {
    match fault.cause() {
        // Nothing is wrong: the watch will tell what changed, and if it did already, the pause is short.
        Cause::Conflict | Cause::Taken | Cause::Missing => {
            tracing::debug!(controller = C::NAME, object = %key, error = %fault, "looking again");
            queue.failed(key);
        }
        Cause::NamespaceEnding => queue.succeeded(&key),
        Cause::Other => {
            let object = key.to_string();
            let pause = queue.failed(key);
            tracing::warn!(controller = C::NAME, object, error = %fault, ?pause, "trying again");
        }
    }
}
