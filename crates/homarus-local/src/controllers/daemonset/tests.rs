#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::super::cluster::time;
use super::*;

/// Nodes, a set, and pods that do what the test says.
struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Pod>,
    update: &'static str,
    made: usize,
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": { "name": name, "labels": { "disk": "ssd" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    for (field, value) in more.as_object().unwrap() {
        node[field] = value.clone();
    }
    Arc::new(serde_json::from_value(node).unwrap())
}

impl World {
    fn new(nodes: &[&str], spec: Value) -> World {
        let mut set = json!({
            "metadata": { "name": "agent", "namespace": "ns", "uid": "d", "generation": 1,
                "annotations": { "deprecated.daemonset.template.generation": "3" } },
            "spec": {
                "selector": { "matchLabels": { "app": "agent" } },
                "template": { "metadata": { "labels": { "app": "agent" } }, "spec": { "containers": [{ "name": "a" }] } },
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 } },
            },
        });
        for (name, value) in spec.as_object().unwrap() {
            set["spec"][name] = value.clone();
        }
        let nodes = nodes.iter().map(|name| node(name, json!({}))).collect();
        World { set: serde_json::from_value(set).unwrap(), nodes, pods: vec![], update: "one", made: 0 }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let now = Timestamp::from_second(1_000).unwrap();
        plan::plan(&Seen { set: &self.set, pods: &pods, nodes: &self.nodes, update: self.update, collisions: 0, now })
    }

    fn step(&mut self) -> String {
        let plan = self.plan();
        let mut did = Vec::new();
        for mut pod in plan.create {
            self.made += 1;
            let name = format!("{}-{}", daemon::node_of(&pod).unwrap(), self.made);
            did.push(format!("+{name}"));
            pod.metadata.uid = Some(name.clone());
            pod.metadata.name = Some(name);
            self.pods.push(pod);
        }
        for gone in &plan.delete {
            did.push(format!("-{}", gone.name_any()));
            let pod = self.pods.iter_mut().find(|pod| pod.uid() == gone.uid()).unwrap();
            pod.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
        }
        did.join(" ")
    }

    /// All that there is becomes ready, all that is to end ends.
    fn live(&mut self) {
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        for pod in &mut self.pods {
            let status = json!({ "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z" }] });
            pod.status = serde_json::from_value(status).unwrap();
        }
    }

    fn steps(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..50 {
            let did = self.step();
            if did.is_empty() {
                return all;
            }
            all.push(did);
            self.live();
        }
        panic!("never settles: {all:?}");
    }
}

#[test]
fn each_node_has_one() {
    let mut world = World::new(&["a", "b"], json!({}));
    assert_eq!(world.steps(), ["+a-1 +b-2"]);
    let status = world.plan().status;
    assert_eq!((status.desired_number_scheduled, status.number_ready, status.number_available), (2, 2, Some(2)));
    assert_eq!((status.number_unavailable, status.updated_number_scheduled), (None, Some(2)));
    world.nodes.push(node("c", json!({})));
    world.pods.remove(0);
    assert_eq!(world.steps(), ["+a-3 +c-4"]);
    let pod = &world.pods[0];
    assert_eq!(pod.labels()["pod-template-generation"], "3");
    assert!(pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap().len() >= 6);
}

#[test]
fn only_nodes_that_are_selected_and_tolerated() {
    let template = json!({ "metadata": { "labels": { "app": "agent" } },
        "spec": { "containers": [{ "name": "a" }], "nodeSelector": { "disk": "ssd" } } });
    let mut world = World::new(&["a"], json!({ "template": template }));
    let labelled = |disk: &str| json!({ "name": "b", "labels": { "disk": disk } });
    world.nodes.push(node("b", json!({ "metadata": labelled("hdd") })));
    let taint = json!({ "taints": [{ "key": "own", "effect": "NoSchedule" }] });
    world.nodes.push(node("tainted", json!({ "spec": taint })));
    world.nodes.push(node("cordoned", json!({ "spec": { "unschedulable": true } })));
    assert_eq!(world.steps(), ["+a-1 +cordoned-2"]);
    // A node that is selected no longer loses its pod.
    world.nodes[0] = node("a", json!({ "metadata": { "name": "a", "labels": {} } }));
    assert_eq!(world.plan().status.number_misscheduled, 1);
    assert_eq!(world.steps(), ["-a-1"]);
}

#[test]
fn an_update_takes_one_node_at_a_time() {
    let mut world = World::new(&["a", "b"], json!({}));
    world.steps();
    world.update = "two";
    assert_eq!(world.steps(), ["-a-1", "+a-3", "-b-2", "+b-4"]);
}

#[test]
fn a_surge_makes_the_new_one_first() {
    let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "50%" } });
    let mut world = World::new(&["a", "b"], json!({ "updateStrategy": strategy }));
    world.steps();
    world.update = "two";
    assert_eq!(world.steps(), ["+a-3", "-a-1", "+b-4", "-b-2"]);
}

#[test]
fn on_delete_waits_for_somebody() {
    let mut world = World::new(&["a"], json!({ "updateStrategy": { "type": "OnDelete" } }));
    world.steps();
    world.update = "two";
    assert_eq!(world.step(), "");
    assert_eq!(world.plan().status.updated_number_scheduled, None);
}

#[test]
fn a_pod_that_has_ended_is_made_again() {
    let mut world = World::new(&["a"], json!({}));
    world.steps();
    world.pods[0].status.as_mut().unwrap().phase = Some("Failed".into());
    assert_eq!(world.step(), "-a-1");
    assert_eq!(world.step(), "", "it has to go first");
    world.live();
    assert_eq!(world.step(), "+a-2");
}
