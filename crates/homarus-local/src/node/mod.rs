//! The node: pods as processes in namespaces of their own.
//!
//! What a kubelet, a container runtime, a CNI plugin, kube-proxy and a cluster's DNS do elsewhere, for one machine
//! and without images: [`Node::start`] watches the pods that are bound to it and keeps them as their specs say.
//!
//! # The path of a pod
//! a watch tells of it (`Node`) → its worker asks the machine what to do (`pod`) → namespaces (`sandbox`), network
//! (`net`) and volumes are made → containers are started in order, probed, restarted, ended (`work`) → status and
//! Events go back to the API.
//!
//! # Invariants
//! - Nothing outlives this process in the machine's own namespaces, even by `kill -9`: namespaces are held by
//!   descriptors and processes only; each pod's process 1 dies with us; the link and the table outside vanish with us.
//! - Decisions are pure (`pod`) and apart from the doing (`work`).
//! - What the pods make is bounded: logs, probe answers, Events, volumes, queues.
//!
//! A pod is no sandbox: its containers see the machine's files (read-only, under a private layer in memory), each other's
//! processes, and share the machine's kernel. Deliberately absent: images, and
//! resource limits: control groups would be left behind by `kill -9`, which nothing else is. Who asks for limits is told by an Event.

mod entry;
mod net;
mod pod;
mod sandbox;
mod sys;
mod work;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::node::{CommandOptions, LogOptions, LogStream, NodeBackend, NodeError, PodRef, PodStream, Running};
use net::dns::{self, Dns};
use net::rules::Ruleset;
use net::zone::Zone;
use sandbox::Spawner;
use work::Context;
use work::events::Events;
use work::images::Images;
use work::objects::Objects;
use work::order::Setting;
use work::worker::{self, Handle, Input};

pub use entry::{INIT_ARG, LAUNCH_ARG, run_if_asked};
pub use net::{Network, NetworkConfig, NetworkError};
pub use work::images::{ImageFile, ImageRow};

/// Changes of Services and endpoints are gathered for this long before the rules are replaced.
const GATHER: Duration = Duration::from_millis(20);
/// How long pods may take to go when the node shuts down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name; pods bound to it run here.
    pub name: String,
    /// A private folder for logs. Pods see it empty.
    pub state: PathBuf,
    /// Where our programs are: those of the built-in image table.
    pub programs: PathBuf,
    /// Rows of the image table that go before the built-in ones.
    pub images: Vec<ImageRow>,
    /// The program that becomes process 1 of pods: one that calls [`run_if_asked`].
    pub pod_program: PathBuf,
    /// The domain that the cluster's names are below.
    pub domain: String,
    /// Further folders that pods see empty.
    pub hidden: Vec<PathBuf>,
    /// How much memory the volumes of one pod may take, as `mount -o size=` has it.
    pub pod_memory: String,
}

impl Config {
    /// A node of this program itself, which must call [`run_if_asked`] first thing in `main`.
    pub fn new(name: impl Into<String>, state: impl Into<PathBuf>) -> Self {
        let own = std::env::current_exe().unwrap_or_default();
        Self {
            name: name.into(),
            state: state.into(),
            programs: own.parent().unwrap_or(Path::new("/")).to_owned(),
            images: Vec::new(),
            pod_program: "/proc/self/exe".into(),
            domain: "cluster.local".into(),
            hidden: Vec::new(),
            pod_memory: "50%".into(),
        }
    }
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder can't be used: name another one, or make it writable.
    #[error("the state folder {}: {source}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// DNS could not listen in the node's network.
    #[error("starting DNS for the pods: {0}")]
    Dns(io::Error),
    /// A thread could not be started.
    #[error("starting the thread that starts pods: {0}")]
    Spawner(io::Error),
}

/// A running node. Dropping it kills its pods; [`Node::shutdown`] lets them end.
#[derive(Debug, Clone)]
pub struct Node(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    pods: Mutex<Pods>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

#[derive(Debug, Default)]
struct Pods {
    workers: HashMap<String, (Handle, JoinHandle<()>)>,
    leaving: bool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for (_, task) in self.pods.lock().workers.values() {
            task.abort();
        }
    }
}

