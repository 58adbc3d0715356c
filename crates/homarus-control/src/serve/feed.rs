//! One subscriber's stream.

use super::{
    hub::{Hub, Kept, Subscription},
    told::Sent,
};
use crate::index::{Absence, Index};
use bytes::Bytes;
use futures::Stream;
use std::{collections::VecDeque, sync::Arc};

/// Messages that say all of the latest view, then every change of it.
///
/// The key is made anew when the view asks for that.
pub fn feed<K: Kept, F: Fn(&Index) -> K + Send + 'static>(
    hub: &Arc<Hub>,
    key: F,
) -> Result<impl Stream<Item = Bytes> + Send + use<K, F>, Absence> {
    let subscription = hub.subscribe(hub.read(&key))?;
    let feed = Feed { subscription, key, sent: None, pending: VecDeque::new(), begun: false };
    Ok(futures::stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) }))
}

struct Feed<K: Kept, F> {
    subscription: Subscription<K>,
    key: F,
    sent: Option<Sent<K::View>>,
    pending: VecDeque<Bytes>,
    begun: bool,
}

impl<K: Kept, F: Fn(&Index) -> K> Feed<K, F> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.pending.pop_front() {
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
                self.pending.extend(snapshot.messages(self.sent.as_ref()).iter().cloned());
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
                    self.pending.extend(messages);
                    self.sent = Some(sent);
                }
            }
        }
        Some(())
    }
}
