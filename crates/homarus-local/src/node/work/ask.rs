//! Questions to containers: probes and hooks, put as a kubelet would.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, HTTPHeader, LifecycleHandler, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::unix::pipe;

use super::order;
use crate::node::net::Network;
use crate::node::sandbox::Sandbox;
use crate::node::sandbox::streams::{self, Streams};
use crate::node::sandbox::wire::LaunchSpec;

/// What of an answer is read, and shown when it is bad.
const ANSWER_MAX: usize = 10 << 10;
const PROBE_AGENT: &str = "kube-probe/1.34";

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    Exec(Vec<String>),
    Http(HttpQuestion),
    Tcp(SocketAddr),
    Grpc { to: SocketAddr, service: String },
    Sleep(Duration),
}

/// A GET.
#[derive(Debug, Clone)]
pub(crate) struct HttpQuestion {
    to: SocketAddr,
    path: String,
    tls: bool,
    headers: Vec<HTTPHeader>,
}

/// The question of a probe. An error names the field that makes none.
pub(crate) fn of_probe(probe: &Probe, container: &Container, pod: IpAddr) -> Result<Question, String> {
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| format!("grpc port {} is no port", grpc.port))?;
        let service = grpc.service.clone().unwrap_or_default();
        return Ok(Question::Grpc { to: SocketAddr::new(pod, port), service });
    }
    let (exec, http, tcp) = (probe.exec.as_ref(), probe.http_get.as_ref(), probe.tcp_socket.as_ref());
    question(exec, http, tcp, container, pod)
}

/// The question of a hook.
pub(crate) fn of_hook(hook: &LifecycleHandler, container: &Container, pod: IpAddr) -> Result<Question, String> {
    if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        return Ok(Question::Sleep(Duration::from_secs(seconds)));
    }
    let (exec, http, tcp) = (hook.exec.as_ref(), hook.http_get.as_ref(), hook.tcp_socket.as_ref());
    question(exec, http, tcp, container, pod)
}

fn question(
    exec: Option<&ExecAction>,
    http: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    container: &Container,
    pod: IpAddr,
) -> Result<Question, String> {
    let address = |host: Option<&String>, port: &IntOrString| {
        let host = match host.filter(|h| !h.is_empty()) {
            Some(host) => host.parse().map_err(|_| format!("host {host:?} is no address"))?,
            None => pod,
        };
        Ok::<_, String>(SocketAddr::new(host, port_number(port, container)?))
    };
    match (exec, http, tcp) {
        (Some(exec), _, _) => Ok(Question::Exec(exec.command.clone().unwrap_or_default())),
        (None, Some(http), _) => Ok(Question::Http(HttpQuestion {
            to: address(http.host.as_ref(), &http.port)?,
            path: http.path.clone().unwrap_or_default(),
            tls: http.scheme.as_deref() == Some("HTTPS"),
            headers: http.http_headers.clone().unwrap_or_default(),
        })),
        (None, None, Some(tcp)) => Ok(Question::Tcp(address(tcp.host.as_ref(), &tcp.port)?)),
        (None, None, None) => Err("it asks nothing this node can ask".into()),
    }
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("the container has no port {port:?}"))
}

/// Who is asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) network: Network,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) process: u64,
    pub(crate) order: Arc<LaunchSpec>,
}

/// Asks and waits for the answer, at most as long as said. An error says what was wrong with it.
pub(crate) async fn ask(asked: &Asked, question: &Question, within: Duration) -> Result<(), String> {
    if let Question::Exec(command) = question {
        return exec(asked, command, within).await;
    }
    let answer = async {
        match question {
            Question::Tcp(to) => {
                let dialed = asked.network.dial(None, *to).await;
                dialed.map(drop).map_err(|e| format!("dial tcp {to}: {e}"))
            }
            Question::Http(http) => http_get(asked, http).await,
            Question::Grpc { to, service } => grpc_health(asked, *to, service).await,
            Question::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
            Question::Exec(_) => Ok(()),
        }
    };
    match tokio::time::timeout(within, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {within:?}")),
    }
}

