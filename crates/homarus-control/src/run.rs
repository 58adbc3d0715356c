//! The life of a controller that serves views: take the ports, follow the cluster, serve when all of it is known, drain.

use crate::{
    external,
    index::Settings,
    serve::{Census, Hub, grpc, metrics::Calls},
    watch::{self, kinds::Source},
};
use anyhow::Context;
use homarus_daemon::{Readiness, admin::Admin, args::Listen, drain, metrics::Metrics};
use homarus_model::ports::PortSet;
use kube::Client;
use std::{sync::Arc, time::Duration};
use tracing::info;

/// The domain of identities and of the cluster's names, unless somebody says otherwise.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// How long streams under way may take when the controller ends.
const GRACE: Duration = Duration::from_secs(10);
/// How often readiness is looked at before anybody is served.
const LOOK: Duration = Duration::from_millis(20);

/// What a controller is made of.
pub(crate) struct Cluster {
    pub(crate) addr: Listen,
    pub(crate) admin: Listen,
    pub(crate) settings: Settings,
    pub(crate) sources: Vec<Source>,
    pub(crate) service: fn(Arc<Hub>) -> Box<dyn grpc::Service>,
    pub(crate) census: fn(&Arc<Hub>) -> Census,
    /// Whether it writes the slices of external workloads.
    pub(crate) writes_slices: bool,
}

/// Serves until asked to end.
pub(crate) async fn controller(cluster: Cluster) -> anyhow::Result<()> {
    let mut requests = drain::requests().context("failed to listen for signals")?;
    let (signal, drain) = drain::channel();
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let listener = cluster.addr.bind().await.context("failed to bind the address for proxies")?;
    let admin = Admin::bind(cluster.admin, metrics.clone(), readiness.clone()).await;
    tokio::spawn(admin.context("failed to bind the admin address")?.serve(drain.clone()));
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;

    let hub = Hub::new(cluster.settings);
    let watches = metrics.register(watch::Metrics::register);
    metrics.register(|registry| registry.register_collector(Box::new((cluster.census)(&hub))));
    watch::follow(client.clone(), hub.clone(), cluster.sources, &readiness, watches, drain.clone());
    let served = async {
        // Whoever asks before all is known would be told that it doesn't exist.
        while !readiness.waiting_for().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        if cluster.writes_slices {
            let namespace = hub.read(|index| index.settings().naming.control_plane_ns.to_string());
            tokio::spawn(external::run(client, hub.clone(), namespace, drain.clone()));
        }
        let calls = metrics.register(Calls::register);
        grpc::serve(listener, (cluster.service)(hub.clone()).into(), calls, drain).await;
    };
    tokio::select! {
        () = served => {}
        request = requests.next() => info!(%request, "draining"),
    }
    signal.start();
    hub.close();
    tokio::select! {
        drained = signal.finish(GRACE) => info!(?drained, "bye"),
        request = requests.next() => info!(%request, "bye, at once"),
    }
    Ok(())
}

pub(crate) fn opaque_ports(list: &str) -> anyhow::Result<PortSet> {
    PortSet::parse(list).context("--default-opaque-ports is no list of ports")
}
