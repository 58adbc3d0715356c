//! Reaching a port of a pod from wherever this runs: through the API's port-forwarding.
//!
//! An [`Admin`] keeps its connection for the next question, as `stat` and `top` ask the same proxies again and again.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::failure::causes;

/// The most that a metrics page may have: a proxy with ten thousand series has about 4 MiB.
pub const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;
/// How long forwarding a port may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a port of a pod gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The API would not forward it.
    #[error("cannot forward port {port} of pod {pod}: {reason}")]
    Forward {
        /// Which pod.
        pod: String,
        /// Which port.
        port: u16,
        /// Why not.
        reason: String,
    },
    /// It took too long.
    #[error("port {port} of pod {pod} doesn't answer")]
    Silent {
        /// Which pod.
        pod: String,
        /// Which port.
        port: u16,
    },
    /// What came back was no answer.
    #[error("port {port} of pod {pod} gives no answer: {reason}")]
    Broken {
        /// Which pod.
        pod: String,
        /// Which port.
        port: u16,
        /// In what way.
        reason: String,
    },
}

/// Anything that bytes go through both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a port of a pod.
pub async fn connect(client: &Client, namespace: &str, pod: &str, port: u16) -> Result<Box<dyn Stream>, ReachError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let failed = |reason: String| ReachError::Forward { pod: pod.to_owned(), port, reason };
    let ports = [port];
    let forwarding = timeout(CONNECT_TIMEOUT, api.portforward(pod, &ports)).await;
    let mut forwarder = match forwarding {
        Ok(Ok(forwarder)) => forwarder,
        Ok(Err(error)) => return Err(failed(causes(&error))),
        Err(_) => return Err(ReachError::Silent { pod: pod.to_owned(), port }),
    };
    let stream = forwarder.take_stream(port).ok_or_else(|| failed("the API gave no stream".to_owned()))?;
    Ok(Box::new(stream))
}

/// The admin server of a container, asked again and again.
pub struct Admin {
    client: Client,
    namespace: String,
    pod: String,
    port: u16,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Admin {
    /// Nothing is connected yet.
    pub fn new(client: &Client, pod: &Pod, port: u16) -> Self {
        let namespace = pod.namespace().unwrap_or_default();
        Self { client: client.clone(), namespace, pod: pod.name_any(), port, connection: None }
    }

    /// The page at a path. A connection that was kept and turns out dead is made anew, once.
    pub async fn page(&mut self, path: &str) -> Result<String, ReachError> {
        if let Some(kept) = self.connection.take()
            && let Ok(page) = self.ask(kept, path).await
        {
            return Ok(page);
        }
        let fresh = self.open().await?;
        self.ask(fresh, path).await
    }

    async fn open(&self) -> Result<SendRequest<Empty<Bytes>>, ReachError> {
        let stream = connect(&self.client, &self.namespace, &self.pod, self.port).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&causes(&error)))?;
        // Ends with the sender; what goes wrong shows at the next question.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn ask(&mut self, mut sender: SendRequest<Empty<Bytes>>, path: &str) -> Result<String, ReachError> {
        let request = http::Request::get(path)
            .header(http::header::HOST, "localhost")
            .body(Empty::new())
            .map_err(|error| self.broken(&error.to_string()))?;
        let answer = async {
            sender.ready().await.map_err(|error| self.broken(&causes(&error)))?;
            let response = sender.send_request(request).await.map_err(|error| self.broken(&causes(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_PAGE_BYTES);
            let body = body.collect().await.map_err(|error| self.broken(&error.to_string()))?.to_bytes();
            if status.is_success() {
                String::from_utf8(body.into()).map_err(|_| self.broken("it is not text"))
            } else {
                Err(self.broken(&format!("status {status}")))
            }
        };
        let page =
            timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| ReachError::Silent { pod: self.pod.clone(), port: self.port })??;
        self.connection = Some(sender);
        Ok(page)
    }

    fn broken(&self, reason: &str) -> ReachError {
        ReachError::Broken { pod: self.pod.clone(), port: self.port, reason: reason.to_owned() }
    }
}

/// The container port of this name, in native sidecars as well.
pub fn named_port(pod: &Pod, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

/// The port of the proxy's admin server.
pub fn proxy_admin_port(pod: &Pod) -> Option<u16> {
    named_port(pod, "linkerd-admin")
}