async fn exec(asked: &Asked, command: &[String], within: Duration) -> Result<(), String> {
    let run = async {
        let (stdout, reader) = streams::output().map_err(|e| e.to_string())?;
        let stderr = stdout.try_clone().map_err(|e| e.to_string())?;
        let spec = order::joining(&asked.order, command.to_vec());
        let streams = Streams::Pipes { stdin: None, stdout, stderr };
        let launched = asked.sandbox.launch(&spec, Some(asked.process), streams).await;
        Ok::<_, String>((launched.map_err(|e| e.to_string())?, reader))
    };
    let (process, reader) = run.await?;
    let said = tokio::spawn(read_some(reader));
    match tokio::time::timeout(within, process.exited).await {
        Ok(Ok(exited)) if exited.code == 0 => Ok(()),
        Ok(Ok(exited)) => {
            // Something it left running may keep the pipe open.
            let said = tokio::time::timeout(Duration::from_millis(100), said).await;
            let text = said.ok().and_then(Result::ok).unwrap_or_default();
            Err(format!("command exited with {}: {}", exited.code, text.trim()))
        }
        Ok(Err(_)) => Err("the container ended".into()),
        Err(_) => {
            let _ = asked.sandbox.signal(process.id, 9).await;
            Err(format!("command timed out after {within:?}"))
        }
    }
}

async fn read_some(mut reader: pipe::Receiver) -> String {
    let mut bytes = vec![0; ANSWER_MAX];
    let mut filled = 0;
    let mut rest = vec![0; ANSWER_MAX];
    loop {
        let full = filled == bytes.len();
        let room = if full { &mut rest[..] } else { &mut bytes[filled..] };
        match reader.read(room).await {
            Ok(read) if read > 0 => filled += if full { 0 } else { read },
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes[..filled]).into_owned()
}

async fn http_get(asked: &Asked, question: &HttpQuestion) -> Result<(), String> {
    let to = question.to;
    let stream = asked.network.dial(None, to).await;
    let stream = stream.map_err(|e| format!("dial tcp {to}: {e}"))?;
    if question.tls {
        let name = rustls_pki_types::ServerName::IpAddress(to.ip().into());
        let connector = tokio_rustls::TlsConnector::from(trusting());
        let stream = connector.connect(name, stream).await;
        return send_get(stream.map_err(|e| format!("TLS with {to}: {e}"))?, question).await;
    }
    send_get(stream, question).await
}

async fn send_get<S>(stream: S, question: &HttpQuestion) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |e: &dyn std::fmt::Display| format!("Get {}{}: {e}", question.to, question.path);
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| said(&e))?;
    let _driver = Driver(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let path = format!("/{}", question.path.trim_start_matches('/'));
    let mut request = Request::get(path).header("connection", "close");
    let named = |name: &str| question.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header("host", question.to.to_string());
    }
    if !named("user-agent") {
        request = request.header("user-agent", PROBE_AGENT);
    }
    if !named("accept") {
        request = request.header("accept", "*/*");
    }
    for header in &question.headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| said(&e))?;
    let response = sender.send_request(request).await.map_err(|e| said(&e))?;
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

/// Ends the task of a connection with the question it was made for.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `grpc.health.v1.Health/Check`, spoken by hand: one field each way.
async fn grpc_health(asked: &Asked, to: SocketAddr, service: &str) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("gRPC health check of {to}: {e}");
    let stream = asked.network.dial(None, to).await.map_err(|e| said(&e))?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|e| said(&e))?;
    let _driver = Driver(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let name = service.as_bytes();
    let length = u8::try_from(name.len()).ok().filter(|l| *l < 128);
    let length = length.ok_or_else(|| said(&"the service name is too long"))?;
    let mut body = BytesMut::new();
    let message_length = if name.is_empty() { 0 } else { u32::from(length) + 2 };
    body.put_u8(0);
    body.put_u32(message_length);
    if !name.is_empty() {
        body.put_slice(&[0x0a, length]);
        body.put_slice(name);
    }
    let uri: Uri = format!("http://{to}/grpc.health.v1.Health/Check").parse().map_err(|e| said(&e))?;
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", PROBE_AGENT)
        .body(Full::new(body.freeze()))
        .map_err(|e| said(&e))?;
    let response = sender.send_request(request).await.map_err(|e| said(&e))?;
    let collected = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let answer = collected.map_err(|e| said(&e))?.to_bytes();
    // One uncompressed message whose first field is SERVING.
    if answer.get(5..7) == Some(&[0x08, 0x01]) {
        return Ok(());
    }
    Err(said(&"the service is not serving"))
}

/// Probes accept any certificate, as a kubelet's do: they ask whether something answers, not who.
fn trusting() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(builder) = builder else { unreachable!("the provider has the default protocol versions") };
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
