#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{PodCondition, PodTemplateSpec};
use serde_json::Value;

use super::super::cluster::time;
use super::identity::REVISION_LABEL;
use super::*;

/// A set, and pods that do what the test says.
struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    current: &'static str,
    update: &'static str,
    made: usize,
}

fn template() -> PodTemplateSpec {
    serde_json::from_value(json!({
        "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [{ "name": "app", "image": "v1" }] },
    }))
    .unwrap()
}

impl World {
    fn new(spec: Value) -> World {
        let mut set = json!({
            "metadata": { "name": "db", "namespace": "ns", "uid": "s", "generation": 1 },
            "spec": {
                "serviceName": "db", "selector": { "matchLabels": { "app": "db" } }, "template": template(),
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            },
        });
        for (name, value) in spec.as_object().unwrap() {
            set["spec"][name] = value.clone();
        }
        World { set: serde_json::from_value(set).unwrap(), pods: vec![], current: "db-1", update: "db-1", made: 0 }
    }

    fn change(&mut self, spec: Value) {
        let mut set = json!(self.set);
        for (name, value) in spec.as_object().unwrap() {
            set["spec"][name] = value.clone();
        }
        self.set = serde_json::from_value(set).unwrap();
    }

    fn plan(&self) -> Plan {
        let version = |name: &str| Version { name: name.into(), template: template() };
        plan::plan(Seen {
            set: &self.set,
            pods: self.pods.iter().cloned().map(Arc::new).collect(),
            current: version(self.current),
            update: version(self.update),
            collisions: 0,
            now: Timestamp::from_second(1_000).unwrap(),
        })
    }

    /// Does what is planned, and says what that was.
    fn step(&mut self) -> String {
        let plan = self.plan();
        let mut did = Vec::new();
        for pod in plan.create {
            self.made += 1;
            did.push(format!("+{}", pod.name_any()));
            let mut pod = pod;
            pod.metadata.uid = Some(format!("p{}", self.made));
            self.pods.push(pod);
        }
        for pod in plan.delete.iter().chain(&plan.condemn) {
            did.push(format!("-{}", pod.name_any()));
            let pod = self.pods.iter_mut().find(|each| each.uid() == pod.uid()).unwrap();
            pod.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
        }
        self.current = if plan.status.current_revision.as_deref() == Some(self.update) { self.update } else { self.current };
        self.set.status = Some(plan.status);
        did.join(" ")
    }

    fn ready(&mut self, name: &str) {
        let status = json!({ "phase": "Running", "conditions": [
            { "type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z" }] });
        self.pod(name).status = serde_json::from_value(status).unwrap();
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|pod| pod.name_any() == name).unwrap()
    }

    /// What was told to end has ended.
    fn reap(&mut self) {
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    }

    /// Steps until nothing is left to do; all that is made becomes ready, all that is to end does.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..100 {
            let did = self.step();
            if did.is_empty() {
                return all;
            }
            all.push(did);
            self.reap();
            let names: Vec<_> = self.pods.iter().map(ResourceExt::name_any).collect();
            names.iter().for_each(|name| self.ready(name));
        }
        panic!("never settles: {all:?}");
    }
}

#[test]
fn pods_are_made_one_after_the_other_and_end_in_reverse() {
    let mut world = World::new(json!({ "replicas": 3 }));
    assert_eq!(world.step(), "+db-0");
    assert_eq!(world.step(), "", "the first isn't ready");
    world.ready("db-0");
    assert_eq!(world.step(), "+db-1");
    world.ready("db-1");
    assert_eq!(world.step(), "+db-2");
    world.ready("db-2");
    assert_eq!(world.step(), "");
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (3, Some(3), Some(3)));
    world.change(json!({ "replicas": 1 }));
    assert_eq!(world.step(), "-db-2");
    assert_eq!(world.step(), "", "the last is still ending");
    world.reap();
    assert_eq!(world.step(), "-db-1");
}

#[test]
fn in_parallel_nobody_waits() {
    let mut world = World::new(json!({ "replicas": 3, "podManagementPolicy": "Parallel" }));
    assert_eq!(world.step(), "+db-0 +db-1 +db-2");
    world.change(json!({ "replicas": 1 }));
    assert_eq!(world.step(), "-db-2 -db-1");
}

