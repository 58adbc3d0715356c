//! The identity controller: certificates for workloads that prove who they are with their service-account token.
//!
//! The path of a request: a proxy sends its name, its token and a signing request (`service`); the API server says whose
//! token it is (`tokens`); if that is the name, the [`Issuer`](homarus_identity::Issuer) of the moment signs
//! (`material`).
//!
//! Invariants: no leaf without a token that was reviewed for our audience, and that the API server says it reviewed for it;
//! issuer and anchors change only to material that was verified, so the last good ones stay; everything that goes wrong
//! with the issuer is an Event on the controller's Deployment and in the log.
//!
//! Both the issuer and the anchors are followed while running, so rotating either needs no restart: from files that somebody
//! provides, or from the objects that this controller keeps itself (`managed`). What is in force is streamed to proxies that
//! ask for it (`followers`), so that they follow as well.

mod ends;
mod followers;
mod managed;
mod material;
mod metrics;
mod ready;
mod service;
mod tokens;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use futures::StreamExt;
use homarus_daemon::args::Listen;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use homarus_identity::issuer::Validity;
use homarus_model::duration;
use homarus_model::identity::Naming;
use homarus_wire::trust::TrustServer;
use kube::Client;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Poll, Service};
use tonic::server::NamedService;
use tracing::{error, info, warn};

use crate::events::Recorder;
use crate::run::{Compatibility, Logging, Program};
use followers::{Followers, Teller};
use managed::{Around, ManagedArgs};
use material::{Current, Material, Sources};
use service::{Certifier, Log};
use tokens::ClusterTokens;

/// The largest request that is read: a token and a signing request fit many times.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Streams on one connection: the proxy in front of us may carry those of every other proxy on one, and they stay open.
const MAX_STREAMS: u32 = 200_000;

/// The flags of `homarus controller identity`. Linkerd's charts pass them with one dash: see
/// [`double_dashes`](homarus_daemon::args::double_dashes).
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Address to serve certificates on.
    #[arg(long, default_value = ":8080")]
    addr: Listen,
    /// Address of the admin server.
    #[arg(long, default_value = ":9990")]
    admin_addr: Listen,
    /// Namespace of the control plane, part of every identity.
    #[arg(long, default_value = "linkerd")]
    controller_namespace: String,
    /// How the issuer Secret names its keys: linkerd.io/tls (crt.pem, key.pem), or anything else (tls.crt, tls.key).
    #[arg(long, default_value = "")]
    identity_scheme: String,
    /// Trust domain, part of every identity.
    #[arg(long, default_value = "")]
    identity_trust_domain: String,
    /// How long certificates live.
    #[arg(long, default_value = "24h", value_parser = duration::parse_go)]
    identity_issuance_lifetime: Duration,
    /// How far clocks may be apart.
    #[arg(long, default_value = "10s", value_parser = duration::parse_go)]
    identity_clock_skew_allowance: Duration,
    /// Directory of the issuer's certificate and key.
    #[arg(long, default_value = "/var/run/linkerd/identity/issuer")]
    issuer: PathBuf,
    /// File of the trust anchors.
    #[arg(long, default_value = "/var/run/linkerd/identity/trust-roots/ca-bundle.crt")]
    trust_anchors: PathBuf,
    /// Requests per second to the API server. Accepted for compatibility: the API server's own fairness does this better.
    #[arg(long, default_value_t = 100.0)]
    kube_apiclient_qps: f32,
    /// Token reviews that may be under way at once.
    #[arg(long, default_value_t = 200)]
    kube_apiclient_burst: u16,
    /// Do nothing but wait until the controller beside answers on its admin address that it is ready.
    #[arg(long)]
    wait_until_ready: bool,
    #[command(flatten)]
    managed: ManagedArgs,
    #[command(flatten)]
    compatibility: Compatibility,
    #[command(flatten)]
    logging: Logging,
}

impl Args {
    fn naming(&self) -> Naming {
        Naming {
            control_plane_ns: self.controller_namespace.as_str().into(),
            trust_domain: self.identity_trust_domain.as_str().into(),
        }
    }

    fn validity(&self) -> Validity {
        Validity { lifetime: self.identity_issuance_lifetime, skew: self.identity_clock_skew_allowance }
    }
}

