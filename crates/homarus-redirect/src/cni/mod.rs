//! The CNI plugin: redirects a pod's traffic before any of its containers starts, so that no pod needs `NET_ADMIN`.
//!
//! # Life of an ADD
//! The runtime has made the pod's network namespace, and the plugins before us have connected it. It starts this program on
//! the node, as root. We read the call ([`protocol`]) and our part of the configuration ([`netconf`]), ask the API for the pod
//! and its namespace, decide ([`pod`]), set the rules inside of the namespace ([`crate::install`]), and hand the result of the
//! plugins before us on.
//!
//! Invariants:
//! - doubt refuses: whatever keeps us from knowing whether the pod is meshed, or from setting its rules, is an error, and the
//!   runtime tries again; a pod is never let through because something was away;
//! - a call takes at most [`TIME`], and the part of it in which the API is asked [`ASKING_TIME`];
//! - the node's own network namespace is never touched;
//! - `DEL` and `GC` do nothing and can't fail: rules go with their namespace.

pub mod netconf;
pub mod pod;
pub mod protocol;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use std::os::unix::fs::MetadataExt;

use crate::api::{Access, Api, ApiError};
use crate::config::Config;
use crate::install::{self, How, Means};
use crate::netns::Netns;
use crate::nft::Netlink;
use crate::rules::{Rules, TABLE};

use netconf::NetConf;
use pod::{Namespace, Pod, Service};
use protocol::{Call, CniError, Code, Command, Input, PodName};

/// How long asking the API may take in all, with retries. Kubelet gives a sandbox four minutes.
pub const ASKING_TIME: Duration = Duration::from_secs(10);
/// How long one question may take.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// Between questions.
const BACKOFF: Duration = Duration::from_millis(250);
/// How long a whole call may take: a program that hangs (iptables waiting for its lock) is ended with it.
pub const TIME: Duration = Duration::from_secs(90);
const OWN_NETNS: &str = "/proc/self/ns/net";

/// Does what a runtime asks for. What comes back is printed.
pub fn answer(call: &Call, input: &str) -> Result<String, CniError> {
    match call.command {
        Command::Version => Ok(protocol::versions(input)),
        // Also if the configuration was taken away or is of another version: a pod must be able to go.
        Command::Del | Command::Gc => Ok(String::new()),
        Command::Add => {
            let input = Input::read(input)?;
            add(call, &input.config)?;
            Ok(input.result())
        }
        Command::Check => check(call, &Input::read(input)?.config).map(|()| String::new()),
        Command::Status => status(&Input::read(input)?.config).map(|()| String::new()),
    }
}

fn add(call: &Call, config: &NetConf) -> Result<(), CniError> {
    let Some(rules) = rules_for(call, config)? else { return Ok(()) };
    let netns = pods_netns(call)?;
    let means = means(config)?;
    if config.linkerd.simulate {
        tracing::info!("{}", install::simulate(&rules, means, config.linkerd.use_wait_flag));
        return Ok(());
    }
    let how = How { means, netns: Some(netns.to_owned()), wait: config.linkerd.use_wait_flag, close_wait_secs: None };
    install::install(&rules, &how).map_err(|error| CniError::new(Code::Rules, "the pod's traffic can't be redirected", error))?;
    tracing::info!(?netns, "redirected");
    Ok(())
}

/// Whether the rules are there that an `ADD` would set. What `iptables` made isn't looked at: its programs may be gone.
fn check(call: &Call, config: &NetConf) -> Result<(), CniError> {
    let Some(rules) = rules_for(call, config)? else { return Ok(()) };
    if config.linkerd.simulate || means(config)? != Means::Netlink {
        return Ok(());
    }
    let netns = pods_netns(call)?;
    let failed = |reason: String| CniError::new(Code::Rules, "the pod's rules can't be listed", reason);
    let list = || Netlink::open().and_then(|netlink| netlink.tables());
    let tables = Netns::open(netns).and_then(|netns| netns.enter(list)).map_err(|error| failed(error.to_string()))?;
    let tables = tables.map_err(|error| failed(error.to_string()))?;
    let missing = install::for_this_kernel(&rules)
        .families
        .into_iter()
        .find(|family| !tables.iter().any(|(of, name)| of == family && name == TABLE));
    match missing {
        None => Ok(()),
        Some(family) => {
            let details = format!("table {family} {TABLE} is missing in {netns:?}: delete the pod, so that it is made again");
            Err(CniError::new(Code::Missing, "the pod's traffic isn't redirected", details))
        }
    }
}

