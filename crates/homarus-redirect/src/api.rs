//! The few questions that the CNI plugin, its installer and the repair controller ask the Kubernetes API.
//!
//! A Kubernetes library would be many times the size of everything else here. What is absent on purpose: client
//! certificates, programs that make tokens, proxies of the environment, redirects. Every answer is bounded in time and
//! length.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, http};

/// Where a pod finds its account's token and the API server's roots.
pub const ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest single object that is read; etcd stores less.
const MAX_OBJECT_LEN: u64 = 4 * 1024 * 1024;
/// The longest list: the pods of one node.
const MAX_LIST_LEN: u64 = 64 * 1024 * 1024;
/// The longest kubeconfig, token or file of roots.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// How to ask can't be found out. The installer's or the deployment's fault.
    #[error("{what}: {reason}")]
    Setup {
        /// What is wrong.
        what: String,
        /// How.
        reason: String,
    },
    /// Nobody answers. Worth a retry.
    #[error("the Kubernetes API at {server} doesn't answer: {reason}")]
    Unreachable {
        /// Who was asked.
        server: String,
        /// What happened.
        reason: String,
    },
    /// It said no.
    #[error("the Kubernetes API refused {method} {path}: {status} {message}{hint}")]
    Refused {
        /// How it was asked.
        method: &'static str,
        /// What it was asked for.
        path: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
        /// What to try.
        hint: &'static str,
    },
    /// Its answer can't be read.
    #[error("the Kubernetes API's answer to {path} can't be read: {reason}")]
    Answer {
        /// What it was asked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ApiError {
    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether somebody else changed the object in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// Whether asking again in a moment may help: the server is away, too busy, or this was the wrong one of several.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::Setup { .. } | Self::Answer { .. } => false,
        }
    }

    fn setup(what: impl fmt::Display) -> impl FnOnce(String) -> Self {
        let what = what.to_string();
        move |reason| Self::Setup { what, reason }
    }
}

/// Where the API is, and as whom to ask: what a kubeconfig says.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// `https://` and its address.
    pub server: String,
    /// Its roots, in PEM.
    pub roots: String,
    /// The bearer token.
    pub token: String,
}

/// Without the token, which is a secret.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
struct User {
    token: String,
}

impl Access {
    /// What a pod was given by its account and its environment.
    pub fn of_account(folder: &Path, roots: &Path, host: &str, port: &str) -> Result<Self, ApiError> {
        let file = |path: &Path| read(path).map_err(ApiError::setup(path.display()));
        // An address of IPv6 needs brackets in front of a port.
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self {
            server: format!("https://{host}:{port}"),
            roots: file(roots)?,
            token: file(&folder.join("token"))?.trim().to_owned(),
        })
    }

    /// What [`Self::kubeconfig`] wrote.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ApiError> {
        let text = read(path).map_err(ApiError::setup(format_args!("kubeconfig {}", path.display())))?;
        Self::parse(&text).map_err(ApiError::setup(format_args!("kubeconfig {}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Kubeconfig = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let cluster = config.clusters.into_iter().next().ok_or("no cluster")?.cluster;
        let user = config.users.into_iter().next().ok_or("no user")?.user;
        let roots = BASE64_STANDARD.decode(&cluster.certificate_authority_data).map_err(|error| error.to_string())?;
        Ok(Self { server: cluster.server, roots: String::from_utf8(roots).map_err(|error| error.to_string())?, token: user.token })
    }

    /// A kubeconfig in JSON, which is YAML as well, so that reading it takes no parser of YAML.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "local",
                "cluster": { "server": self.server, "certificate-authority-data": BASE64_STANDARD.encode(&self.roots) },
            }],
            "users": [{ "name": "linkerd-cni", "user": { "token": self.token } }],
            "contexts": [{ "name": "linkerd-cni-context", "context": { "cluster": "local", "user": "linkerd-cni" } }],
            "current-context": "linkerd-cni-context",
        });
        format!("{config:#}\n")
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(MAX_FILE_LEN + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > MAX_FILE_LEN { Err(format!("longer than {MAX_FILE_LEN} bytes")) } else { Ok(text) }
}

/// Asks the API. Connections are kept between questions.
#[derive(Debug, Clone)]
pub struct Api {
    access: Access,
    agent: Agent,
}

