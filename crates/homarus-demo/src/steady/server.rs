//! The server: every answer takes a while; told to end, it finishes what it has begun.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use http::HeaderMap;
use tokio::net::TcpListener;

use super::journal::Teller;
use super::{JOURNAL, NUMBER};
use crate::serving::{ServeError, Stop, Stopper, serve_http};

/// How it answers, and how it ends.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How long an answer takes.
    pub takes: Duration,
    /// How long it goes on as ever once it was told to end. Then it accepts nothing more, finishes what it has begun, and leaves.
    pub drains: Duration,
}

/// Serves until `stop`, and then in its manner.
pub async fn run(listener: TcpListener, manner: Manner, stop: Stop) -> Result<(), ServeError> {
    let teller = Arc::new(Teller::new().await.map_err(ServeError::Http)?);
    let app = Router::new().fallback(answer).with_state((manner, teller));
    let (stopper, later) = Stop::channel();
    tokio::spawn(drain(manner.drains, stop, stopper));
    serve_http(listener, app, later).await
}

async fn drain(drains: Duration, stop: Stop, stopper: Stopper) {
    stop.asked().await;
    tokio::time::sleep(drains).await;
    stopper.stop();
}

async fn answer(State((manner, teller)): State<(Manner, Arc<Teller>)>, headers: HeaderMap, body: Bytes) -> String {
    let told = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let journal = told(JOURNAL).and_then(|journal| journal.parse().ok());
    let number = told(NUMBER).and_then(|number| number.parse().ok());
    if let (Some(journal), Some(number)) = (journal, number) {
        teller.tell(journal, number).await;
    }
    tokio::time::sleep(manner.takes).await;
    format!("{} bytes\n", body.len())
}
