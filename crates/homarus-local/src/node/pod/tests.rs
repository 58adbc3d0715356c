#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::machine::{Act, Machine, Outcome, State};
use super::plan::Plan;
use super::probe::ProbeKind;
use super::status::{self, Facts};

/// A pod and a clock; containers go by their names.
struct Scene {
    pod: Pod,
    machine: Machine,
    now: Duration,
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scene {
    fn new(spec: Value) -> Self {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let machine = Machine::new(Plan::of(&pod));
        Self { pod, machine, now: Duration::ZERO }
    }

    /// The scene with its sandbox made.
    fn placed(spec: Value) -> Self {
        let mut scene = Self::new(spec);
        assert_eq!(scene.poll(), ["create"]);
        scene.machine.sandbox_created();
        scene
    }

    fn slot(&self, name: &str) -> usize {
        self.machine.containers.iter().position(|c| c.plan.name == name).unwrap()
    }

    /// What is to be done now, in short; events left out.
    fn poll(&mut self) -> Vec<String> {
        let step = self.machine.poll(self.now);
        let name = |slot: usize| self.machine.containers[slot].plan.name.clone();
        let short = |act: Act| match act {
            Act::CreateSandbox => Some("create".into()),
            Act::Start { slot } => Some(format!("start {}", name(slot))),
            Act::PostStart { slot } => Some(format!("post-start {}", name(slot))),
            Act::PreStop { slot, .. } => Some(format!("pre-stop {}", name(slot))),
            Act::Probe { slot, kind } => Some(format!("{} {}", kind.name().to_lowercase(), name(slot))),
            Act::Term { slot } => Some(format!("term {}", name(slot))),
            Act::Kill { slot } => Some(format!("kill {}", name(slot))),
            Act::RemoveSandbox => Some("remove".into()),
            Act::Finish => Some("finish".into()),
            Act::Tell(_) => None,
        };
        step.acts.into_iter().filter_map(short).collect()
    }

    fn at(&mut self, seconds: u64) -> Vec<String> {
        self.now = secs(seconds);
        self.poll()
    }

    fn started(&mut self, name: &str) {
        let slot = self.slot(name);
        self.machine.started(slot, format!("{name}-id"), Timestamp::UNIX_EPOCH, self.now);
    }

    fn ended(&mut self, name: &str, code: i32) {
        let slot = self.slot(name);
        self.machine.ended(slot, code, None, None, Timestamp::UNIX_EPOCH, self.now);
    }

    fn probed(&mut self, name: &str, kind: ProbeKind, well: bool) {
        let slot = self.slot(name);
        let answer = if well { Ok(()) } else { Err("no".into()) };
        self.machine.probed(slot, kind, answer);
    }

    fn status(&self) -> PodStatus {
        let before = PodStatus::default();
        let facts = Facts {
            pod: &self.pod,
            before: &before,
            host_ip: "10.42.0.1".into(),
            pod_ip: Some("10.42.0.9".into()),
            start: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        };
        status::of(&self.machine, &facts)
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    fn condition(&self, kind: &str) -> String {
        let conditions = self.status().conditions.unwrap();
        conditions.iter().find(|c| c.type_ == kind).unwrap().status.clone()
    }

    fn waiting_reason(&self, name: &str) -> String {
        let statuses = self.status().container_statuses.unwrap();
        let status = statuses.iter().find(|c| c.name == name).unwrap();
        status.state.clone().unwrap().waiting.unwrap().reason.unwrap()
    }
}

const NONE: [&str; 0] = [];

#[test]
fn containers_start_in_order_and_the_pod_runs() {
    let mut scene = Scene::placed(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(scene.poll(), ["start a"]);
    assert_eq!(scene.phase(), "Pending");
    scene.started("a");
    assert_eq!(scene.poll(), ["start b"]);
    scene.started("b");
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.phase(), "Running");
    assert_eq!(scene.condition("Ready"), "True");
}

#[test]
fn the_next_container_waits_for_the_start_hook() {
    let hook = json!({"postStart": {"exec": {"command": ["true"]}}});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "lifecycle": hook}, {"name": "b"}]}));
    scene.poll();
    scene.started("a");
    assert_eq!(scene.poll(), ["post-start a"]);
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.condition("Ready"), "False");
    scene.machine.post_started(0, None, scene.now);
    assert_eq!(scene.poll(), ["start b"]);
}