impl Node {
    /// Starts a node on a network that is there already; `client` may act as a node may.
    pub fn start(config: Config, network: Network, client: Client) -> Result<Self, StartError> {
        let state = prepare_state(&config.state).map_err(|source| StartError::State { path: config.state.clone(), source })?;
        let config = Config { state, ..config };
        let spawner = Spawner::start(config.pod_program.clone()).map_err(StartError::Spawner)?;
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (upstream, search) = dns::resolvers(&resolv_conf);
        let dns = Dns::start(&network, upstream).map_err(StartError::Dns)?;
        if std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "0") {
            tracing::warn!(
                "this machine doesn't forward (net.ipv4.ip_forward is 0): pods reach it and each other, but nothing beyond; \
                 `sysctl -w net.ipv4.ip_forward=1` lets them"
            );
        }
        let mut tasks = JoinSet::new();
        let setting = Setting {
            lowers: file_systems(),
            hidden: [config.state.clone()].into_iter().chain(config.hidden.clone()).collect(),
            dns_server: network.gateway(),
            domain: config.domain.clone(),
            resolv_conf,
            search,
        };
        let context = Arc::new(Context {
            images: Images::new(&config.images, &config.programs),
            objects: Objects::watch(&client, &mut tasks),
            events: Events::start(client.clone(), config.name.clone(), &mut tasks),
            started: Timestamp::now(),
            setting,
            spawner,
            network,
            client,
            config,
        });
        tasks.spawn(route(context.clone(), dns));
        tasks.spawn(work::presence::keep(context.clone()));
        tasks.spawn(work::claims::sweep(context.clone()));
        let shared = Arc::new(Shared { context, pods: Mutex::default(), tasks: Mutex::default() });
        tasks.spawn(watch_pods(Arc::downgrade(&shared)));
        *shared.tasks.lock() = Some(tasks);
        Ok(Self(shared))
    }

    /// Ends all pods, with a moment to do so, and the node. Their objects stay for the next start.
    pub async fn shutdown(&self) {
        let (workers, tasks) = {
            let mut pods = self.0.pods.lock();
            pods.leaving = true;
            let workers: Vec<_> = pods.workers.drain().map(|(_, worker)| worker).collect();
            (workers, self.0.tasks.lock().take())
        };
        drop(tasks);
        let all = futures::future::join_all(workers.into_iter().map(|(handle, task)| async move {
            let _ = handle.inbox.send(Input::Shutdown).await;
            let _ = task.await;
        }));
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("some pods did not end in time; they go with this process");
        }
    }

    /// The node's address on the pod network.
    pub fn address(&self) -> Ipv4Addr {
        self.0.context.network.gateway()
    }

    /// What the API asks for logs and connections. It doesn't keep the node alive: the API and the node know each other.
    pub fn backend(&self) -> Backend {
        Backend(Arc::downgrade(&self.0))
    }
}

/// A node's answers to the API.
#[derive(Debug, Clone)]
pub struct Backend(Weak<Shared>);

impl Backend {
    fn find(&self, pod: &PodRef) -> Result<(Handle, Network), NodeError> {
        let shared = self.0.upgrade().ok_or_else(|| NodeError::Failed("the node is gone".into()))?;
        let pods = shared.pods.lock();
        let found = pods.workers.get(&pod.uid).map(|(handle, _)| handle.clone());
        let handle = found.ok_or_else(|| NodeError::NotFound(format!("pod {:?} is not on this node", pod.name)))?;
        Ok((handle, shared.context.network.clone()))
    }
}

impl NodeBackend for Backend {
    fn log(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'static, Result<LogStream, NodeError>> {
        let found = self.find(&pod);
        Box::pin(async move {
            let (handle, _) = found?;
            let run = handle.view.borrow().runs.get(&options.container).copied();
            let waits = || {
                let container = &options.container;
                NodeError::NotReady(format!("container {container:?} in pod {:?} is waiting to start", pod.name))
            };
            let run = run.ok_or_else(waits)?;
            handle.logs.read(run, options)
        })
    }

    fn connect(&self, pod: PodRef, port: u16) -> BoxFuture<'static, Result<Box<dyn PodStream>, NodeError>> {
        let found = self.find(&pod);
        Box::pin(async move {
            let (handle, network) = found?;
            let net = handle.view.borrow().sandbox.as_ref().map(|s| s.net().clone());
            let net = net.ok_or_else(|| NodeError::NotReady(format!("pod {:?} is not running", pod.name)))?;
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let dialed = network.dial(Some(&net), to).await;
            let stream = dialed.map_err(|e| NodeError::Failed(format!("dialing port {port} of pod {:?}: {e}", pod.name)))?;
            Ok(Box::new(stream) as Box<dyn PodStream>)
        })
    }

    fn run(&self, pod: PodRef, options: CommandOptions) -> BoxFuture<'static, Result<Running, NodeError>> {
        let found = self.find(&pod);
        Box::pin(async move { work::command::run(&found?.0, options).await })
    }
}

