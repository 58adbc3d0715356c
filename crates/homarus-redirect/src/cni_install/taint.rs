//! Keeps pods off a node until its traffic is redirected: nodes register with our taint (kubelet's
//! `--register-with-taints`), and the installer takes it away when it is ready. When it ends to start again, as in an
//! upgrade, it puts it back; when it ends for good, or because it is to be on other nodes, it doesn't, or the node would
//! never get a pod again.

use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Account;
use crate::api::{Api, ApiError};

/// The taint's key.
pub const TAINT: &str = "cni.homarus.io/not-ready";
const EFFECT: &str = "NoSchedule";
const DAEMON_SET: &str = "linkerd-cni";
/// How long one question may take; a pod that ends hasn't much longer.
const QUESTION_TIME: Duration = Duration::from_secs(3);
/// How often to try when somebody else changes the node at the same time.
const TRIES: usize = 5;

/// A node that is tainted while it isn't ready.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The installer's namespace.
    pub namespace: String,
    placement: OnceLock<Placement>,
}

/// On which nodes installers are to be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Placement {
    node_selector: Value,
    affinity: Value,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    resource_version: String,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    taints: Option<Vec<Value>>,
    template: Template,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    spec: Placement,
}

impl Node {
    /// The node of this name, and the namespace of its installer.
    pub fn new(name: String, namespace: String) -> Self {
        Self { name, namespace, placement: OnceLock::new() }
    }

    /// Lets pods onto the node. What fails is tried again when the installer looks again.
    pub fn release(&self, account: &Account) {
        self.remember(account);
        match self.change(account, without_taint) {
            Ok(true) => tracing::info!(node = self.name, taint = TAINT, "taint removed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, node = self.name, taint = TAINT, "the taint can't be removed, trying again"),
        }
    }

    /// Keeps new pods off the node, if an installer will be back.
    pub fn hold_back(&self, account: &Account) {
        match self.will_be_back(account).and_then(|back| Ok(back && self.change(account, with_taint)?)) {
            Ok(true) => tracing::info!(node = self.name, taint = TAINT, "tainted until the next installer is ready"),
            Ok(false) => tracing::info!(node = self.name, "not tainted: no installer is coming"),
            Err(error) => tracing::warn!(%error, node = self.name, "not tainted"),
        }
    }

    /// Remembers where installers are to be while this one is.
    fn remember(&self, account: &Account) {
        if self.placement.get().is_some() {
            return;
        }
        let asked = account.access().and_then(Api::new).and_then(|api| api.get::<Object>(&self.daemon_set(), QUESTION_TIME));
        match asked {
            Ok(daemon_set) => _ = self.placement.set(daemon_set.spec.template.spec),
            Err(error) => tracing::debug!(%error, "the DaemonSet can't be read"),
        }
    }

    fn daemon_set(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/daemonsets/{DAEMON_SET}", self.namespace)
    }

    fn will_be_back(&self, account: &Account) -> Result<bool, ApiError> {
        let api = Api::new(account.access()?)?;
        for path in [format!("/api/v1/namespaces/{}", self.namespace), self.daemon_set()] {
            match api.get::<Object>(&path, QUESTION_TIME) {
                Ok(object) if object.metadata.deletion_timestamp.is_some() => return Ok(false),
                Ok(object) if path == self.daemon_set() && !self.is_placed_as(&object.spec.template.spec) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether installers are to be on the same nodes as when this one began; no, if that isn't known.
    fn is_placed_as(&self, now: &Placement) -> bool {
        self.placement.get() == Some(now)
    }

    /// Tells whether anything had to be changed.
    fn change(&self, account: &Account, edit: fn(Vec<Value>) -> Option<Vec<Value>>) -> Result<bool, ApiError> {
        let api = Api::new(account.access()?)?;
        let path = format!("/api/v1/nodes/{}", self.name);
        let mut tries = 0;
        loop {
            tries += 1;
            let node: Object = api.get(&path, QUESTION_TIME)?;
            let Some(taints) = edit(node.spec.taints.unwrap_or_default()) else { return Ok(false) };
            let patch = json!({ "metadata": { "resourceVersion": node.metadata.resource_version }, "spec": { "taints": taints } });
            match api.merge(&path, &patch, QUESTION_TIME) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_conflict() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_ours(taint: &Value) -> bool {
    taint["key"] == TAINT
}

fn without_taint(mut taints: Vec<Value>) -> Option<Vec<Value>> {
    let before = taints.len();
    taints.retain(|taint| !is_ours(taint));
    (taints.len() < before).then_some(taints)
}

fn with_taint(mut taints: Vec<Value>) -> Option<Vec<Value>> {
    if taints.iter().any(is_ours) {
        return None;
    }
    taints.push(json!({ "key": TAINT, "effect": EFFECT }));
    Some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_no_longer_meant_is_not_held_back() {
        let placement = |selector: Value| Placement { node_selector: selector, affinity: Value::Null };
        let node = Node::new("n".into(), "linkerd-cni".into());
        assert!(!node.is_placed_as(&Placement::default()), "nothing is known");
        let _ = node.placement.set(placement(json!({ "kubernetes.io/os": "linux" })));
        assert!(node.is_placed_as(&placement(json!({ "kubernetes.io/os": "linux" }))));
        assert!(!node.is_placed_as(&placement(json!({ "gpu": "no" }))));
    }

    #[test]
    fn only_our_taint_comes_and_goes() {
        let other =
            json!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z" });
        let with = with_taint(vec![other.clone()]).unwrap_or_default();
        assert_eq!(with.len(), 2);
        assert_eq!(with_taint(with.clone()), None);
        assert_eq!(without_taint(with), Some(vec![other.clone()]));
        assert_eq!(without_taint(vec![other]), None);
        // Whatever value or effect it was registered with.
        assert_eq!(without_taint(vec![json!({ "key": TAINT, "value": "true", "effect": "NoExecute" })]), Some(vec![]));
    }
}