#[test]
fn a_failed_start_hook_ends_the_container() {
    let hook = json!({"postStart": {"exec": {"command": ["false"]}}});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "lifecycle": hook}]}));
    scene.poll();
    scene.started("a");
    scene.poll();
    let told = scene.machine.post_started(0, Some("exit 1".into()), scene.now).unwrap();
    assert_eq!(told.reason, "FailedPostStartHook");
    assert_eq!(scene.poll(), ["term a"]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut scene = Scene::placed(json!({
        "initContainers": [{"name": "i"}, {"name": "j"}],
        "containers": [{"name": "a"}]}));
    assert_eq!(scene.poll(), ["start i"]);
    scene.started("i");
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.waiting_reason("a"), "PodInitializing");
    scene.ended("i", 0);
    assert_eq!(scene.poll(), ["start j"]);
    scene.started("j");
    scene.ended("j", 0);
    assert_eq!(scene.condition("Initialized"), "True");
    assert_eq!(scene.poll(), ["start a"]);
}

#[test]
fn a_failed_init_container_is_tried_again_unless_never() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let mut scene = Scene::placed(spec("OnFailure"));
    scene.poll();
    scene.started("i");
    scene.ended("i", 1);
    assert_eq!(scene.poll(), ["start i"]);
    assert_eq!(scene.phase(), "Pending");

    let mut scene = Scene::placed(spec("Never"));
    scene.poll();
    scene.started("i");
    scene.ended("i", 1);
    assert_eq!(scene.poll(), ["remove"]);
    assert_eq!(scene.phase(), "Failed");
}

