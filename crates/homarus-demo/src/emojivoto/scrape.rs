//! What the gRPC services count, for whoever scrapes them.
//!
//! Labels are bounded: methods the service doesn't have are counted under one name.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::Code;

/// The method name under which calls of unknown methods are counted.
pub(super) const UNKNOWN_METHOD: &str = "unknown";

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_service: &'static str,
    grpc_method: String,
    grpc_type: &'static str,
    grpc_code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Voted {
    emoji: String,
}

/// The counters of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    handled: Family<Handled, Counter>,
    votes: Family<Voted, Counter>,
}

impl Counters {
    /// A call of `method` ended with `code`.
    pub(super) fn handled(&self, service: &'static str, method: &str, code: Code) {
        let labels =
            Handled { grpc_service: service, grpc_method: method.to_owned(), grpc_type: "unary", grpc_code: format!("{code:?}") };
        self.handled.get_or_create(&labels).inc();
    }

    /// A vote for `shortcode` was counted.
    pub(super) fn voted(&self, shortcode: &str) {
        let labels = Voted { emoji: shortcode.to_owned() };
        self.votes.get_or_create(&labels).inc();
    }

    /// Serves the counters at `/metrics`, and at `/ready` that there is somebody to ask.
    pub(super) fn router(&self) -> axum::Router {
        let mut registry = Registry::default();
        registry.register("grpc_server_handled", "RPCs completed on the server", self.handled.clone());
        registry.register("emojivoto_votes", "Number of emoji votes", self.votes.clone());
        axum::Router::new()
            .route("/metrics", get(metrics))
            .route("/ready", get(|| async { "ready\n" }))
            .with_state(Arc::new(registry))
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
