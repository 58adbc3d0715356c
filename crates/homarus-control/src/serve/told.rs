//! Views as messages. They are encoded when the first subscriber needs them, and shared by all.

use super::grpc::{frame, frame_encoded};
use crate::index::views::endpoints::EndpointSet;
use bytes::Bytes;
use homarus_model::{endpoint::EndpointUpdate, inbound::ServerPolicy, outbound::ClientPolicy, profile::Profile};
use homarus_wire::encode;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// How many endpoints one message carries. Clients refuse messages of more than 4 MiB; an endpoint takes half a kilobyte.
const MAX_ENDPOINTS: usize = 4_000;

/// A view that can be told.
pub trait Told: PartialEq + Send + Sync + Sized + 'static {
    /// Messages that say all of it.
    fn all(&self) -> Vec<Bytes>;

    /// Messages that say what is different from what was said before.
    fn since(&self, before: &Self) -> Vec<Bytes>;

    /// What it is when there is none any more; `None` if the stream ends then.
    fn gone() -> Option<Self> {
        None
    }
}

impl Told for EndpointSet {
    fn all(&self) -> Vec<Bytes> {
        Told::since(self, &Self::default())
    }

    fn since(&self, before: &Self) -> Vec<Bytes> {
        let (changed, gone) = self.changes_since(before);
        let added = changed
            .chunks(MAX_ENDPOINTS)
            .map(|part| frame_encoded(&encode::endpoints_added(&self.labels, part.iter().map(AsRef::as_ref))));
        let removed =
            gone.chunks(MAX_ENDPOINTS).map(|part| frame(&encode::endpoint_update(&EndpointUpdate::Remove(part.to_vec()))));
        // First what is new, so that a client isn't left with nothing in between.
        added.chain(removed).collect()
    }

    fn gone() -> Option<Self> {
        Some(Self::default())
    }
}

/// Views that are told as a whole.
macro_rules! whole {
    ($($view:ty: $encode:path),*) => {
        $(impl Told for $view {
            fn all(&self) -> Vec<Bytes> {
                vec![frame(&$encode(self))]
            }

            fn since(&self, _: &Self) -> Vec<Bytes> {
                self.all()
            }
        })*
    };
}
whole!(Profile: encode::profile, ServerPolicy: encode::server, ClientPolicy: encode::client_policy);

/// How many earlier states a snapshot keeps the way from. Subscribers that are slow are so together: those of one
/// connection, or all of them in a burst.
const MAX_WAYS: usize = 16;

/// One state of a view, and its messages as far as somebody needed them.
#[derive(Debug)]
pub(super) struct Snapshot<V> {
    version: u64,
    pub(super) view: Arc<V>,
    all: OnceLock<Arc<[Bytes]>>,
    /// From earlier states, by their version, to here.
    ways: Mutex<Vec<(u64, Arc<[Bytes]>)>>,
}

/// What a subscriber was sent last.
#[derive(Debug)]
pub(super) struct Sent<V> {
    version: u64,
    view: Arc<V>,
}

impl<V: Told> Snapshot<V> {
    /// A state. Versions are never used twice, so that an equal one means the same state.
    pub(super) fn new(version: u64, view: V) -> Self {
        Self { version, view: Arc::new(view), all: OnceLock::new(), ways: Mutex::default() }
    }

    pub(super) fn sent(&self) -> Sent<V> {
        Sent { version: self.version, view: self.view.clone() }
    }

    /// The messages that bring a subscriber here.
    pub(super) fn messages(&self, sent: Option<&Sent<V>>) -> Arc<[Bytes]> {
        let Some(sent) = sent else {
            return self.all.get_or_init(|| self.view.all().into()).clone();
        };
        if sent.version == self.version {
            return Arc::new([]);
        }
        // Under the lock: whoever comes second finds what the first one made.
        let mut ways = self.ways.lock();
        if let Some((_, way)) = ways.iter().find(|(version, _)| *version == sent.version) {
            return way.clone();
        }
        let way: Arc<[Bytes]> = self.view.since(&sent.view).into();
        if ways.len() < MAX_WAYS {
            ways.push((sent.version, way.clone()));
        }
        way
    }
}

impl<V: Told> Sent<V> {
    /// The messages for a view that is gone, and what was sent then; none if the stream ends.
    pub(super) fn gone(&self) -> Option<(Arc<[Bytes]>, Self)> {
        let nothing = V::gone()?;
        // No version is 0, so that whatever comes next is compared with this state.
        Some((nothing.since(&self.view).into(), Self { version: 0, view: Arc::new(nothing) }))
    }
}
