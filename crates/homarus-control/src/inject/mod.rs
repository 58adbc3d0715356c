//! The injector: a webhook that turns pods into meshed ones as they are created.
//!
//! The path of a request: TLS with a certificate that may change at any time and an AdmissionReview of either version
//! (`crate::webhook`), the facts it doesn't carry (`cluster`: the namespace's annotations, what the pod belongs
//! to), the mesh's values as they are mounted now (`config`), the pure decision and patch
//! ([`homarus_kube::injection`]), and what operators see of it (`webhook`, `metrics`).
//!
//! Pods that came up without the proxy they ask for, because the webhook was not asked, are found and told of (`missed`).
//!
//! Doubt denies: whatever can't be read answers `allowed: false` with the reason. (Whether pods start without the injector
//! is decided elsewhere, by the webhook configuration's failure policy.)

mod cluster;
mod config;
mod metrics;
mod missed;
mod webhook;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args as ClapArgs;
use homarus_daemon::args::Listen;
use kube::Client;

use crate::events::Recorder;
use crate::run::{Compatibility, Logging, Program};
use crate::webhook::{INJECTOR, Origin};
use cluster::KubernetesCluster;
use config::Config;
use webhook::Webhook;

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
    /// Make the webhook's certificate and tell the API server, rather than read it from --tls-dir.
    #[arg(long)]
    manage_certificates: bool,
    /// File of the mesh's values.
    #[arg(long, default_value = "/var/run/linkerd/config/values")]
    values: PathBuf,
    /// File of the trust anchors.
    #[arg(long, default_value = "/var/run/linkerd/identity/trust-roots/ca-bundle.crt")]
    trust_anchors: PathBuf,
    /// Path of a kubeconfig; by default that of the cluster this runs in.
    #[arg(long, default_value = "")]
    kubeconfig: String,
    #[command(flatten)]
    compatibility: Compatibility,
    #[command(flatten)]
    logging: Logging,
}

/// Serves the webhook until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    let (mut program, ready) = Program::start(args.metrics_addr, "namespaces").await?;
    let client = client(&args.kubeconfig).await?;
    let recorder = Recorder::spawn(client.clone(), "linkerd-proxy-injector");
    let config = Config::new(&args.values, &args.trust_anchors);
    let drain = program.drain();
    let origin = Origin::of(args.manage_certificates, &args.linkerd_namespace, &args.tls_dir);
    let gate = program.readiness.gate("certificate of the webhook");
    let webhook = crate::webhook::Webhook::start(&INJECTOR, args.addr, origin, &client, &program.metrics, gate, drain.clone())?;
    let cluster = Arc::new(KubernetesCluster::watch(client.clone(), drain.clone()));
    let finder = missed::Finder {
        client,
        cluster: cluster.clone(),
        config: Config::new(&args.values, &args.trust_anchors),
        recorder: recorder.clone(),
        counters: missed::Counters::new(&program.metrics),
    };
    tokio::spawn(missed::run(finder, args.linkerd_namespace.clone(), drain.clone()));
    let metrics = program.metrics.clone();
    let served = async {
        cluster.wait_until_known().await?;
        let answer = Webhook::new(args.linkerd_namespace, config, cluster, recorder, &metrics);
        ready.open();
        webhook.serve(answer, drain).await
    };
    program.work(served).await.transpose()?;
    program.end().await;
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