impl NodeBackend for Node {
    fn log(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'static, Result<LogStream, NodeError>> {
        self.backend().log(pod, options)
    }

    fn connect(&self, pod: PodRef, port: u16) -> BoxFuture<'static, Result<Box<dyn PodStream>, NodeError>> {
        self.backend().connect(pod, port)
    }

    fn run(&self, pod: PodRef, options: CommandOptions) -> BoxFuture<'static, Result<Running, NodeError>> {
        self.backend().run(pod, options)
    }
}

fn prepare_state(state: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(state.join("logs"))?;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700))?;
    std::fs::canonicalize(state)
}

/// The machine's file systems besides `/` that hold programs and data, to be laid under pods too.
fn file_systems() -> Vec<PathBuf> {
    const KINDS: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs"];
    const OWN: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/mnt"];
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        Some((PathBuf::from(place), kind.to_owned()))
    });
    let wanted = mounts.filter(|(place, kind)| {
        let own = OWN.iter().any(|own| place.starts_with(own));
        KINDS.contains(&kind.as_str()) && place != Path::new("/") && place.is_dir() && !own
    });
    wanted.map(|(place, _)| place).collect()
}

/// Keeps Service rules and names as Services and endpoints are.
async fn route(context: Arc<Context>, dns: Dns) {
    let mut changes = context.objects.routes();
    loop {
        let (services, slices) = (context.objects.services(), context.objects.slices());
        let (services, slices) = (|| services.iter().map(AsRef::as_ref), || slices.iter().map(AsRef::as_ref));
        dns.publish(Zone::of(&context.config.domain, services(), slices()));
        let rules = Ruleset::of(services(), slices());
        let network = context.network.clone();
        let applied = tokio::task::spawn_blocking(move || network.apply(rules)).await;
        if let Ok(Err(error)) = applied {
            tracing::error!(%error, "the kernel refused the rules of the Services");
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
        changes.mark_unchanged();
    }
}

/// Gives each pod that is bound to this node a worker, and tells it of changes.
async fn watch_pods(shared: Weak<Shared>) {
    let Some((client, name)) = shared.upgrade().map(|s| (s.context.client.clone(), s.context.config.name.clone())) else {
        return;
    };
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let events = watcher(Api::<Pod>::all(client), config).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let Some(shared) = shared.upgrade() else { return };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                shared.applied(pod).await;
            }
            Ok(watcher::Event::InitDone) => shared.keep_only(&listed).await,
            Ok(watcher::Event::Apply(pod)) => shared.applied(pod).await,
            Ok(watcher::Event::Delete(pod)) => {
                shared.vanished(&pod.metadata.uid.unwrap_or_default()).await;
            }
            Err(error) => tracing::debug!(%error, "the watch of pods was interrupted"),
        }
    }
}

impl Shared {
    async fn applied(&self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let pod = Arc::new(pod);
        let inbox = {
            let mut pods = self.pods.lock();
            pods.workers.retain(|_, (_, task)| !task.is_finished());
            match pods.workers.get(&uid) {
                Some((handle, _)) => handle.inbox.clone(),
                None if pods.leaving || over(&pod) => return,
                None => {
                    let worker = worker::spawn(self.context.clone(), pod);
                    pods.workers.insert(uid, worker);
                    return;
                }
            }
        };
        let _ = inbox.send(Input::Pod(pod)).await;
    }

    async fn vanished(&self, uid: &str) {
        let worker = self.pods.lock().workers.get(uid).map(|(handle, _)| handle.inbox.clone());
        if let Some(inbox) = worker {
            let _ = inbox.send(Input::Vanished).await;
        }
    }

    async fn keep_only(&self, listed: &HashSet<String>) {
        let gone: Vec<String> = {
            let pods = self.pods.lock();
            pods.workers.keys().filter(|uid| !listed.contains(*uid)).cloned().collect()
        };
        for uid in gone {
            self.vanished(&uid).await;
        }
    }
}

/// Whether there is nothing left to do for a pod: it ended before this node began, and nobody wants it gone.
fn over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}
