//! What the webhooks of the control plane share: HTTPS for API servers ([`server`]), the reviews that they post ([`review`]), the
//! certificate to answer with ([`serving`]), and making it where nobody else does ([`managed`]).

pub(crate) mod managed;
pub(crate) mod review;
pub(crate) mod server;
pub(crate) mod serving;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use homarus_daemon::Gate;
use homarus_daemon::args::Listen;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use kube::Client;
use serde_json::Value;
use tracing::info;

use managed::Managed;
use review::BadReview;
use serving::{Files, ServingCertificate};

/// Answers admission reviews.
pub(crate) trait Answer: Send + Sync + 'static {
    /// The answer to the body of a request.
    fn answer(&self, body: &[u8]) -> impl Future<Output = Result<Value, BadReview>> + Send;
}

/// How an API server knows a webhook.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The Service's name; Secret and configuration are named after it.
    pub(crate) service: &'static str,
    /// Whose it is (`linkerd.io/control-plane-component`).
    pub(crate) component: &'static str,
    /// The kind of its configuration.
    pub(crate) kind: Kind,
    /// How long the program may count as not ready because the API server wasn't told the certificate yet. None: it has nothing
    /// else to do, so as long as it takes.
    pub(crate) patience: Option<Duration>,
}

/// The kind of a webhook's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mutating,
    Validating,
}

/// The injector's.
pub(crate) const INJECTOR: Hook =
    Hook { service: "linkerd-proxy-injector", component: "proxy-injector", kind: Kind::Mutating, patience: None };
/// Of ServiceProfiles. It shares its pod with what proxies need: that can't wait.
pub(crate) const PROFILES: Hook =
    Hook { service: "linkerd-sp-validator", component: "destination", kind: Kind::Validating, patience: Some(PATIENCE) };
/// Of policies and routes.
pub(crate) const POLICIES: Hook =
    Hook { service: "linkerd-policy-validator", component: "destination", kind: Kind::Validating, patience: Some(PATIENCE) };

const PATIENCE: Duration = Duration::from_secs(15);

/// Where a webhook's certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Somebody mounts it.
    Mounted(Files),
    /// The controller makes it, and keeps it in a Secret of this namespace.
    Managed { namespace: String },
}

impl Origin {
    /// As a controller's flags say.
    pub(crate) fn of(managed: bool, namespace: &str, folder: &Path) -> Self {
        match managed {
            true => Self::Managed { namespace: namespace.to_owned() },
            false => Self::Mounted(Files::of_folder(folder)),
        }
    }
}

/// A webhook that has its certificate, or will have it soon.
pub(crate) struct Webhook {
    certificate: ServingCertificate,
    addr: Listen,
}

impl Webhook {
    /// Reads the certificate or begins to make it. The gate opens once an API server can ask.
    pub(crate) fn start(
        hook: &'static Hook,
        addr: Listen,
        origin: Origin,
        client: &Client,
        metrics: &Metrics,
        gate: Gate,
        drain: Drain,
    ) -> anyhow::Result<Self> {
        let certificate = match origin {
            Origin::Mounted(files) => {
                let certificate = ServingCertificate::load(&files)?;
                gate.open();
                tokio::spawn(certificate.clone().follow(files, drain));
                certificate
            }
            Origin::Managed { namespace } => {
                let certificate = ServingCertificate::default();
                let managed = Managed::new(hook, client, namespace, certificate.clone(), metrics);
                tokio::spawn(managed.keep(gate, drain));
                certificate
            }
        };
        Ok(Self { certificate, addr })
    }

    /// Answers until the program drains.
    pub(crate) async fn serve<A: Answer>(self, answer: A, drain: Drain) -> anyhow::Result<()> {
        let listener = self.addr.bind().await.context("failed to bind the address of the webhook")?;
        info!(address = %listener.local_addr()?, "serving the webhook");
        server::serve(listener, self.certificate, Arc::new(answer), drain).await
    }
}
