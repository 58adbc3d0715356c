//! What the API asks of whoever runs the pods.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

/// A pod that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid, which tells a pod from its predecessor of the same name.
    pub uid: String,
}

/// Which part of a container's log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Of which container; the API has checked that the pod has it.
    pub container: String,
    /// Go on as more is written.
    pub follow: bool,
    /// Of the run before this one.
    pub previous: bool,
    /// Each line with its RFC 3339 time in front.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines since then.
    pub since: Option<jiff::Timestamp>,
}

/// A log as it is read.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// A connection into a pod.
pub trait PodStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PodStream for T {}

/// Why the node can't.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The container hasn't started (400; the client may try again): the text is shown as is.
    #[error("{0}")]
    NotReady(String),
    /// The pod or the log isn't here (404).
    #[error("{0}")]
    NotFound(String),
    /// Anything else (500).
    #[error("{0}")]
    Failed(String),
}

/// What a node does for the API.
pub trait NodeBackend: Send + Sync + 'static {
    /// Opens a container's log.
    fn log(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'static, Result<LogStream, NodeError>>;

    /// Connects to a port on the pod's loopback.
    fn connect(&self, pod: PodRef, port: u16) -> BoxFuture<'static, Result<Box<dyn PodStream>, NodeError>>;
}
