//! From a container's spec to its process.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::env::{self, Lookup};
use super::logs::PodLogs;
use super::order;
use super::{Context, objects};
use crate::node::sandbox::streams::{self, Streams};
use crate::node::sandbox::wire::LaunchSpec;
use crate::node::sandbox::{Exited, Sandbox, SandboxError};

const LAST_WORDS_MAX: u64 = 4096;
/// What of the log stands in for last words.
const LOG_WORDS_MAX: usize = 2048;

/// Why there is no process.
#[derive(Debug)]
pub(crate) enum StartFailure {
    /// Something is missing that may come.
    HeldUp { reason: &'static str, message: String },
    /// The container itself is at fault: it ended before it began.
    Broken(String),
    /// The pod went away.
    Gone,
}

/// One run of a container.
#[derive(Debug, Clone)]
pub(crate) struct Run<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) number: u32,
    pub(crate) address: Option<Ipv4Addr>,
}

/// A container that runs: its process, and what others may do with it.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) process: u64,
    pub(crate) order: Arc<LaunchSpec>,
    /// The node's end of its input; taken by who may close it.
    pub(crate) input: Arc<Mutex<Option<OwnedFd>>>,
    /// Whether its input ends with the first who is attached to it.
    pub(crate) input_once: bool,
    /// The node's end of its terminal.
    pub(crate) terminal: Option<Arc<OwnedFd>>,
}

/// Starts it. The receiver tells of its end.
pub(crate) async fn start(
    context: &Context,
    sandbox: &Sandbox,
    logs: &PodLogs,
    run: &Run<'_>,
) -> Result<(Live, oneshot::Receiver<Exited>), StartFailure> {
    let Run { pod, container, number, address } = run;
    let config = |message| StartFailure::HeldUp { reason: "CreateContainerConfigError", message };
    let environment = environment(context, pod, container, *address).await.map_err(config)?;
    let order = order::order(pod, container, environment, &context.images, &context.setting, *address)
        .map_err(|e| StartFailure::HeldUp { reason: e.reason(), message: e.to_string() })?;
    let io = |error: io::Error| StartFailure::HeldUp { reason: "RunContainerError", message: error.to_string() };
    let failed = |error| match error {
        SandboxError::Gone => StartFailure::Gone,
        SandboxError::Io(error) => io(error),
        error => StartFailure::Broken(error.to_string()),
    };
    let mut input = None;
    let streams = if container.tty == Some(true) {
        Streams::Terminal
    } else {
        let ((stdout, out), (stderr, err)) = (streams::output().map_err(io)?, streams::output().map_err(io)?);
        logs.record(&container.name, *number, out, Some(err)).map_err(io)?;
        let (stdin, ours) = (container.stdin == Some(true)).then(streams::input).transpose().map_err(io)?.unzip();
        input = ours;
        Streams::Pipes { stdin, stdout, stderr }
    };
    let process = sandbox.launch(&order, None, streams).await.map_err(failed)?;
    if let Some(terminal) = &process.terminal {
        logs.record(&container.name, *number, streams::reader(terminal).map_err(io)?, None).map_err(io)?;
        input = (container.stdin == Some(true)).then(|| terminal.try_clone()).transpose().map_err(io)?;
    }
    let terminal = process.terminal.map(Arc::new);
    let live = Live {
        process: process.id,
        order: Arc::new(order),
        input: Arc::new(Mutex::new(input)),
        input_once: container.stdin_once == Some(true),
        terminal,
    };
    Ok((live, process.exited))
}

/// What a run left behind to say why it ended.
pub(crate) async fn last_words(root: &Path, logs: &PodLogs, container: &Container, number: u32, code: i32) -> Option<String> {
    logs.settled(&container.name, number).await;
    let path = root.join(order::ENDS.trim_start_matches('/')).join(&container.name);
    let mut words = String::new();
    let read = File::open(&path).map(|f| f.take(LAST_WORDS_MAX).read_to_string(&mut words));
    // The next run begins with an empty file.
    let _ = File::options().write(true).truncate(true).open(&path);
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if (read.is_err() || words.is_empty()) && from_log && code != 0 {
        words = logs.last_words(&container.name, number, LOG_WORDS_MAX);
    }
    Some(words).filter(|w| !w.is_empty())
}

/// The objects that a container's variables name, fetched before they are looked up.
#[derive(Debug, Default)]
struct Fetched {
    config_maps: HashMap<String, BTreeMap<String, String>>,
    secrets: HashMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Lookup for Fetched {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.config_maps.get(name).cloned()
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.secrets.get(name).cloned()
    }
}

async fn environment(
    context: &Context,
    pod: &Pod,
    container: &Container,
    address: Option<Ipv4Addr>,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut fetched = Fetched::default();
    for name in names(container, true) {
        if let Some(map) = context.objects.config_map(namespace, &name).await {
            fetched.config_maps.insert(name, map.data.clone().unwrap_or_default());
        }
    }
    for name in names(container, false) {
        if let Some(secret) = context.objects.secret(namespace, &name).await {
            fetched.secrets.insert(name, objects::secret_entries(&secret));
        }
    }
    if !context.objects.know_services().await {
        return Err("the Services have not been read yet".into());
    }
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let services = context.objects.services();
    let services = env::of_services(namespace, links, services.iter().map(AsRef::as_ref));
    env::environment(pod, container, &context.around(address), services, &fetched)
}

/// The ConfigMaps or Secrets that variables name.
fn names(container: &Container, config_maps: bool) -> Vec<String> {
    let from = container.env_from.iter().flatten().filter_map(|source| {
        if config_maps {
            source.config_map_ref.as_ref().map(|r| r.name.clone())
        } else {
            source.secret_ref.as_ref().map(|r| r.name.clone())
        }
    });
    let keys = container.env.iter().flatten().filter_map(|variable| {
        let source = variable.value_from.as_ref()?;
        if config_maps {
            source.config_map_key_ref.as_ref().map(|r| r.name.clone())
        } else {
            source.secret_key_ref.as_ref().map(|r| r.name.clone())
        }
    });
    let mut names: Vec<String> = from.chain(keys).collect();
    names.sort_unstable();
    names.dedup();
    names
}
