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
//! Both the issuer and the anchors are followed while running, so rotating either needs no restart.

mod material;
mod metrics;
mod service;
mod tokens;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args as ClapArgs;
use futures::StreamExt;
use homarus_daemon::args::Listen;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use homarus_identity::issuer::Validity;
use homarus_model::duration;
use homarus_model::identity::Naming;
use kube::Client;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use tokio_stream::wrappers::TcpListenerStream;
use tracing::{error, info, warn};

use crate::events::Recorder;
use crate::run::{Compatibility, Logging, Program};
use material::{Material, Sources};
use service::Certifier;
use tokens::ClusterTokens;

/// The largest request that is read: a token and a signing request fit many times.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

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
    #[command(flatten)]
    compatibility: Compatibility,
    #[command(flatten)]
    logging: Logging,
}

/// Serves certificates until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    if args.identity_scheme.is_empty() || args.identity_trust_domain.is_empty() {
        warn!("no identity scheme or trust domain is configured: identity is disabled");
        return Ok(());
    }
    let (mut program, ready) = Program::start(args.admin_addr, "issuer and API server").await?;
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;
    tokens::require_access(&client).await?;
    let recorder = Recorder::spawn(client.clone(), "linkerd-identity");
    let tokens = ClusterTokens::new(client, args.kube_apiclient_burst.into());
    let certifier = start(&args, tokens, recorder, &program.metrics, program.drain())?;
    let listener = args.addr.bind().await.context("failed to bind the address for certificates")?;
    info!(address = %listener.local_addr()?, "serving certificates");
    let mut serving = tokio::spawn(serve(listener, certifier, program.drain()));
    ready.open();
    if let Some(ended) = program.work(&mut serving).await {
        return ended?;
    }
    program.end().await;
    Ok(())
}

/// Reads issuer and anchors (which must be good at the start) and follows their changes from here on.
fn start<T: tokens::ReviewTokens>(
    args: &Args,
    tokens: T,
    recorder: Recorder,
    metrics: &Metrics,
    drain: Drain,
) -> anyhow::Result<Certifier<T>> {
    let sources = Sources::new(&args.issuer, &args.identity_scheme, &args.trust_anchors);
    let validity = Validity { lifetime: args.identity_issuance_lifetime, skew: args.identity_clock_skew_allowance };
    let log = service::Log::new(recorder, &args.controller_namespace);
    let material = Material::load(sources, validity, SystemTime::now()).inspect_err(|error| {
        error!(%error, "the issuer can't be used");
        log.issuer_failed(error);
    })?;
    let current = material.current();
    metrics::register(metrics, current.clone());
    tokio::spawn(material.follow(log.clone(), drain));
    let naming = Naming {
        control_plane_ns: args.controller_namespace.as_str().into(),
        trust_domain: args.identity_trust_domain.as_str().into(),
    };
    Ok(Certifier::new(naming, current, Arc::new(tokens), log, metrics))
}

/// Serves gRPC until the program drains and requests under way are answered.
async fn serve<T: tokens::ReviewTokens>(
    listener: tokio::net::TcpListener,
    certifier: Certifier<T>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let _until_answered = drain.clone();
    let service = IdentityServer::new(certifier).max_decoding_message_size(MAX_REQUEST_BYTES);
    // Answers are small and awaited: a proxy starts with this one.
    let incoming = TcpListenerStream::new(listener).inspect(|accepted| {
        if let Ok(stream) = accepted {
            let _ = stream.set_nodelay(true);
        }
    });
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .serve_with_incoming_shutdown(service, incoming, async move { drain.signaled().await })
        .await
        .context("serving certificates failed")
}
