//! What the API server says, into the index.
//!
//! One task follows each kind of object ([`kinds`]): it lists, watches, and lists again when the watch breaks, with
//! back-off. A kind that isn't served is looked for again later. One task takes what all of them say into the hub, in
//! batches: the first change at once, those that follow within [`PACE`] together, so that a rollout of many pods costs
//! subscribers a message every [`PACE`] and not one for each pod.

mod follow;
pub mod kinds;

use crate::serve::Hub;
use follow::Follower;
use homarus_daemon::{Gate, Readiness, drain::Drain};
use homarus_model::facts::Change;
use kinds::Source;
use kube::Client;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

pub use follow::Metrics;

/// The least time between two publications. With many subscribers a publication costs many messages: this bounds what
/// change after change can cost, and is well below what anybody notices.
pub const PACE: Duration = Duration::from_millis(25);
/// Changes that wait to be taken in. Followers wait when it is full; the API server then buffers for them.
const MAX_PENDING: usize = 4096;
/// How many changes are taken in together.
const MAX_BATCH: usize = 4096;

/// What a follower says.
#[derive(Debug)]
pub enum News {
    /// Something has changed.
    Change(Change),
    /// Everything that there is has been said once: the gate may open.
    Complete(Gate),
}

/// Keeps the hub up to date until the program drains. Readiness waits until every kind was listed once.
pub fn follow(client: Client, hub: Arc<Hub>, sources: Vec<Source>, readiness: &Readiness, metrics: Metrics, drain: Drain) {
    let (sender, receiver) = news();
    for source in sources {
        let gate = readiness.gate(source.to_string());
        let follower = Follower::new(source, client.clone(), sender.clone(), gate, metrics.clone());
        tokio::spawn(until(drain.clone(), follower.run()));
    }
    tokio::spawn(until(drain, take_in(hub, receiver)));
}

/// A way for news to those who take them in.
pub fn news() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
    mpsc::channel(MAX_PENDING)
}

async fn until(mut drain: Drain, work: impl Future<Output = ()>) {
    tokio::select! {
        () = drain.signaled() => {}
        () = work => {}
    }
}

/// Takes news into the hub, in batches and at most every [`PACE`], until nobody has any more.
pub async fn take_in(hub: Arc<Hub>, mut news: mpsc::Receiver<News>) {
    let mut batch = Vec::new();
    let mut next = Instant::now();
    loop {
        tokio::time::sleep_until(next).await;
        if news.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        let mut complete = Vec::new();
        hub.apply(batch.drain(..).filter_map(|news| match news {
            News::Change(change) => Some(change),
            News::Complete(gate) => {
                complete.push(gate);
                None
            }
        }));
        complete.iter().for_each(Gate::open);
        next = Instant::now() + PACE;
    }
}
