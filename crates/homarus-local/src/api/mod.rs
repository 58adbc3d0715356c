//! The embedded API: a small, generic object store that speaks the Kubernetes API, for one machine.
//!
//! # The path of a request
//! `serve` (TLS, HTTP, what is named) → `authn` (who) → `authz` (may they) → `admission` (what the cluster and its
//! webhooks add or refuse) → `patch`, `defaults`, `validate` (the new object) → `store` (one writer, one counter) →
//! `serve::watch` (whoever listens). `collect` follows the store: owners, finalizers, namespaces. `schema` is the one
//! table that drives the generic parts; `table` prints rows; `streams` carries what leaves HTTP behind (port-forwarding, exec).
//!
//! # Use
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use homarus_local::api::{Api, Config};
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let api = Api::open(Config::ephemeral(vec![listener.local_addr()?]))?;
//! api.write_kubeconfig("kubeconfig".as_ref())?;
//! let client = api.client();
//! tokio::spawn(api.clone().serve(listener));
//! # Ok(()) }
//! ```
//!
//! Deliberately absent: answers in protobuf, API aggregation, quotas, CEL rules, old `watch/` paths. Fit for one machine: one
//! lock, all objects in memory, a bounded window of changes per kind.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod collect;
pub mod defaults;
#[cfg(test)]
mod hostile;
pub mod node;
pub mod patch;
pub mod refusal;
pub mod schema;
pub mod serve;
pub mod store;
pub mod streams;
pub mod table;
pub mod validate;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::Ipv4Net;
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::TcpListener;

use admission::dial::{DialEndpoints, ServiceDialer};
use authn::User;
use authn::authority::{Authority, AuthorityError, Pair};
use authn::token::Tokens;
use node::NodeBackend;
use store::Store;
use store::journal::{Journal, JournalError, private_file};
use store::shared::Shared;

/// Who signs tokens, and their default audience: what every pod of a cluster expects.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Where and how the API runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The private folder with objects, keys and certificates; `None` keeps all in memory.
    pub state: Option<PathBuf>,
    /// Services get their ClusterIPs from here; the first address is the API's own.
    pub service_cidr: Ipv4Net,
    /// Under which addresses clients reach the API; the first goes into the kubeconfig. All go into the certificate.
    pub addresses: Vec<SocketAddr>,
    /// Which of them pods use: the endpoint behind the Service `kubernetes`. Default: the first of `addresses`.
    pub pods: Option<SocketAddr>,
}

impl Config {
    /// All in memory.
    pub fn ephemeral(addresses: Vec<SocketAddr>) -> Config {
        let service_cidr = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16);
        Config { state: None, service_cidr, addresses, pods: None }
    }
}

/// Why the API can't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No address to be reached under.
    #[error("the API needs an address to be reached under; give at least one")]
    NoAddress,
}

/// What all requests share.
pub struct Core {
    /// All objects.
    pub store: Shared,
    /// Keys of tokens.
    pub tokens: Tokens,
    authority: Authority,
    admin: Pair,
    tls: Arc<ServerConfig>,
    config: Config,
    node: OnceLock<Arc<dyn NodeBackend>>,
    dialer: OnceLock<Arc<dyn ServiceDialer>>,
    pages: serve::read::Pages,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The embedded API. Clones share it.
#[derive(Debug, Clone)]
pub struct Api {
    core: Arc<Core>,
    _keeper: Arc<collect::Keeper>,
}

impl Api {
    /// Opens the state and starts what follows from changes (collection, namespaces). Call within a tokio runtime;
    /// nothing listens yet.
    pub fn open(config: Config) -> Result<Api, OpenError> {
        let first = *config.addresses.first().ok_or(OpenError::NoAddress)?;
        let (authority, journal, store) = match &config.state {
            Some(folder) => {
                let (journal, store) = Journal::open(folder)?;
                (Authority::open(folder)?, Some(journal), store)
            }
            None => (Authority::generate()?, None, Store::default()),
        };
        let names =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
        let mut addresses: Vec<_> = config.addresses.iter().map(SocketAddr::ip).collect();
        addresses.extend(config.pods.map(|p| p.ip()));
        addresses.extend(config.service_cidr.hosts().next().map(std::net::IpAddr::V4));
        let core = Arc::new(Core {
            tls: authority.tls(&names, &addresses)?,
            admin: authority.client("kubernetes-admin", &[authn::MASTERS])?,
            tokens: Tokens::new(authority.token_key(), ISSUER.into()).map_err(AuthorityError::TokenKey)?,
            store: Shared::new(store, journal),
            authority,
            node: OnceLock::new(),
            dialer: OnceLock::new(),
            pages: serve::read::Pages::default(),
            config,
        });
        defaults::cluster::ensure(&core, core.config.pods.unwrap_or(first));
        core.store.forget();
        let keeper = Arc::new(collect::Keeper::start(&core));
        Ok(Api { core, _keeper: keeper })
    }