fn with_sidecars() -> Value {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 100});
    json!({
        "initContainers": [
            {"name": "s1", "restartPolicy": "Always", "startupProbe": probe},
            {"name": "i"},
            {"name": "s2", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a"}]})
}

fn run_with_sidecars() -> Scene {
    let mut scene = Scene::placed(with_sidecars());
    assert_eq!(scene.poll(), ["start s1"]);
    scene.started("s1");
    assert_eq!(scene.poll(), ["startup s1"]);
    scene.probed("s1", ProbeKind::Startup, false);
    assert_eq!(scene.at(1), ["startup s1"]);
    scene.probed("s1", ProbeKind::Startup, true);
    assert_eq!(scene.poll(), ["start i"]);
    scene.started("i");
    scene.ended("i", 0);
    assert_eq!(scene.poll(), ["start s2"]);
    scene.started("s2");
    assert_eq!(scene.poll(), ["start a"]);
    assert_eq!(scene.phase(), "Pending");
    scene.started("a");
    scene.poll();
    assert_eq!(scene.phase(), "Running");
    scene
}

#[test]
fn sidecars_are_started_before_what_follows() {
    let scene = run_with_sidecars();
    assert_eq!(scene.condition("Ready"), "True");
}

#[test]
fn sidecars_stop_last_and_in_reverse() {
    let mut scene = run_with_sidecars();
    scene.machine.delete(secs(30), scene.now);
    assert_eq!(scene.poll(), ["term a"]);
    scene.ended("a", 143);
    assert_eq!(scene.poll(), ["term s2"]);
    scene.ended("s2", 0);
    assert_eq!(scene.poll(), ["term s1"]);
    scene.ended("s1", 0);
    assert_eq!(scene.poll(), ["remove"]);
    scene.machine.sandbox_removed();
    assert_eq!(scene.poll(), ["finish"]);
    assert_eq!(scene.poll(), NONE);
}

#[test]
fn after_the_grace_period_all_are_killed() {
    let mut scene = run_with_sidecars();
    scene.machine.delete(secs(5), scene.now);
    assert_eq!(scene.poll(), ["term a"]);
    assert_eq!(scene.at(5), NONE);
    assert_eq!(scene.at(6), ["term s1", "term s2", "kill a"]);
    assert_eq!(scene.at(8), ["kill s1", "kill s2"]);
}

#[test]
fn a_sidecar_restarts_though_the_pod_never_does() {
    let mut spec = with_sidecars();
    spec["restartPolicy"] = "Never".into();
    spec["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}]);
    let mut scene = Scene::placed(spec);
    scene.poll();
    scene.started("s");
    assert_eq!(scene.poll(), ["start a"]);
    scene.started("a");
    scene.ended("s", 1);
    assert_eq!(scene.poll(), ["start s"]);
    scene.started("s");
    scene.ended("a", 0);
    assert_eq!(scene.poll(), ["term s"]);
    assert_eq!(scene.phase(), "Running");
    scene.ended("s", 143);
    assert_eq!(scene.poll(), ["remove"]);
    assert_eq!(scene.phase(), "Succeeded");
    assert_eq!(scene.machine.outcome(), Some(Outcome::Succeeded));
}

#[test]
fn crashes_wait_longer_each_time() {
    let mut scene = Scene::placed(json!({"containers": [{"name": "a"}]}));
    assert_eq!(scene.poll(), ["start a"]);
    scene.started("a");
    scene.ended("a", 1);
    assert_eq!(scene.poll(), ["start a"], "the first restart is at once");
    scene.started("a");
    scene.ended("a", 1);
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.waiting_reason("a"), "CrashLoopBackOff");
    assert_eq!(scene.phase(), "Running");
    assert_eq!(scene.at(9), NONE);
    assert_eq!(scene.at(10), ["start a"]);
    assert_eq!(scene.machine.containers[0].restarts, 2);
    scene.started("a");
    scene.ended("a", 1);
    assert_eq!(scene.at(29), NONE);
    assert_eq!(scene.at(30), ["start a"]);
}

#[test]
fn what_ran_well_is_restarted_at_once() {
    let mut scene = Scene::placed(json!({"containers": [{"name": "a"}]}));
    for _ in 0..2 {
        scene.at(0);
        scene.started("a");
        scene.ended("a", 1);
    }
    assert_eq!(scene.at(10), ["start a"]);
    scene.started("a");
    scene.now = secs(1000);
    scene.ended("a", 1);
    assert_eq!(scene.poll(), ["start a"]);
}

#[test]
fn restart_policies_decide_the_outcome() {
    let run = |policy: &str, code: i32| {
        let mut scene = Scene::placed(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        scene.poll();
        scene.started("a");
        scene.ended("a", code);
        let acts = scene.poll();
        (acts, scene.phase())
    };
    assert_eq!(run("Never", 0), (vec!["remove".into()], "Succeeded".into()));
    assert_eq!(run("Never", 1), (vec!["remove".into()], "Failed".into()));
    assert_eq!(run("OnFailure", 0), (vec!["remove".into()], "Succeeded".into()));
    assert_eq!(run("OnFailure", 1).0, ["start a"]);
    assert_eq!(run("Always", 0).0, ["start a"]);
}

#[test]
fn readiness_follows_its_thresholds() {
    let probe = json!({"tcpSocket": {"port": 1}, "initialDelaySeconds": 2, "periodSeconds": 3,
                       "failureThreshold": 2, "successThreshold": 2});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "readinessProbe": probe}]}));
    scene.poll();
    scene.started("a");
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.condition("Ready"), "False");
    for (at, well, ready) in [(2, true, "False"), (5, true, "True"), (8, false, "True"), (11, false, "False")] {
        assert_eq!(scene.at(at), ["readiness a"]);
        assert_eq!(scene.poll(), NONE, "one question at a time");
        scene.probed("a", ProbeKind::Readiness, well);
        assert_eq!(scene.condition("Ready"), ready, "at {at}");
    }
}

#[test]
fn a_container_that_fails_its_liveness_probe_is_ended_and_restarted() {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1,
                       "terminationGracePeriodSeconds": 3});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "livenessProbe": probe}]}));
    scene.poll();
    scene.started("a");
    assert_eq!(scene.poll(), ["liveness a"]);
    scene.probed("a", ProbeKind::Liveness, false);
    assert_eq!(scene.poll(), ["term a"]);
    assert_eq!(scene.at(2), NONE);
    assert_eq!(scene.at(3), ["kill a"]);
    scene.ended("a", 137);
    assert_eq!(scene.poll(), ["start a"]);
}

#[test]
fn other_probes_wait_for_the_startup_probe() {
    let probe = |failures: u32| json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": failures});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a",
        "startupProbe": probe(2), "livenessProbe": probe(1), "readinessProbe": probe(1)}]}));
    scene.poll();
    scene.started("a");
    assert_eq!(scene.poll(), ["startup a"]);
    scene.probed("a", ProbeKind::Startup, true);
    assert_eq!(scene.poll(), ["liveness a", "readiness a"]);
}

