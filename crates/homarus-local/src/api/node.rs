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

/// What is run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandOptions {
    /// In which container; the API has checked that the pod has it.
    pub container: String,
    /// The program and its arguments; none: the container's own process is attached to.
    pub command: Vec<String>,
    /// Whether it gets an input.
    pub stdin: bool,
    /// Whether its output is wanted.
    pub stdout: bool,
    /// Whether what it says of errors is wanted.
    pub stderr: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
}

impl CommandOptions {
    /// On a terminal both outputs are one.
    pub fn separate_stderr(&self) -> bool {
        self.stderr && !self.tty
    }
}

/// A process that runs, with its ends of the streams that were asked for.
pub struct Running {
    /// Its input, which ends when this is shut down.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output, or all that it writes to its terminal.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What it says of errors.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Tells its terminal how many columns and rows there are.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Its exit code, or nothing when the pod went with it.
    pub exited: BoxFuture<'static, Option<i32>>,
    /// Dropped when it isn't wanted any more.
    pub guard: Option<Box<dyn std::any::Any + Send>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("tty", &self.resize.is_some()).finish_non_exhaustive()
    }
}

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

    /// Starts a process in a container that runs, or attaches to the container's own.
    fn run(&self, pod: PodRef, options: CommandOptions) -> BoxFuture<'static, Result<Running, NodeError>>;
}
