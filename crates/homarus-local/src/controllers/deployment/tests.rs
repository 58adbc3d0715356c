#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::cluster::time;
use super::plan::{Plan, Seen, Strategy, Wishes, plan};
use super::*;

/// A cluster with one deployment, in which sets and pods do at once what they are told.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    running: Vec<String>,
    /// Whether pods of new sets become available.
    healthy: bool,
    now: i64,
}

fn template(image: &str) -> PodTemplateSpec {
    let container = Container { name: "app".into(), image: Some(image.into()), ..Default::default() };
    let mut template =
        PodTemplateSpec { spec: Some(PodSpec { containers: vec![container], ..Default::default() }), ..Default::default() };
    template.metadata.get_or_insert_default().labels = Some([("app".to_owned(), "web".to_owned())].into());
    template
}

fn rolling(surge: &str, unavailable: &str) -> DeploymentStrategy {
    let value = |text: &str| Some(text.parse().map_or(IntOrString::String(text.into()), IntOrString::Int));
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment { max_surge: value(surge), max_unavailable: value(unavailable) }),
    }
}

impl World {
    fn new(replicas: i32, strategy: DeploymentStrategy) -> World {
        let selector = LabelSelector { match_labels: Some([("app".to_owned(), "web".to_owned())].into()), match_expressions: None };
        let spec = DeploymentSpec {
            replicas: Some(replicas),
            selector,
            template: template("v1"),
            strategy: Some(strategy),
            revision_history_limit: Some(2),
            ..Default::default()
        };
        let mut deployment = Deployment { spec: Some(spec), ..Default::default() };
        deployment.metadata.name = Some("web".into());
        deployment.metadata.namespace = Some("ns".into());
        deployment.metadata.uid = Some("d".into());
        deployment.metadata.generation = Some(1);
        World { deployment, sets: vec![], running: vec![], healthy: true, now: 1_000 }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut DeploymentSpec)) {
        edit(self.deployment.spec.as_mut().unwrap());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn plan(&self) -> Plan {
        let sets = self.sets.iter().cloned().map(Arc::new).collect();
        let now = Timestamp::from_second(self.now).unwrap();
        plan(Seen { deployment: &self.deployment, sets, running: &self.running, now }).unwrap()
    }

    /// Does what is planned; says whether anything was.
    fn step(&mut self) -> bool {
        let before = (self.deployment.clone(), self.sets.clone());
        let plan = self.plan();
        for edit in &plan.edits {
            let set = self.sets.iter_mut().find(|set| set.uid() == edit.set.uid()).unwrap();
            if let Some(annotations) = edit.patch["metadata"]["annotations"].as_object() {
                let written = annotations.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()));
                set.annotations_mut().extend(written);
            }
            if let Some(replicas) = edit.patch["spec"]["replicas"].as_i64() {
                set.spec.as_mut().unwrap().replicas = Some(replicas.try_into().unwrap());
            }
        }
        if let Some(mut set) = plan.create {
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.creation_timestamp = Some(time(Timestamp::from_second(self.now).unwrap()));
            self.sets.push(set);
        }
        self.sets.retain(|set| !plan.delete.iter().any(|gone| gone.uid() == set.uid()));
        if let Some(revision) = plan.revision {
            self.deployment.annotations_mut().insert(sets::REVISION.into(), revision);
        }
        self.deployment.status = Some(plan.status);
        self.now += 1;
        before != (self.deployment.clone(), self.sets.clone())
    }

    /// Every set gets the pods it is to have.
    fn pods_follow(&mut self) {
        for set in &mut self.sets {
            let replicas = set.spec.as_ref().unwrap().replicas.unwrap();
            let available = |status: Option<i32>| if self.healthy { replicas } else { status.unwrap_or(0).min(replicas) };
            let status = set.status.get_or_insert_default();
            status.replicas = replicas;
            status.ready_replicas = Some(available(status.ready_replicas));
            status.available_replicas = Some(available(status.available_replicas));
            status.observed_generation = set.metadata.generation;
        }
    }

    /// Steps until nothing changes; returns the sizes that the sets had, step by step.
    fn settle(&mut self) -> Vec<Vec<i32>> {
        let mut sizes = vec![self.sizes()];
        for _ in 0..100 {
            let changed = self.step();
            if sizes.last() != Some(&self.sizes()) {
                sizes.push(self.sizes());
            }
            let before = self.sets.clone();
            self.pods_follow();
            if !changed && before == self.sets {
                return sizes;
            }
        }
        panic!("no end: {sizes:?}");
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).collect()
    }

    fn status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap()
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let conditions = self.status().conditions.unwrap();
        let condition = conditions.into_iter().find(|condition| condition.type_ == type_).unwrap();
        (condition.status, condition.reason.unwrap())
    }

    fn annotation(&self, set: usize, key: &str) -> Option<&str> {
        self.sets[set].annotations().get(key).map(String::as_str)
    }
}