#[test]
fn a_pod_that_is_gone_or_has_ended_is_made_again_under_its_name() {
    let mut world = World::new(json!({ "replicas": 2 }));
    world.settle();
    world.pods.remove(0);
    assert_eq!(world.step(), "+db-0");
    world.ready("db-0");
    world.pod("db-1").status.get_or_insert_default().phase = Some("Failed".into());
    assert_eq!(world.step(), "-db-1");
    assert_eq!(world.step(), "");
    world.reap();
    assert_eq!(world.step(), "+db-1");
}

#[test]
fn an_update_goes_from_the_last_to_the_first() {
    let mut world = World::new(json!({ "replicas": 3 }));
    world.settle();
    world.update = "db-2";
    assert_eq!(world.step(), "-db-2");
    world.reap();
    assert_eq!(world.step(), "+db-2");
    assert_eq!(world.pod("db-2").labels()[REVISION_LABEL], "db-2");
    assert_eq!(world.step(), "", "it isn't ready yet");
    assert_eq!(world.current, "db-1");
    world.ready("db-2");
    assert_eq!(world.settle(), ["-db-1", "+db-1", "-db-0", "+db-0"]);
    assert_eq!(world.current, "db-2");
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
}

#[test]
fn below_the_partition_pods_stay_and_come_back_as_they_were() {
    let mut world = World::new(json!({ "replicas": 3 }));
    world.settle();
    world.update = "db-2";
    world.change(json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 2 } } }));
    assert_eq!(world.settle(), ["-db-2", "+db-2"]);
    world.pods.retain(|pod| pod.name_any() != "db-1");
    assert_eq!(world.settle(), ["+db-1"]);
    assert_eq!(world.pod("db-1").labels()[REVISION_LABEL], "db-1");
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
}

#[test]
fn on_delete_updates_what_somebody_deletes() {
    let mut world = World::new(json!({ "replicas": 2, "updateStrategy": { "type": "OnDelete" } }));
    world.settle();
    world.update = "db-2";
    assert_eq!(world.step(), "");
    world.pods.remove(1);
    assert_eq!(world.settle(), ["+db-1"]);
    assert_eq!(world.pod("db-1").labels()[REVISION_LABEL], "db-2");
}

#[test]
fn availability_is_waited_for() {
    let mut world = World::new(json!({ "replicas": 2, "minReadySeconds": 10 }));
    world.step();
    world.ready("db-0");
    let since = |world: &mut World, second: i64| {
        let condition = PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(time(Timestamp::from_second(second).unwrap())),
            ..PodCondition::default()
        };
        world.pod("db-0").status.get_or_insert_default().conditions = Some(vec![condition]);
    };
    since(&mut world, 995);
    let plan = world.plan();
    assert!(plan.create.is_empty());
    assert_eq!(plan.look_again, Some(std::time::Duration::from_secs(5)));
    since(&mut world, 990);
    assert_eq!(world.step(), "+db-1");
}

#[test]
fn ordinals_may_start_later() {
    let mut world = World::new(json!({ "replicas": 2, "ordinals": { "start": 5 } }));
    assert_eq!(world.settle(), ["+db-5", "+db-6"]);
    world.change(json!({ "ordinals": { "start": 6 } }));
    assert_eq!(world.settle(), ["+db-7", "-db-5"]);
}

#[test]
fn a_pod_keeps_its_names_and_volumes() {
    let claim = json!([{ "metadata": { "name": "data", "labels": { "tier": "x" } }, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }]);
    let mut world = World::new(json!({ "replicas": 1, "volumeClaimTemplates": claim }));
    world.step();
    let pod = world.pod("db-0").clone();
    let spec = pod.spec.clone().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("db")));
    let volume = &spec.volumes.unwrap()[0];
    assert_eq!(volume.name, "data");
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-0");
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "0");
    let claims = identity::claims(&world.set, 0);
    assert_eq!(claims[0].name_any(), "data-db-0");
    assert_eq!((claims[0].labels()["app"].as_str(), claims[0].labels()["tier"].as_str()), ("db", "x"));
    assert!(claims[0].owner_references().is_empty());
    world.change(json!({ "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete", "whenScaled": "Retain" } }));
    assert_eq!(identity::claims(&world.set, 0)[0].owner_references()[0].kind, "StatefulSet");
}

#[test]
fn only_names_that_we_give_are_ours() {
    let world = World::new(json!({}));
    let named = |name: &str| {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        identity::ordinal(&world.set, &pod)
    };
    assert_eq!(named("db-0"), Some(0));
    assert_eq!(named("db-12"), Some(12));
    for other in ["db", "db-", "db-01", "db--1", "db-x", "web-0", "db-99999999999"] {
        assert_eq!(named(other), None, "{other}");
    }
}
