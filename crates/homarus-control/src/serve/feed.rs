//! One subscriber's stream.

use super::{
    hub::{Hub, Kept, Subscription},
    told::Sent,
};
use crate::index::{Absence, Index};
use bytes::Bytes;
use futures::Stream;
use std::sync::Arc;

/// Messages that say all of the latest view, then every change of it.
///
/// The key is made anew when the view asks for that.
pub fn feed<K: Kept, F: Fn(&Index) -> K + Send + 'static>(
    hub: &Arc<Hub>,
    key: F,
) -> Result<impl Stream<Item = Bytes> + Send + use<K, F>, Absence> {
    let subscription = hub.subscribe(hub.read(&key))?;
    let feed = Feed { subscription, key, sent: None, pending: Pending::default(), begun: false };
    Ok(futures::stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) }))
}

struct Feed<K: Kept, F> {
    subscription: Subscription<K>,
    key: F,
    sent: Option<Sent<K::View>>,
    pending: Pending,
    begun: bool,
}

/// Messages that are shared with other subscribers, and how many of them were taken.
#[derive(Default)]
struct Pending {
    messages: Option<Arc<[Bytes]>>,
    taken: usize,
}

impl Pending {
    fn next(&mut self) -> Option<Bytes> {
        let message = self.messages.as_ref()?.get(self.taken).cloned();
        self.taken += 1;
        if message.is_none() {
            *self = Self::default();
        }
        message
    }
}

impl From<Arc<[Bytes]>> for Pending {
    fn from(messages: Arc<[Bytes]>) -> Self {
        Self { messages: Some(messages), taken: 0 }
    }
}

impl<K: Kept, F: Fn(&Index) -> K> Feed<K, F> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.pending.next() {
                return Some(message);
            }
            if self.begun {
                self.subscription.latest.changed().await.ok()?;
            }
            self.begun = true;
            self.take()?;
        }
    }

    /// Prepares what the latest view asks to be sent. None: the stream ends.
    fn take(&mut self) -> Option<()> {
        let latest = self.subscription.latest.borrow_and_update().clone();
        match latest {
            Ok(snapshot) => {
                self.pending = snapshot.messages(self.sent.as_ref()).into();
                self.sent = Some(snapshot.sent());
            }
            Err(Absence::Rekey) => {
                let hub = self.subscription.hub().clone();
                self.subscription = hub.subscribe(hub.read(&self.key)).ok()?;
                self.begun = false;
            }
            Err(_) => {
                if let Some(sent) = &self.sent {
                    let (messages, sent) = sent.gone()?;
                    self.pending = messages.into();
                    self.sent = Some(sent);
                }
            }
        }
        Some(())
    }
}
