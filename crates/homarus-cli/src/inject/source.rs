//! Where manifests come from: a file, a folder, an https URL, or standard input.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::failure::{Failure, causes};

/// The most that is read of all manifests together.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The deepest folder in a folder.
const MAX_DEPTH: usize = 32;
/// How often an answer may point elsewhere.
const MAX_REDIRECTS: usize = 5;
/// How long a server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that a source has, as one text of documents.
pub(crate) async fn read(source: Option<&str>) -> Result<String, Failure> {
    let text = match source {
        None => return Err(Failure::usage("please specify a kubernetes resource file")),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
            text
        }
        Some(url) if url.starts_with("https://") => tokio::time::timeout(TIMEOUT, fetch(url))
            .await
            .map_err(|_| Failure::new(format!("{url}: no answer within {} seconds", TIMEOUT.as_secs())))??,
        Some(url) if url.contains("://") => return Err(Failure::usage("only HTTPS URLs are allowed")),
        Some(path) => {
            let mut text = String::new();
            read_path(Path::new(path), &mut text, 0)?;
            text
        }
    };
    if text.len() > MAX_BYTES { Err(Failure::new(format!("manifests of more than {MAX_BYTES} bytes"))) } else { Ok(text) }
}

fn read_path(path: &Path, text: &mut String, depth: usize) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    if path.is_dir() {
        if depth > MAX_DEPTH {
            return Err(Failure::new(format!("{} is too deep", path.display())));
        }
        let mut entries: Vec<_> = std::fs::read_dir(path).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        return entries.iter().try_for_each(|entry| read_path(entry, text, depth + 1));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    text.push_str("---\n");
    file.take(MAX_BYTES as u64 + 1).read_to_string(text).map_err(failed)?;
    text.push('\n');
    Ok(())
}

async fn fetch(url: &str) -> Result<String, Failure> {
    let mut url = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        match ask(&url).await.map_err(|failure| failure.during(&url))? {
            Answer::Text(text) => return Ok(text),
            Answer::Elsewhere(next) if next.starts_with("https://") => url = next,
            Answer::Elsewhere(next) => {
                return Err(Failure::new(format!("{url} points to {next}, but only HTTPS URLs are allowed")));
            }
        }
    }
    Err(Failure::new(format!("{url}: more than {MAX_REDIRECTS} redirections")))
}

enum Answer {
    Text(String),
    Elsewhere(String),
}

async fn ask(url: &str) -> Result<Answer, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(causes(error));
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
    let host = uri.host().unwrap_or_default().to_owned();
    let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting_the_machine()?));
    let tls = connector.connect(name, tcp).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = http::Request::get(path).header(http::header::HOST, host).header(http::header::USER_AGENT, "homarus");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (parts, body) = response.into_parts();
    if parts.status.is_redirection() {
        let location = parts.headers.get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        return location.map(|next| Answer::Elsewhere(next.to_owned())).ok_or_else(|| Failure::new("a redirection to nowhere"));
    }
    if !parts.status.is_success() {
        return Err(Failure::new(format!("status {}", parts.status)));
    }
    let body = Limited::new(body, MAX_BYTES).collect().await.map_err(Failure::new)?.to_bytes();
    connection.abort();
    String::from_utf8(body.into()).map(Answer::Text).map_err(|_| Failure::new("not text"))
}

/// Whoever this machine trusts.
fn trusting_the_machine() -> Result<rustls::ClientConfig, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Failure::new("this machine trusts nobody").remedy("Install the certificates (Debian: ca-certificates)."));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Failure::new)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
