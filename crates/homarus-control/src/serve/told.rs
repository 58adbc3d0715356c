//! Views as messages. They are encoded when the first subscriber needs them, and shared by all.

use super::grpc::frame;
use crate::index::views::endpoints::EndpointSet;
use bytes::Bytes;
use homarus_model::{
    endpoint::{Endpoint, EndpointUpdate},
    inbound::ServerPolicy,
    outbound::ClientPolicy,
    profile::Profile,
};
use homarus_wire::encode;
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
        let changed: Vec<Endpoint> = changed.iter().map(|e| Endpoint::clone(e)).collect();
        let added = changed
            .chunks(MAX_ENDPOINTS)
            .map(|part| EndpointUpdate::Add { set_labels: self.labels.clone(), endpoints: part.to_vec() });
        let removed = gone.chunks(MAX_ENDPOINTS).map(|part| EndpointUpdate::Remove(part.to_vec()));
        // First what is new, so that a client isn't left with nothing in between.
        added.chain(removed).map(|update| frame(&encode::endpoint_update(&update))).collect()
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

/// One state of a view, and its messages as far as somebody needed them.
#[derive(Debug)]
pub(super) struct Snapshot<V> {
    version: u64,
    pub(super) view: Arc<V>,
    /// The state before, and its version.
    before: Option<(u64, Arc<V>)>,
    all: OnceLock<Arc<[Bytes]>>,
    since: OnceLock<Arc<[Bytes]>>,
}

/// What a subscriber was sent last.
#[derive(Debug)]
pub(super) struct Sent<V> {
    version: u64,
    view: Arc<V>,
}

impl<V: Told> Snapshot<V> {
    pub(super) fn first(version: u64, view: V) -> Self {
        Self { version, view: Arc::new(view), before: None, all: OnceLock::new(), since: OnceLock::new() }
    }

    /// The next state of the same view. It keeps this one alive, but not those before.
    pub(super) fn followed_by(&self, version: u64, view: V) -> Self {
        Self { before: Some((self.version, self.view.clone())), ..Self::first(version, view) }
    }

    pub(super) fn sent(&self) -> Sent<V> {
        Sent { version: self.version, view: self.view.clone() }
    }

    /// The messages that bring a subscriber here.
    pub(super) fn messages(&self, sent: Option<&Sent<V>>) -> Arc<[Bytes]> {
        let Some(sent) = sent else {
            return self.all.get_or_init(|| self.view.all().into()).clone();
        };
        match &self.before {
            // Versions are never used twice, so that an equal one means the same state.
            Some((version, before)) if *version == sent.version => {
                self.since.get_or_init(|| self.view.since(before).into()).clone()
            }
            _ if self.version == sent.version => Arc::new([]),
            // It missed states in between: what it needs is its own.
            _ => self.view.since(&sent.view).into(),
        }
    }
}

impl<V: Told> Sent<V> {
    /// The messages for a view that is gone, and what was sent then; none if the stream ends.
    pub(super) fn gone(&self) -> Option<(Vec<Bytes>, Self)> {
        let nothing = V::gone()?;
        // No version is 0, so that whatever comes next is compared with this state.
        Some((nothing.since(&self.view), Self { version: 0, view: Arc::new(nothing) }))
    }
}
