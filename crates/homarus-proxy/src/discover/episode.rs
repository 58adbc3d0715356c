//! Trouble is told once, when it begins, and counted as often as it happens.

use crate::observe::{
    Family, Labels, Registry,
    registry::{Half, Kind},
};

static UNREADABLE: Family = Family {
    name: "homarus_discovery_unreadable",
    help: "Messages of the control plane, or parts of them, that could not be read",
    kind: Kind::Counter,
    half: Half::Open,
};

static STREAM_FAILURES: Family = Family {
    name: "homarus_discovery_stream_failures",
    help: "Streams of the control plane that failed and were opened again",
    kind: Kind::Counter,
    half: Half::Open,
};

static FALLBACKS: Family = Family {
    name: "homarus_inbound_policy_fallbacks",
    help: "Ports to which the default policy of the environment applied because none was told in time",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Where trouble of all subscriptions is counted.
#[derive(Debug, Clone)]
pub(super) struct Episodes(Registry);

impl Episodes {
    pub(super) fn new(registry: Registry) -> Self {
        Self(registry)
    }

    /// A port has no policy in time.
    pub(super) fn fallback(&self) {
        self.0.counter(&FALLBACKS, Labels::new()).inc();
    }

    /// The trouble that one subscription may have.
    pub(super) fn of(&self, rpc: &'static str, target: impl Into<String>) -> Episode {
        Episode { registry: self.0.clone(), rpc, target: target.into(), failing: false, unreadable: false }
    }
}

/// The trouble of one subscription.
#[derive(Debug)]
pub(super) struct Episode {
    registry: Registry,
    rpc: &'static str,
    target: String,
    failing: bool,
    unreadable: bool,
}

impl Episode {
    fn count(&self, family: &'static Family) {
        self.registry.counter(family, Labels::new().with("rpc", self.rpc)).inc();
    }

    /// The stream failed and will be opened again.
    pub(super) fn failed(&mut self, status: &tonic::Status) {
        self.count(&STREAM_FAILURES);
        let (rpc, target, code, message) = (self.rpc, &self.target, status.code(), status.message());
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(rpc, %target, ?code, message, "control plane stream failed again");
        } else {
            tracing::warn!(rpc, %target, ?code, message, "control plane stream failed; what was known stays in use while it is tried again");
        }
    }

    /// The stream answers.
    pub(super) fn answered(&mut self) {
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!(rpc = self.rpc, target = %self.target, "control plane stream answers again");
        }
    }

    /// A message, or a part of it, can't be read.
    pub(super) fn unreadable(&mut self, error: &homarus_wire::decode::DecodeError, consequence: &'static str) {
        self.count(&UNREADABLE);
        if std::mem::replace(&mut self.unreadable, true) {
            tracing::debug!(rpc = self.rpc, target = %self.target, %error, consequence, "control plane told something unreadable again");
        } else {
            tracing::warn!(rpc = self.rpc, target = %self.target, %error, consequence, "control plane told something unreadable; look at the object behind it");
        }
    }

    /// A whole message was read.
    pub(super) fn readable(&mut self) {
        self.unreadable = false;
    }
}
