//! Keys of objects that a controller is to look at, each once, each at its time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::Key;

/// The first pause after a failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Bounded by the objects there are: a key is in it once, at the earliest of the times asked for.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    by_time: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    /// Look at `key` now.
    pub(super) fn add(&self, key: Key) {
        self.add_after(key, Duration::ZERO);
    }

    /// Look at `key` at the latest after `delay`.
    pub(super) fn add_after(&self, key: Key, delay: Duration) {
        let time = Instant::now() + delay;
        let mut state = self.state.lock();
        match state.due.get(&key).copied() {
            Some(due) if due <= time => return,
            Some(due) => {
                state.by_time.remove(&(due, key.clone()));
            }
            None => {}
        }
        state.due.insert(key.clone(), time);
        state.by_time.insert((time, key));
        self.wake.notify_one();
    }

    /// Looking at `key` failed: look again after a pause that grows with each failure in a row. Returns the pause.
    pub(super) fn failed(&self, key: Key) -> Duration {
        let pause = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(*failures)).min(LONGEST_PAUSE);
            *failures = failures.saturating_add(1);
            pause
        };
        self.add_after(key, pause);
        pause
    }

    /// Looking at `key` went well.
    pub(super) fn succeeded(&self, key: &Key) {
        self.state.lock().failures.remove(key);
    }

    /// The next key, when it is due.
    pub(super) async fn next(&self) -> Key {
        loop {
            let next = {
                let mut state = self.state.lock();
                match state.by_time.first().cloned() {
                    Some((time, key)) if time <= Instant::now() => {
                        state.by_time.pop_first();
                        state.due.remove(&key);
                        return key;
                    }
                    first => first.map(|(time, _)| time),
                }
            };
            match next {
                Some(time) => tokio::select! {
                    () = tokio::time::sleep_until(time) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_once_at_the_earliest_time_asked_for() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        queue.add_after(key("b"), Duration::from_secs(10));
        queue.add(key("c"));
        let start = Instant::now();
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push((queue.next().await.name, start.elapsed().as_secs()));
        }
        assert_eq!(order, [("c".to_owned(), 0), ("a".to_owned(), 5), ("b".to_owned(), 10)]);
        let more = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
        assert!(more.is_err(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_failures_and_are_forgotten_with_success() {
        let queue = Queue::default();
        let pauses: Vec<_> = (0..40).map(|_| queue.failed(key("a"))).collect();
        assert_eq!(pauses[..3], [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]);
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        queue.succeeded(&key("a"));
        assert_eq!(queue.failed(key("a")), FIRST_PAUSE);
    }
}