#[test]
fn percentages_surge_up_and_lose_down() {
    for (replicas, surge, unavailable, expected) in [
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (4, "0", "0", (0, 1)),
        (2, "0%", "1%", (0, 1)),
        (3, "2", "9", (2, 3)),
        (0, "25%", "25%", (0, 0)),
    ] {
        let spec = World::new(replicas, rolling(surge, unavailable)).deployment.spec.unwrap();
        let expected = Strategy::Rolling { surge: expected.0, unavailable: expected.1 };
        assert_eq!(Wishes::of(&spec).strategy, expected, "{replicas} {surge} {unavailable}");
    }
}

#[test]
fn a_first_rollout_makes_one_set_and_completes() {
    let mut world = World::new(3, rolling("25%", "25%"));
    world.deployment.annotations_mut().insert("team".into(), "a".into());
    assert_eq!(world.settle(), [vec![], vec![3]]);
    let set = &world.sets[0];
    let hash = set.labels()[sets::HASH_LABEL].clone();
    assert_eq!(set.name_any(), format!("web-{hash}"));
    let spec = set.spec.clone().unwrap();
    assert_eq!(spec.selector.match_labels.unwrap()[sets::HASH_LABEL], hash);
    assert_eq!(spec.template.unwrap().metadata.unwrap().labels.unwrap()[sets::HASH_LABEL], hash);
    let expected = [("team", "a"), (sets::REVISION, "1"), (sets::DESIRED_REPLICAS, "3"), (sets::MAX_REPLICAS, "4")];
    let expected: BTreeMap<_, _> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(*set.annotations(), expected);
    assert_eq!(world.deployment.annotations()[sets::REVISION], "1");
    let status = world.status();
    assert_eq!((status.replicas, status.updated_replicas, status.available_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!((status.unavailable_replicas, status.observed_generation), (None, Some(1)));
    assert_eq!(world.condition("Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_rollout_keeps_within_surge_and_unavailability() {
    for (replicas, surge, unavailable) in
        [(10, "25%", "25%"), (10, "0", "1"), (10, "1", "0"), (1, "1", "0"), (1, "0", "1"), (3, "100%", "0")]
    {
        let mut world = World::new(replicas, rolling(surge, unavailable));
        world.settle();
        let wishes = Wishes::of(world.deployment.spec.as_ref().unwrap());
        let Strategy::Rolling { surge, unavailable } = wishes.strategy else { panic!() };
        world.edit(|spec| spec.template = template("v2"));
        let sizes = world.settle();
        assert_eq!(sizes.last().unwrap(), &[0, replicas]);
        for size in &sizes {
            let total: i32 = size.iter().sum();
            assert!(total <= replicas + surge && total >= replicas - unavailable, "{size:?} of {sizes:?}");
        }
        assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
        assert_eq!(world.deployment.annotations()[sets::REVISION], "2");
    }
}

#[test]
fn pods_that_never_become_available_stop_a_rollout() {
    let mut world = World::new(4, rolling("1", "1"));
    world.settle();
    world.healthy = false;
    world.edit(|spec| {
        spec.template = template("bad");
        spec.progress_deadline_seconds = Some(30);
    });
    let sizes = world.settle();
    assert_eq!(sizes.last().unwrap(), &[3, 2], "three good ones stay: {sizes:?}");
    assert_eq!(world.condition("Progressing").1, "ReplicaSetUpdated");
    let wait = world.plan().look_again.unwrap();
    world.now += i64::try_from(wait.as_secs()).unwrap();
    world.settle();
    assert_eq!(world.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    assert_eq!(world.condition("Available").0, "True");
    assert_eq!(world.plan().look_again, None);

    // Undone, the good ones come back, and the bad ones go.
    world.healthy = true;
    world.edit(|spec| spec.template = template("v1"));
    assert_eq!(world.settle().last().unwrap(), &[4, 0]);
}

#[test]
fn going_back_reuses_the_set_and_remembers_its_revisions() {
    let mut world = World::new(2, rolling("1", "0"));
    for image in ["v1", "v2", "v1", "v2", "v1"] {
        world.edit(|spec| spec.template = template(image));
        world.settle();
    }
    assert_eq!(world.sizes(), [2, 0]);
    assert_eq!(world.annotation(0, sets::REVISION), Some("5"));
    assert_eq!(world.annotation(0, sets::REVISION_HISTORY), Some("1,3"));
    assert_eq!(world.annotation(1, sets::REVISION), Some("4"));
    assert_eq!(world.deployment.annotations()[sets::REVISION], "5");
}

#[test]
fn the_history_is_as_long_as_it_may_be() {
    let mut world = World::new(1, rolling("1", "0"));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.edit(|spec| spec.template = template(image));
        world.settle();
    }
    let revisions: Vec<_> = (0..world.sets.len()).map(|set| world.annotation(set, sets::REVISION).unwrap()).collect();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn recreating_waits_for_the_last_old_pod() {
    let mut world = World::new(2, DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    world.settle();
    world.edit(|spec| spec.template = template("v2"));
    world.running = vec![world.sets[0].uid().unwrap()];
    assert_eq!(world.settle().last().unwrap(), &[0], "an old pod is still ending");
    world.running.clear();
    assert_eq!(world.settle().last().unwrap(), &[0, 2]);
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_new_size_in_the_middle_is_shared_out() {
    let mut world = World::new(10, rolling("3", "2"));
    world.settle();
    world.healthy = false;
    world.edit(|spec| spec.template = template("v2"));
    world.settle();
    assert_eq!(world.sizes(), [8, 5]);
    world.edit(|spec| spec.replicas = Some(20));
    world.step();
    assert_eq!(world.sizes(), [14, 9], "in proportion, 23 in all");
    world.edit(|spec| spec.replicas = Some(0));
    world.step();
    assert_eq!(world.sizes(), [0, 0]);
}

#[test]
fn a_pause_holds_the_rollout_but_not_the_size() {
    let mut world = World::new(2, rolling("1", "0"));
    world.settle();
    world.edit(|spec| {
        spec.paused = Some(true);
        spec.template = template("v2");
        spec.replicas = Some(5);
    });
    assert_eq!(world.settle().last().unwrap(), &[5]);
    assert_eq!(world.condition("Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    assert_eq!(world.status().updated_replicas, None);
    world.edit(|spec| spec.paused = Some(false));
    assert_eq!(world.settle().last().unwrap(), &[0, 5]);
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn the_label_is_no_part_of_the_template_and_collisions_change_the_name() {
    let world = World::new(1, rolling("1", "0"));
    let spec = world.deployment.spec.clone().unwrap();
    let first = sets::Set::new(&world.deployment, &spec);
    assert!(sets::has_template_of(&first.wanted, &world.deployment));
    let mut collided = world.deployment.clone();
    collided.status.get_or_insert_default().collision_count = Some(1);
    let second = sets::Set::new(&collided, &spec);
    assert_ne!(first.name(), second.name());
    let mut other = world.deployment.clone();
    other.spec.as_mut().unwrap().template = template("v2");
    assert!(!sets::has_template_of(&first.wanted, &other));
    assert_ne!(sets::Set::new(&other, other.spec.as_ref().unwrap()).name(), first.name());
}

#[test]
fn a_failing_set_shows_in_the_deployment_until_it_recovers() {
    let mut world = World::new(1, rolling("1", "0"));
    world.settle();
    let failure = k8s_openapi::api::apps::v1::ReplicaSetCondition {
        type_: "ReplicaFailure".into(),
        status: "True".into(),
        reason: Some("FailedCreate".into()),
        ..Default::default()
    };
    world.sets[0].status.as_mut().unwrap().conditions = Some(vec![failure]);
    world.step();
    assert_eq!(world.condition("ReplicaFailure"), ("True".into(), "FailedCreate".into()));
    world.sets[0].status.as_mut().unwrap().conditions = None;
    world.step();
    assert!(world.status().conditions.unwrap().iter().all(|condition| condition.type_ != "ReplicaFailure"));
}

#[test]
fn a_deployment_that_ends_changes_nothing_but_its_status() {
    let mut world = World::new(2, rolling("1", "0"));
    world.settle();
    world.edit(|spec| spec.template = template("v2"));
    world.deployment.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
    let plan = world.plan();
    assert!(plan.create.is_none() && plan.edits.is_empty() && plan.delete.is_empty());
}

/// Whatever pods become available when, a rollout keeps its promises, and ends once they all do.
#[test]
fn promises_hold_however_long_pods_take() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let replicas = rng.random_range(1..12);
        let (surge, unavailable) = (rng.random_range(0..4), rng.random_range(0..4));
        let mut world = World::new(replicas, rolling(&surge.to_string(), &unavailable.to_string()));
        world.settle();
        let Strategy::Rolling { surge, unavailable } = Wishes::of(world.deployment.spec.as_ref().unwrap()).strategy else {
            panic!()
        };
        for step in 0..rng.random_range(1..40) {
            if step == 0 || rng.random_ratio(1, 10) {
                let image = format!("v{}", rng.random_range(1..4));
                world.edit(|spec| spec.template = template(&image));
            }
            world.step();
            for set in &mut world.sets {
                let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
                let status = set.status.get_or_insert_default();
                // A set gives up what isn't available first.
                let available = status.available_replicas.unwrap_or(0).min(wanted);
                let available = rng.random_range(available..=wanted);
                status.replicas = wanted;
                status.ready_replicas = Some(available);
                status.available_replicas = Some(available);
            }
            let total: i32 = world.sizes().iter().sum();
            let available: i32 = world.sets.iter().map(|set| set.status.as_ref().unwrap().available_replicas.unwrap()).sum();
            assert!(total <= replicas + surge, "seed {seed}: {:?} of {replicas}+{surge}", world.sizes());
            assert!(available >= replicas - unavailable, "seed {seed}: {available} of {replicas}-{unavailable}");
        }
        world.settle();
        let new = world.sets.iter().position(|set| sets::has_template_of(set, &world.deployment)).unwrap();
        let sizes = world.sizes();
        assert!(
            sizes.iter().enumerate().all(|(set, size)| *size == if set == new { replicas } else { 0 }),
            "seed {seed}: {sizes:?}"
        );
    }
}