#[test]
fn the_stop_hook_comes_first_and_takes_of_the_grace() {
    let hook = json!({"preStop": {"sleep": {"seconds": 5}}});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "lifecycle": hook}]}));
    scene.poll();
    scene.started("a");
    scene.poll();
    scene.machine.delete(secs(30), scene.now);
    assert_eq!(scene.poll(), ["pre-stop a"]);
    assert_eq!(scene.at(4), NONE);
    scene.machine.pre_stopped(0);
    assert_eq!(scene.at(5), ["term a"]);
    assert_eq!(scene.at(29), NONE);
    assert_eq!(scene.at(30), ["kill a"]);
}

#[test]
fn a_hook_that_hangs_costs_only_the_grace() {
    let hook = json!({"preStop": {"sleep": {"seconds": 500}}});
    let mut scene = Scene::placed(json!({"containers": [{"name": "a", "lifecycle": hook}]}));
    scene.poll();
    scene.started("a");
    scene.poll();
    scene.machine.delete(secs(10), scene.now);
    assert_eq!(scene.poll(), ["pre-stop a"]);
    assert_eq!(scene.at(10), ["term a"]);
    assert_eq!(scene.at(12), ["kill a"]);
}

#[test]
fn a_second_delete_can_only_hurry() {
    let mut scene = Scene::placed(json!({"containers": [{"name": "a"}]}));
    scene.poll();
    scene.started("a");
    scene.poll();
    scene.machine.delete(secs(30), scene.now);
    assert_eq!(scene.poll(), ["term a"]);
    scene.machine.delete(secs(100), scene.now);
    scene.machine.delete(Duration::ZERO, scene.now);
    assert_eq!(scene.at(2), ["kill a"]);
}

#[test]
fn a_pod_that_is_deleted_before_it_began_just_goes() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}));
    scene.machine.delete(secs(30), scene.now);
    assert_eq!(scene.poll(), ["finish"]);
}

#[test]
fn a_pod_that_is_deleted_while_it_is_made_goes_when_it_is_made() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}));
    assert_eq!(scene.poll(), ["create"]);
    scene.machine.delete(secs(30), scene.now);
    assert_eq!(scene.poll(), NONE);
    scene.machine.sandbox_created();
    assert_eq!(scene.poll(), ["remove"]);
}

#[test]
fn what_could_not_be_made_is_tried_again() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}));
    scene.poll();
    scene.machine.sandbox_failed(scene.now);
    assert_eq!(scene.at(1), NONE);
    assert_eq!(scene.at(3), ["create"]);
    scene.machine.sandbox_created();
    assert_eq!(scene.poll(), ["start a"]);
    scene.machine.held_up(0, "ErrImagePull", "no row".into(), scene.now);
    assert_eq!(scene.poll(), NONE);
    assert_eq!(scene.waiting_reason("a"), "ErrImagePull");
    assert_eq!(scene.at(6), ["start a"]);
    assert_eq!(scene.machine.containers[0].restarts, 0);
}

#[test]
fn a_lost_sandbox_begins_the_pod_anew() {
    let mut scene = Scene::placed(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    scene.poll();
    scene.started("i");
    scene.ended("i", 0);
    scene.poll();
    scene.started("a");
    scene.machine.sandbox_lost(Timestamp::UNIX_EPOCH, scene.now);
    assert!(matches!(&scene.machine.containers[1].state, State::Ended { ended, .. } if ended.code == 137));
    assert_eq!(scene.at(3), ["create"]);
    scene.machine.sandbox_created();
    assert_eq!(scene.poll(), ["start i"]);
}

#[test]
fn a_pod_past_its_deadline_fails() {
    let mut scene = Scene::placed(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]}));
    scene.poll();
    scene.started("a");
    assert_eq!(scene.at(4), NONE);
    assert_eq!(scene.at(5), ["term a"]);
    scene.ended("a", 143);
    assert_eq!(scene.poll(), ["remove"]);
    let status = scene.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_readiness_gate_waits_for_others() {
    let scene_spec = json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a"}]});
    let mut scene = Scene::placed(scene_spec);
    scene.poll();
    scene.started("a");
    scene.poll();
    assert_eq!(scene.condition("ContainersReady"), "True");
    assert_eq!(scene.condition("Ready"), "False");
}
