//! One subscription per target, for as long as somebody wants it.

use super::Watched;
use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The sending end of a [`Watched`] value.
pub(super) type Sender<T> = Arc<watch::Sender<Option<Arc<T>>>>;

/// The subscriptions that run, so many at most. A key is here exactly while its task runs.
#[derive(Debug)]
pub(super) struct Cache<K, T> {
    running: Mutex<HashMap<K, Sender<T>>>,
    limit: usize,
}

impl<K: Eq + Hash, T> Cache<K, T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { running: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Sender<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The subscription of this key; `start` begins it if there is none. Beyond the limit, whoever asks gets `refusal`.
    pub(super) fn subscribe(&self, key: K, refusal: impl FnOnce() -> T, start: impl FnOnce(Sender<T>)) -> Watched<T> {
        let mut running = self.lock();
        if let Some(sender) = running.get(&key) {
            return sender.subscribe();
        }
        if running.len() >= self.limit {
            return watch::channel(Some(Arc::new(refusal()))).1;
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        running.insert(key, sender.clone());
        start(sender);
        receiver
    }

    /// Runs what keeps a subscription up to date until nobody holds its value. What it said last stays even if it ends.
    pub(super) async fn keep(&self, key: &K, sender: &Sender<T>, asking: impl Future<Output = ()>) {
        let mut asking = std::pin::pin!(asking);
        let mut ended = false;
        loop {
            tokio::select! {
                () = sender.closed() => {
                    // Under the lock nobody can subscribe between the look and the removal.
                    let mut running = self.lock();
                    if sender.receiver_count() == 0 {
                        running.remove(key);
                        return;
                    }
                }
                () = &mut asking, if !ended => ended = true,
            }
        }
    }

    /// How many subscriptions run.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Publishes a value if it is another than the last: nobody is woken for nothing.
pub(super) fn publish<T: PartialEq>(sender: &Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let changed = current.as_deref() != Some(&value);
        if changed {
            *current = Some(Arc::new(value));
        }
        changed
    });
}
