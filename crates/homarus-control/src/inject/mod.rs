//! The injector: a webhook that turns pods into meshed ones as they are created.
//!
//! The path of a request: TLS with a certificate that may change at any time (`server`), an AdmissionReview of either
//! version (`admission`), the facts it doesn't carry (`cluster`: the namespace's annotations, what the pod belongs
//! to), the mesh's values as they are mounted now (`config`), the pure decision and patch
//! ([`homarus_kube::injection`]), and what operators see of it (`webhook`, `metrics`).
//!
//! Doubt denies: whatever can't be read answers `allowed: false` with the reason. (Whether pods start without the injector
//! is decided elsewhere, by the webhook configuration's failure policy.)

mod admission;
mod cluster;
mod config;
mod metrics;
mod server;
mod webhook;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use homarus_daemon::admin::Admin;
use homarus_daemon::args::Listen;
use homarus_daemon::metrics::Metrics;
use homarus_daemon::{Readiness, drain, logs};
use kube::Client;
use tracing::info;

use crate::events::Recorder;
use cluster::KubernetesCluster;
use config::Config;
use webhook::Webhook;

/// How long requests under way may take when the controller ends.
const GRACE: Duration = Duration::from_secs(10);

/// The flags of `homarus controller proxy-injector`. Linkerd's charts pass them with one dash: see
/// [`double_dashes`](homarus_daemon::args::double_dashes).
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Address of the webhook.
    #[arg(long, default_value = ":8443")]
    addr: Listen,
    /// Address of the admin server.
    #[arg(long, default_value = ":9995")]
    metrics_addr: Listen,
    /// Namespace of the control plane.
    #[arg(long, default_value = "linkerd")]
    linkerd_namespace: String,
    /// Directory of the webhook's certificate (tls.crt) and key (tls.key).
    #[arg(long, default_value = "/var/run/linkerd/tls")]
    tls_dir: PathBuf,
    /// File of the mesh's values.
    #[arg(long, default_value = "/var/run/linkerd/config/values")]
    values: PathBuf,
    /// File of the trust anchors.
    #[arg(long, default_value = "/var/run/linkerd/identity/trust-roots/ca-bundle.crt")]
    trust_anchors: PathBuf,
    /// Path of a kubeconfig; by default that of the cluster this runs in.
    #[arg(long, default_value = "")]
    kubeconfig: String,
    /// Accepted for compatibility: there is no Go profiler here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    enable_pprof: String,
    /// Accepted for compatibility.
    #[arg(long, default_value = "")]
    trace_collector: String,
    /// Log filter.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Log format: plain or json.
    #[arg(long, default_value = "plain")]
    log_format: logs::Format,
}

/// Serves the webhook until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    logs::init(&args.log_level, args.log_format)?;
    let mut requests = drain::requests().context("failed to listen for signals")?;
    let (signal, drain) = drain::channel();
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let ready = readiness.gate("namespaces and serving certificate");
    let admin = Admin::bind(args.metrics_addr, metrics.clone(), readiness).await.context("failed to bind the admin address")?;
    tokio::spawn(admin.serve(drain.clone()));

    let client = client(&args.kubeconfig).await?;
    let recorder = Recorder::spawn(client.clone(), "linkerd-proxy-injector");
    let config = Config::new(&args.values, &args.trust_anchors);
    let certificate = server::ServingCertificate::load(&args.tls_dir)?;
    let cluster = KubernetesCluster::watch(client, drain.clone());
    let listener = args.addr.bind().await.context("failed to bind the address of the webhook")?;
    info!(address = %listener.local_addr()?, "serving the injection webhook");
    tokio::select! {
        known = cluster.wait_until_known() => known?,
        request = requests.next() => {
            info!(%request, "ended before namespaces were known");
            return Ok(());
        }
    }
    let webhook = Arc::new(Webhook::new(args.linkerd_namespace, config, cluster, recorder, &metrics));
    tokio::spawn(certificate.clone().follow(args.tls_dir, drain.clone()));
    tokio::spawn(server::serve(listener, certificate, webhook, drain));
    ready.open();
    info!(request = %requests.next().await, "draining");
    tokio::select! {
        _ = signal.finish(GRACE) => {}
        request = requests.next() => info!(%request, "not waiting for requests under way"),
    }
    Ok(())
}

async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    if kubeconfig.is_empty() {
        return Client::try_default().await.context("no way to reach the Kubernetes API");
    }
    let file = kube::config::Kubeconfig::read_from(kubeconfig).with_context(|| format!("failed to read {kubeconfig}"))?;
    let config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
