//! One request to an endpoint and its response, as the endpoint's load and metrics see them.

use super::endpoint::{Endpoint, Refused};
use crate::{
    fault::Cause,
    http::{Body, BodyError, ResponseHead, SendError, Tally},
    net::{self, Instant},
    observe::http::{Broken, Class, RequestMetrics, grpc_status},
};
use http::HeaderMap;
use std::rc::{Rc, Weak};

/// A request under way, as the load counts it.
pub(super) struct Pending(Weak<Endpoint>);

impl Pending {
    pub(super) fn begin(endpoint: Weak<Endpoint>) -> Self {
        if let Some(endpoint) = endpoint.upgrade() {
            endpoint.pending().begin();
        }
        Self(endpoint)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.upgrade() {
            endpoint.pending().end();
        }
    }
}

/// One request and its response, as the endpoint's metrics and load see them.
pub struct Exchange {
    /// Until the first part of the response's body is there.
    pending: Option<Pending>,
    metrics: Rc<RequestMetrics>,
    started: Instant,
    grpc_request: bool,
    /// Set with the response's head, taken at its end.
    class: Option<Class>,
}

impl Exchange {
    pub(super) fn begin(pending: Pending, metrics: Rc<RequestMetrics>, grpc_request: bool) -> Self {
        Self { pending: Some(pending), metrics, started: net::now(), grpc_request, class: None }
    }

    /// When the request was sent.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn answered(mut self, head: &ResponseHead, body: &Body) -> Self {
        let grpc = if self.grpc_request { grpc_status(&head.headers) } else { None };
        self.class = Some(Class { status: Some(head.status), grpc, error: None });
        if body.is_end() {
            self.first();
        }
        self
    }

    pub(super) fn refused(mut self, error: SendError) -> Refused {
        self.class = None;
        let broken = Broken::of(&error.error);
        self.metrics.response(Class { status: None, grpc: None, error: Some(broken) });
        let cause = match &error.error {
            BodyError::Io(error) => Cause::Broken(format!("endpoint broke the connection: {error}")),
            other => Cause::Broken(format!("endpoint gave no response: {other}")),
        };
        Refused { cause, may_repeat: error.may_repeat }
    }

    /// The first part of the body is there.
    fn first(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        let now = net::now();
        let elapsed = now.duration_since(self.started);
        if let Some(endpoint) = pending.0.upgrade() {
            endpoint.pending().sample(elapsed, now);
        }
        if let Some(status) = self.class.and_then(|c| c.status) {
            self.metrics.latency(status, elapsed);
        }
    }
}

impl Tally for Exchange {
    fn data(&mut self, _: usize) {
        self.first();
    }

    fn complete(&mut self, trailers: Option<&HeaderMap>) {
        self.first();
        if let Some(mut class) = self.class.take() {
            if self.grpc_request {
                class.grpc = trailers.and_then(grpc_status).or(class.grpc);
            }
            self.metrics.response(class);
        }
    }

    fn failed(&mut self, error: &BodyError) {
        self.first();
        if let Some(class) = self.class.take() {
            self.metrics.response(Class { error: Some(Broken::of(error)), ..class });
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The client went away before the end.
        if let Some(class) = self.class.take() {
            self.first();
            self.metrics.response(class);
        }
    }
}