impl Api {
    /// Prepares to ask; connects nowhere yet.
    pub fn new(access: Access) -> Result<Self, ApiError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(access.roots.as_bytes()).collect();
        let roots = roots.map_err(|error| ApiError::setup("the API server's roots")(error.to_string()))?;
        if roots.is_empty() {
            return Err(ApiError::setup("the API server's roots")("no certificate".to_owned()));
        }
        let roots: Vec<Certificate<'static>> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("homarus-redirect/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { access, agent: config.new_agent() })
    }

    /// Reads an object.
    pub fn get<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<T, ApiError> {
        let bytes = self.ask("GET", path, None, time)?.into_bytes(path, MAX_OBJECT_LEN)?;
        decode(path, &bytes)
    }

    /// Reads a list.
    pub fn list<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<T, ApiError> {
        let bytes = self.ask("GET", path, None, time)?.into_bytes(path, MAX_LIST_LEN)?;
        decode(path, &bytes)
    }

    /// Makes an object.
    pub fn create(&self, path: &str, object: &Value, time: Duration) -> Result<(), ApiError> {
        self.ask("POST", path, Some(("application/json", object)), time)?.into_bytes(path, MAX_OBJECT_LEN).map(drop)
    }

    /// Changes an object by a JSON merge patch.
    pub fn merge(&self, path: &str, patch: &Value, time: Duration) -> Result<(), ApiError> {
        let patch = Some(("application/merge-patch+json", patch));
        self.ask("PATCH", path, patch, time)?.into_bytes(path, MAX_OBJECT_LEN).map(drop)
    }

    /// Deletes an object, if it is the one that the options name.
    pub fn delete(&self, path: &str, options: &Value, time: Duration) -> Result<(), ApiError> {
        self.ask("DELETE", path, Some(("application/json", options)), time)?.into_bytes(path, MAX_OBJECT_LEN).map(drop)
    }

    /// Follows changes, for at most `time`.
    pub fn watch<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<Changes<T>, ApiError> {
        let answer = self.ask("GET", path, None, time)?;
        let lines = BufReader::new(Box::new(answer.body.into_reader()) as Box<dyn Read>);
        Ok(Changes { path: path.to_owned(), lines, kind: std::marker::PhantomData })
    }

    fn ask(&self, method: &'static str, path: &str, body: Option<(&str, &Value)>, time: Duration) -> Result<Answer, ApiError> {
        let unreachable =
            |error: ureq::Error| ApiError::Unreachable { server: self.access.server.clone(), reason: error.to_string() };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.access.server))
            .header("authorization", format!("Bearer {}", self.access.token))
            .header("accept", "application/json");
        let response = match body {
            None => {
                let request = request.body(()).map_err(|error| ApiError::setup("the request")(error.to_string()))?;
                let request = self.agent.configure_request(request).timeout_global(Some(time)).build();
                self.agent.run(request).map_err(unreachable)?
            }
            Some((kind, body)) => {
                let request = request
                    .header("content-type", kind)
                    .body(body.to_string())
                    .map_err(|error| ApiError::setup("the request")(error.to_string()))?;
                let request =
                    self.agent.configure_request(request).timeout_global(Some(time)).allow_non_standard_methods(true).build();
                self.agent.run(request).map_err(unreachable)?
            }
        };
        let status = response.status().as_u16();
        let answer = Answer { server: self.access.server.clone(), body: response.into_body() };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let said = answer.into_bytes(path, MAX_OBJECT_LEN).unwrap_or_default();
        Err(ApiError::Refused { method, path: path.to_owned(), status, message: message(&said), hint: hint(status) })
    }
}

struct Answer {
    server: String,
    body: ureq::Body,
}

impl Answer {
    fn into_bytes(mut self, path: &str, most: u64) -> Result<Vec<u8>, ApiError> {
        let read = self.body.with_config().limit(most).read_to_vec();
        read.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                ApiError::Answer { path: path.to_owned(), reason: format!("longer than {most} bytes") }
            }
            error => ApiError::Unreachable { server: self.server, reason: error.to_string() },
        })
    }
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::Answer { path: path.to_owned(), reason: error.to_string() })
}

/// What a `Status` object says, or the beginning of whatever else it is.
fn message(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    const MOST: usize = 300;
    let text =
        serde_json::from_slice::<Status>(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), |it| it.message);
    text.chars().take(MOST).collect::<String>().trim().to_owned()
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => {
            "; the token in the kubeconfig is no longer valid: see whether the pod of DaemonSet linkerd-cni runs on this node, \
             which renews it"
        }
        403 => "; the account linkerd-cni lacks a right: see its ClusterRole",
        _ => "",
    }
}

/// A change that a watch tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What changed; with `ERROR`, why.
    pub object: T,
}

/// Changes as they come. Ends with the watch's time, or when the server ends it.
pub struct Changes<T> {
    path: String,
    lines: BufReader<Box<dyn Read>>,
    kind: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Iterator for Changes<T> {
    type Item = Result<Change<T>, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(MAX_OBJECT_LEN).read_until(b'\n', &mut line);
        match read {
            // The server has nothing more to say for this watch.
            Ok(0) => None,
            Ok(_) => Some(decode(&self.path, &line)),
            // Its time is over, or the connection broke: whoever watches lists again.
            Err(error) => {
                tracing::debug!(path = self.path, %error, "watch ended");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn access() -> Access {
        Access { server: "https://[fd00::1]:443".into(), roots: "PEM".into(), token: "secret".into() }
    }

    #[test]
    fn a_kubeconfig_is_read_as_it_was_written() {
        assert_eq!(Access::parse(&access().kubeconfig()).unwrap(), access());
        for broken in ["", "{}", r#"{"clusters": [], "users": []}"#] {
            assert!(Access::parse(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn tokens_are_not_printed() {
        assert!(!format!("{:?}", access()).contains("secret"));
    }

    #[test]
    fn an_account_with_its_surroundings_is_an_access() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "secret\n").unwrap();
        fs::write(folder.path().join("ca.crt"), "PEM").unwrap();
        let found = Access::of_account(folder.path(), &folder.path().join("ca.crt"), "fd00::1", "443").unwrap();
        assert_eq!(found, access());
        let missing = Access::of_account(folder.path(), &folder.path().join("none"), "10.0.0.1", "443").unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[test]
    fn roots_must_be_certificates() {
        assert!(Api::new(access()).is_err());
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        assert_eq!(message(br#"{"kind": "Status", "message": "pods \"a\" not found"}"#), "pods \"a\" not found");
        assert_eq!(message(b"<html>bad gateway"), "<html>bad gateway");
        assert!(message(&[b'x'; 10_000]).len() < 1000);
    }
}