    /// Serves a listener, for ever; drop or abort the future to stop. Several listeners may be served at once.
    pub async fn serve(self, listener: TcpListener) {
        serve::listen(self.core.clone(), listener).await;
    }

    /// Tells the API who runs pods, for logs and port-forwarding. Only the first call counts.
    pub fn set_node(&self, node: Arc<dyn NodeBackend>) {
        let _ = self.core.node.set(node);
    }

    /// Tells the API how to reach Services, for webhooks. Without it their endpoints are dialed from this process.
    pub fn set_dialer(&self, dialer: Arc<dyn ServiceDialer>) {
        let _ = self.core.dialer.set(dialer);
    }

    /// A kubeconfig with an administrator's certificate, for the first address.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(&self.core.admin)
    }

    /// A kubeconfig for the node `name`: user `system:node:NAME` in group `system:nodes`.
    pub fn node_kubeconfig(&self, name: &str) -> Result<String, AuthorityError> {
        let pair = self.core.authority.client(&format!("system:node:{name}"), &["system:nodes"])?;
        Ok(self.kubeconfig_with(&pair))
    }

    fn kubeconfig_with(&self, pair: &Pair) -> String {
        let server = self.core.config.addresses.first().map(|a| format!("https://{a}")).unwrap_or_default();
        let encode = |text: &str| BASE64.encode(text);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "homarus",
            "clusters": [{"name": "homarus", "cluster": {
                "server": server, "certificate-authority-data": encode(self.core.authority.certificate()),
            }}],
            "users": [{"name": "homarus", "user": {
                "client-certificate-data": encode(&pair.certificate), "client-key-data": encode(&pair.key),
            }}],
            "contexts": [{"name": "homarus", "context": {"cluster": "homarus", "user": "homarus"}}],
        });
        // JSON is YAML.
        format!("{config:#}\n")
    }

    /// Writes the administrator's kubeconfig where only this user can read it.
    pub fn write_kubeconfig(&self, path: &Path) -> std::io::Result<()> {
        private_file(path, self.kubeconfig().as_bytes())
    }

    /// The certificate that pods and clients verify the API with (PEM).
    pub fn authority(&self) -> &str {
        self.core.authority.certificate()
    }

    /// A client with an administrator's rights. It enters behind TLS, within the process: requests take the path of all
    /// others from `authn` on, work before any listener does, and cost no handshake.
    pub fn client(&self) -> kube::Client {
        self.client_as(User::admin())
    }

    /// A client that is someone else.
    pub fn client_as(&self, user: User) -> kube::Client {
        let (core, user) = (self.core.clone(), Arc::new(user));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (core, user) = (core.clone(), user.clone());
            async move { Ok::<_, Infallible>(serve::respond(&core, Some(&user), request).await) }
        });
        kube::Client::new(service, "default")
    }
}

impl Core {
    fn dialer(&self) -> Arc<dyn ServiceDialer> {
        self.dialer.get().cloned().unwrap_or_else(|| Arc::new(DialEndpoints))
    }
}

/// The time, whose only source is here.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// As objects carry it: RFC 3339 with seconds.
pub fn now_text() -> String {
    now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
