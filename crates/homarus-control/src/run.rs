//! The life of a controller: what all of them begin and end with ([`Program`]), and the one that serves views: take the
//! ports, follow the cluster, serve when all of it is known, drain.

use crate::{
    admit::{self, Judge},
    external,
    index::{OPAQUE_PORTS, Settings},
    serve::{Census, Hub, grpc, metrics::Calls},
    watch::{self, kinds::Source},
    webhook::{Origin, POLICIES, Webhook},
};
use anyhow::Context;
use clap::Args;
use homarus_daemon::{
    Gate, Readiness,
    admin::Admin,
    args::Listen,
    drain::{self, Drain, Requests, Signal},
    logs,
    metrics::Metrics,
};
use homarus_model::ports::PortSet;
use kube::Client;
use std::{sync::Arc, time::Duration};
use tracing::{error, info};

/// The domain of identities and of the cluster's names, unless somebody says otherwise.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// How long what is under way may take when a controller ends.
const GRACE: Duration = Duration::from_secs(10);
/// How often readiness is looked at before anybody is served.
const LOOK: Duration = Duration::from_millis(20);

/// What the webhook beside waits for.
const WEBHOOK_GATE: &str = "certificate of the webhook";

/// The flags of every controller.
#[derive(Clone, Debug, Args)]
pub(crate) struct Logging {
    /// Log filter.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Log format: plain or json.
    #[arg(long, default_value = "plain")]
    log_format: logs::Format,
}

impl Logging {
    pub(crate) fn init(&self) -> anyhow::Result<()> {
        logs::init(&self.log_level, self.log_format)?;
        Ok(())
    }
}

/// What charts pass to the controllers that are Go programs at Linkerd.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compatibility {
    /// Accepted for compatibility: there is no Go profiler here.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_pprof: bool,
    /// Accepted for compatibility.
    #[arg(long, default_value = "")]
    trace_collector: String,
}

/// The flags that controllers which serve views share.
#[derive(Clone, Debug, Args)]
pub(crate) struct ViewFlags {
    /// Domain of the cluster's names.
    #[arg(long, default_value = CLUSTER_DOMAIN)]
    cluster_domain: String,
    /// Ports that are opaque unless a workload or Service says otherwise.
    #[arg(long, default_value = OPAQUE_PORTS)]
    default_opaque_ports: String,
}

impl ViewFlags {
    /// The settings that these flags say, and the defaults of all others.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let ports = PortSet::parse(&self.default_opaque_ports).context("--default-opaque-ports is no list of ports")?;
        let cluster_domain = or_default(&self.cluster_domain).into();
        Ok(Settings { cluster_domain, default_opaque_ports: ports, ..Settings::default() })
    }
}

/// A domain that a chart may leave empty.
pub(crate) fn or_default(domain: &str) -> &str {
    if domain.is_empty() { CLUSTER_DOMAIN } else { domain }
}

/// What every controller begins and ends with.
pub(crate) struct Program {
    requests: Requests,
    signal: Signal,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
}

impl Program {
    /// Listens for signals and serves the admin address. It isn't ready before the gate is open, whose name says why.
    pub(crate) async fn start(admin: Listen, waits_for: &str) -> anyhow::Result<(Self, Gate)> {
        let requests = drain::requests().context("failed to listen for signals")?;
        let (signal, drain) = drain::channel();
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let gate = readiness.gate(waits_for);
        let admin = Admin::bind(admin, metrics.clone(), readiness.clone()).await.context("failed to bind the admin address")?;
        tokio::spawn(admin.serve(drain));
        Ok((Self { requests, signal, metrics, readiness }, gate))
    }

    /// For something that has to finish before the program ends.
    pub(crate) fn drain(&self) -> Drain {
        self.signal.drain()
    }

    /// Works until that is done, or until the program is asked to end, of which every [`Drain`] hears then.
    pub(crate) async fn work<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            request = self.requests.next() => {
                info!(%request, "draining");
                self.signal.start();
                None
            }
        }
    }

    /// Waits for what is under way, but not forever, and not when asked a second time.
    pub(crate) async fn end(mut self) {
        tokio::select! {
            drained = self.signal.finish(GRACE) => info!(?drained, "bye"),
            request = self.requests.next() => info!(%request, "bye, at once"),
        }
    }
}

/// What a controller that serves views is made of.
pub(crate) struct Cluster {
    pub(crate) addr: Listen,
    pub(crate) admin: Listen,
    pub(crate) settings: Settings,
    pub(crate) sources: Vec<Source>,
    pub(crate) service: fn(Arc<Hub>) -> Box<dyn grpc::Service>,
    pub(crate) census: fn(&Arc<Hub>) -> Census,
    /// Where it judges policies before they are stored, if it does.
    pub(crate) admission: Option<(Listen, Origin)>,
    /// Whether it writes the slices of external workloads.
    pub(crate) writes_slices: bool,
}

/// Serves views until asked to end.
pub(crate) async fn controller(cluster: Cluster) -> anyhow::Result<()> {
    let listener = cluster.addr.bind().await.context("failed to bind the address for proxies")?;
    let (mut program, connected) = Program::start(cluster.admin, "Kubernetes API").await?;
    let client = Client::try_default().await.context("no way to reach the Kubernetes API")?;

    let hub = Hub::new(cluster.settings);
    let watches = program.metrics.register(watch::Metrics::register);
    program.metrics.register(|registry| registry.register_collector(Box::new((cluster.census)(&hub))));
    watch::follow(client.clone(), hub.clone(), cluster.sources, &program.readiness, watches, program.drain());
    if let Some((addr, origin)) = cluster.admission {
        judge(&program, &client, addr, origin)?;
    }
    connected.open();
    let (readiness, drain) = (program.readiness.clone(), program.drain());
    let calls = program.metrics.register(Calls::register);
    let served = async {
        // Whoever asks before all is known would be told that it doesn't exist. The webhook is no part of that.
        while readiness.waiting_for().iter().any(|gate| gate != WEBHOOK_GATE) {
            tokio::time::sleep(LOOK).await;
        }
        if cluster.writes_slices {
            let namespace = hub.read(|index| index.settings().naming.control_plane_ns.to_string());
            tokio::spawn(external::run(client, hub.clone(), namespace, drain.clone()));
        }
        grpc::serve(listener, (cluster.service)(hub.clone()).into(), calls, drain).await;
    };
    program.work(served).await;
    hub.close();
    program.end().await;
    Ok(())
}

/// Judges policies beside. An address that is taken ends only that: proxies are served all the same.
fn judge(program: &Program, client: &Client, addr: Listen, origin: Origin) -> anyhow::Result<()> {
    let gate = program.readiness.gate(WEBHOOK_GATE);
    let webhook = Webhook::start(&POLICIES, addr, origin, client, &program.metrics, gate, program.drain())?;
    let (judge, drain) = (Judge::new(admit::policies::judge, &program.metrics), program.drain());
    tokio::spawn(async move {
        if let Err(error) = webhook.serve(judge, drain).await {
            error!(error = format!("{error:#}"), "policies are not judged: the webhook has ended");
        }
    });
    Ok(())
}
