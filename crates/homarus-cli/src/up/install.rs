//! The control plane onto the machine: certificates, custom resources, manifests, and the wait for what comes of them.

use std::time::SystemTime;

use homarus_kube::{crds, manifests};
use homarus_local::up::State;
use kube::Client;
use serde_json::Value;

use crate::command_line::Up;
use crate::failure::Failure;

use super::progress::Progress;
use super::{apply, authority, readiness};

/// Installs, and waits until all is ready.
pub(super) async fn run(client: &Client, state: &State, args: &Up, progress: &Progress) -> Result<(), Failure> {
    progress.step("making certificates");
    let options = authority::options((!args.ephemeral).then_some(state), SystemTime::now())?;
    progress.step("applying custom resources");
    apply::all(client, &crds::all()).await?;
    progress.step("applying the control plane");
    let mut objects = manifests::control_plane(&options).map_err(Failure::new)?;
    objects.iter_mut().for_each(probe_often);
    apply::all(client, &objects).await?;
    readiness::wait(client, &options.namespace, args.wait, progress).await
}

/// Makes readiness known within a second: the ten of Kubernetes' default are meant for clusters of thousands of pods, and
/// here somebody waits.
fn probe_often(object: &mut Value) {
    let Some(spec) = object.pointer_mut("/spec/template/spec").filter(|spec| spec.is_object()) else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(probe) = container.get_mut("readinessProbe").and_then(Value::as_object_mut) {
                probe.insert("periodSeconds".into(), 1.into());
                // As many seconds as before until a failing one counts.
                probe.insert("failureThreshold".into(), 30.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_are_probed_often_and_nothing_else_changes() {
        let container = |probe: Value| json!({ "spec": { "template": { "spec": { "containers": [{ "name": "a", "readinessProbe": probe }, { "name": "b" }] } } } });
        let mut object = container(json!({ "httpGet": {} }));
        probe_often(&mut object);
        assert_eq!(object, container(json!({ "httpGet": {}, "periodSeconds": 1, "failureThreshold": 30 })));
        let mut other = json!({ "kind": "Secret" });
        probe_often(&mut other);
        assert_eq!(other, json!({ "kind": "Secret" }));
    }
}