/// What can be known without the API: it being away for a moment isn't the network's fault.
fn status(config: &NetConf) -> Result<(), CniError> {
    let unavailable = |reason: String| CniError::new(Code::Unavailable, "the plugin can't serve pods", reason);
    let access =
        Access::from_kubeconfig(Path::new(&config.kubernetes.kubeconfig)).map_err(|error| unavailable(error.to_string()))?;
    Api::new(access).map_err(|error| unavailable(error.to_string()))?;
    resolved(&config.linkerd.request()).map(drop)?;
    means(config).map(drop)
}

/// The rules of the pod that the call is for; none if its traffic is left alone.
fn rules_for(call: &Call, config: &NetConf) -> Result<Option<Rules>, CniError> {
    let Some(name) = &call.pod else {
        tracing::debug!("not Kubernetes' call, left alone");
        return Ok(None);
    };
    if config.kubernetes.exempt_namespaces.contains(&name.namespace) {
        tracing::debug!(namespace = name.namespace, "an exempt namespace, left alone");
        return Ok(None);
    }
    let asked = Questions::new(config)?;
    let pod = asked.pod(name)?;
    if let Some(reason) = pod.skip() {
        tracing::debug!(namespace = name.namespace, pod = name.name, ?reason, "left alone");
        return Ok(None);
    }
    let namespace: Namespace = asked.get("namespace", &format!("/api/v1/namespaces/{}", name.namespace))?;
    let api_server_ports = if pod.is_control_plane() { asked.api_server_ports() } else { Vec::new() };
    let request = pod::request(&config.linkerd, &pod, &namespace, &api_server_ports)
        .map_err(|error| CniError::new(Code::InvalidConfig, "the pod's annotations can't be followed", error))?;
    resolved(&request).map(|config| Some(Rules::of(&config)))
}

fn resolved(request: &crate::config::Request) -> Result<Config, CniError> {
    Config::resolve(request).map_err(|error| CniError::new(Code::InvalidConfig, "no rules follow from the configuration", error))
}

fn means(config: &NetConf) -> Result<Means, CniError> {
    Means::of(&config.linkerd.iptables_mode, "")
        .map_err(|error| CniError::new(Code::InvalidConfig, "the configuration's iptables-mode isn't known", error))
}

/// The pod's network namespace, which isn't the node's.
fn pods_netns(call: &Call) -> Result<&Path, CniError> {
    let invalid = |details: String| CniError::new(Code::InvalidEnvironment, "the pod's network namespace can't be used", details);
    let path = call.netns.as_deref().ok_or_else(|| invalid("CNI_NETNS is missing".to_owned()))?;
    let about = |path: &Path| fs::metadata(path).map_err(|error| invalid(format!("{}: {error}", path.display())));
    let (pods, ours) = (about(path)?, about(Path::new(OWN_NETNS))?);
    match (pods.dev(), pods.ino()) == (ours.dev(), ours.ino()) {
        true => Err(invalid(format!("{} is the node's own", path.display()))),
        false => Ok(path),
    }
}

/// Questions to the API, with one time for all of them.
struct Questions {
    api: Api,
    deadline: Instant,
}

impl Questions {
    fn new(config: &NetConf) -> Result<Self, CniError> {
        let broken = |error: ApiError| CniError::new(Code::TryAgain, "the Kubernetes API can't be asked about the pod", error);
        let access = Access::from_kubeconfig(Path::new(&config.kubernetes.kubeconfig)).map_err(broken)?;
        Ok(Self { api: Api::new(access).map_err(broken)?, deadline: Instant::now() + ASKING_TIME })
    }

    fn pod(&self, name: &PodName) -> Result<Pod, CniError> {
        let pod: Pod = self.get("pod", &format!("/api/v1/namespaces/{}/pods/{}", name.namespace, name.name))?;
        match pod.is(name.uid.as_deref()) {
            true => Ok(pod),
            false => {
                let details = format!("{}/{} is another pod by now", name.namespace, name.name);
                Err(CniError::new(Code::TryAgain, "the pod isn't the one that the runtime means", details))
            }
        }
    }

    /// Those of its Service, or the usual ones.
    fn api_server_ports(&self) -> Vec<String> {
        let ports = self.get::<Service>("Service", "/api/v1/namespaces/default/services/kubernetes").map(|service| service.ports());
        match ports {
            Ok(ports) if !ports.is_empty() => ports,
            found => {
                tracing::warn!(?found, "the API server's ports aren't known, taking the usual ones");
                pod::usual_api_server_ports()
            }
        }
    }

    fn get<T: serde::de::DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, CniError> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let error = match self.api.get(path, left.clamp(BACKOFF, QUESTION_TIME)) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if !error.is_passing() || left <= BACKOFF {
                let code = if error.is_passing() || error.is_not_found() { Code::TryAgain } else { Code::Refused };
                return Err(CniError::new(code, "the Kubernetes API didn't tell what the pod needs", error));
            }
            tracing::warn!(%error, what, "asking again");
            thread::sleep(BACKOFF.min(left));
        }
    }
}
