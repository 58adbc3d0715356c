//! Keeps pods off a node until its traffic is redirected: nodes register with our taint (kubelet's
//! `--register-with-taints`), and the installer takes it away when it is ready. When it ends to start again, as in an
//! upgrade, it puts it back; when it ends for good, it doesn't, or the node would never get a pod again.

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
}

impl Node {
    /// Lets pods onto the node. What fails is tried again when the installer looks again.
    pub fn release(&self, account: &Account) {
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

    fn will_be_back(&self, account: &Account) -> Result<bool, ApiError> {
        let api = Api::new(account.access()?)?;
        let namespace = format!("/api/v1/namespaces/{}", self.namespace);
        let daemon_set = format!("/apis/apps/v1/namespaces/{}/daemonsets/{DAEMON_SET}", self.namespace);
        for path in [namespace, daemon_set] {
            match api.get::<Object>(&path, QUESTION_TIME) {
                Ok(object) if object.metadata.deletion_timestamp.is_none() => {}
                Ok(_) => return Ok(false),
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
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