/// Serves certificates until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    if args.wait_until_ready {
        return ready::wait(args.admin_addr).await;
    }
    if args.identity_scheme.is_empty() || args.identity_trust_domain.is_empty() {
        warn!("no identity scheme or trust domain is configured: identity is disabled");
        return Ok(());
    }
    let (mut program, ready) = Program::start(args.admin_addr, "issuer and API server").await?;
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;
    let listener = args.addr.bind().await.context("failed to bind the address for certificates")?;
    let log = Log::new(Recorder::spawn(client.clone(), "linkerd-identity"), &args.controller_namespace);
    let (metrics, drain, followers) = (program.metrics.clone(), program.drain(), Followers::default());
    let starting = async {
        tokens::require_access(&client).await?;
        current(&args, client.clone(), &followers, &log, &metrics, drain.clone()).await
    };
    let Some(current) = program.work(starting).await.transpose()? else {
        program.end().await;
        return Ok(());
    };
    tokio::spawn(ends::watch(current.clone(), log.clone(), drain.clone()));
    metrics::register(&metrics, current.clone(), followers.clone());
    let tokens = Arc::new(ClusterTokens::new(client, args.kube_apiclient_burst.into()));
    let certifier = Certifier::new(args.naming(), current.clone(), tokens, log, &metrics);
    let teller = Teller::new(current, followers, drain.clone());
    info!(address = %listener.local_addr()?, "serving certificates");
    let mut serving = tokio::spawn(serve(listener, certifier, teller, drain));
    ready.open();
    if let Some(ended) = program.work(&mut serving).await {
        return ended?;
    }
    program.end().await;
    Ok(())
}

/// What is in force, followed from here on: what this controller keeps, or what is mounted.
async fn current(
    args: &Args,
    client: Client,
    followers: &Followers,
    log: &Log,
    metrics: &Metrics,
    drain: Drain,
) -> anyhow::Result<Current> {
    if !args.managed.manage_certificates {
        return mounted(args, log.clone(), drain);
    }
    let around =
        Around { client, naming: args.naming(), validity: args.validity(), followers: followers.clone(), log: log.clone(), drain };
    managed::start(&args.managed, around, metrics).await
}

/// Reads issuer and anchors, which must be good at the start, and follows their changes from here on.
fn mounted(args: &Args, log: Log, drain: Drain) -> anyhow::Result<Current> {
    let sources = Sources::new(&args.issuer, &args.identity_scheme, &args.trust_anchors);
    let material = Material::load(sources, args.validity()).inspect_err(|error| {
        error!(%error, "the issuer can't be used");
        log.issuer_failed(error);
    })?;
    let current = material.current();
    tokio::spawn(material.follow(log, drain));
    Ok(current)
}

/// Serves gRPC until the program drains and requests under way are answered.
async fn serve<T: tokens::ReviewTokens>(
    listener: tokio::net::TcpListener,
    certifier: Certifier<T>,
    teller: Teller,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let _until_answered = drain.clone();
    let services = Services {
        identity: IdentityServer::new(certifier).max_decoding_message_size(MAX_REQUEST_BYTES),
        trust: TrustServer::new(Arc::new(teller)),
    };
    // Answers are small and awaited: a proxy starts with this one.
    let incoming = TcpListenerStream::new(listener).inspect(|accepted| {
        if let Ok(stream) = accepted {
            let _ = stream.set_nodelay(true);
        }
    });
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .serve_with_incoming_shutdown(services, incoming, async move { drain.signaled().await })
        .await
        .context("serving certificates failed")
}

/// Both services behind one address. (Tonic's own router would bring a whole web framework.)
struct Services<T> {
    identity: IdentityServer<Certifier<T>>,
    trust: TrustServer<Teller>,
}

impl<T> Clone for Services<T> {
    fn clone(&self) -> Self {
        Self { identity: self.identity.clone(), trust: self.trust.clone() }
    }
}

impl<T: tokens::ReviewTokens> Service<http::Request<Body>> for Services<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1);
        match service {
            Some(<TrustServer<Teller> as NamedService>::NAME) => self.trust.call(request),
            _ => self.identity.call(request),
        }
    }
}
