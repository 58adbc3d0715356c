//! The heartbeat: once a day, what an operator may want to know of a mesh at a glance (control-plane §10).
//!
//! Nothing is sent anywhere unless the operator names a URL. Linkerd's heartbeat asks a server of its makers for the latest
//! version and tells it about the cluster; ours writes the same facts into its log, and a cluster never phones home by surprise.
//! With `--url` the facts go there, as the query of a GET, so that whoever runs many clusters can collect them.

mod facts;

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args as ClapArgs;
use http::Uri;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config};
use tracing::{info, warn};

use crate::run::Logging;
use facts::{Facts, QUERIES};

/// How long collecting and sending may take, each.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a single question may take.
const QUESTION: Duration = Duration::from_secs(5);

/// The flags of `homarus controller heartbeat`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Namespace of the control plane.
    #[arg(long, default_value = "linkerd")]
    controller_namespace: String,
    /// Prometheus with the proxies' metrics; without one there is less to tell.
    #[arg(long, default_value = "")]
    prometheus_url: String,
    /// Where to send the facts; nowhere by default.
    #[arg(long, default_value = "")]
    url: String,
    #[command(flatten)]
    logging: Logging,
}

/// Collects the facts, tells them, and ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;
    let mut facts = Facts::of_program();
    let collected = tokio::time::timeout(TIMEOUT, async {
        of_cluster(&client, &args.controller_namespace, &mut facts).await;
        if !args.prometheus_url.is_empty() {
            of_prometheus(&args.prometheus_url, &mut facts).await;
        }
    });
    if collected.await.is_err() {
        warn!("collecting took too long: some facts are missing");
    }
    let facts = facts.to_query();
    info!(facts, "heartbeat");
    if args.url.is_empty() {
        info!("nothing is sent anywhere; to collect this from many clusters, set heartbeat.url");
        return Ok(());
    }
    let sending = tokio::time::timeout(TIMEOUT, get(&args.url, &facts));
    sending.await.context("no answer in time").flatten().with_context(|| format!("sending to {}", args.url))?;
    info!(to = args.url, "sent");
    Ok(())
}

/// What can't be read is left out.
async fn of_cluster(client: &Client, namespace: &str, facts: &mut Facts) {
    match client.apiserver_version().await {
        Ok(version) => facts.put("k8s-version", version.git_version),
        Err(error) => warn!(%error, "the version of Kubernetes is unknown"),
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match maps.get("linkerd-config").await {
        Ok(map) => facts.of_installation(&map),
        Err(error) => warn!(%error, "the installation is unknown"),
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.list_metadata(&ListParams::default().labels("linkerd.io/extension")).await {
        Ok(list) => facts.of_extensions(&list.items),
        Err(error) => warn!(%error, "extensions are unknown"),
    }
    let profiles = ApiResource::from_gvk(&GroupVersionKind::gvk("linkerd.io", "v1alpha2", "ServiceProfile"));
    let profiles: Api<DynamicObject> = Api::all_with(client.clone(), &profiles);
    match profiles.list_metadata(&ListParams::default()).await {
        Ok(list) => facts.put("service-profile-count", list.items.len()),
        Err(error) => warn!(%error, "ServiceProfiles are unknown"),
    }
}

async fn of_prometheus(url: &str, found: &mut Facts) {
    for (name, query) in QUERIES {
        let path = format!("{}/api/v1/query", url.trim_end_matches('/'));
        let answer = tokio::time::timeout(QUESTION, get(&path, &format!("query={}", facts::encoded(query)))).await;
        match answer.context("no answer in time").flatten() {
            Ok(text) => found.of_answer(name, &text),
            Err(error) => {
                info!(error = format!("{error:#}"), "no Prometheus to ask: facts of traffic are missing");
                return;
            }
        }
    }
}

/// A GET of what is no API server: the Kubernetes client is a good HTTP client as well.
async fn get(url: &str, query: &str) -> anyhow::Result<String> {
    let uri: Uri = url.parse().context("no URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { anyhow::bail!("no URL: {url}") };
    ensure!(matches!(scheme, "http" | "https"), "only http and https can be asked");
    let base: Uri = format!("{scheme}://{authority}/").parse()?;
    let client = Client::try_from(Config::new(base))?;
    let separator = if uri.query().is_some() { '&' } else { '?' };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::get(format!("{path}{separator}{query}")).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}
