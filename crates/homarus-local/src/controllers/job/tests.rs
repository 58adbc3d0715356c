#![allow(clippy::unwrap_used)]

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::cluster::time;
use super::plan::{Plan, expires_in, plan, result, unsupported};
use super::*;

/// A cluster with one Job, whose pods do what the test says.
struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: i64,
}

impl World {
    fn new(edit: impl FnOnce(&mut JobSpec)) -> World {
        let mut spec = JobSpec { completions: Some(1), parallelism: Some(1), backoff_limit: Some(6), ..Default::default() };
        edit(&mut spec);
        let metadata =
            ObjectMeta { name: Some("job".into()), namespace: Some("ns".into()), uid: Some("j".into()), ..Default::default() };
        World { job: Job { metadata, spec: Some(spec), status: None }, pods: vec![], made: 0, now: 10_000 }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        plan(&self.job, &pods, self.now())
    }

    /// Does what is planned, both steps of counting included.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        let seen: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let removed = |pod: &Pod, from: &[Arc<Pod>]| from.iter().any(|gone| gone.uid() == pod.uid());
        let now = self.now();
        self.pods.retain(|pod| !removed(pod, &plan.discard));
        for pod in self.pods.iter_mut().filter(|pod| removed(pod, &plan.end)) {
            pod.metadata.deletion_timestamp = Some(time(now));
        }
        for _ in 0..plan.create {
            self.made += 1;
            let mut pod = pod_of(&self.job);
            pod.metadata.name = Some(format!("job-{}", self.made));
            pod.metadata.uid = Some(format!("p{}", self.made));
            pod.metadata.creation_timestamp = Some(time(now));
            self.pods.push(pod);
        }
        let tracked = track::note(&self.job, &seen, &plan, plan.create, now);
        for pod in self.pods.iter_mut().filter(|pod| removed(pod, &tracked.release)) {
            pod.metadata.finalizers = None;
        }
        let settled = track::settle(tracked.status, &tracked.still_held, plan.outcome.as_ref(), plan.terminating, now);
        self.job.status = Some(settled);
        self.now += 1;
        plan
    }

    fn phase(&mut self, number: usize, phase: &str) {
        let name = format!("job-{number}");
        let pod = self.pods.iter_mut().find(|pod| pod.name_any() == name).unwrap();
        pod.status.get_or_insert_default().phase = Some(phase.into());
    }

    /// Pods that were told to end do.
    fn ending_pods_go(&mut self) {
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() || is_held(pod));
    }

    fn status(&self) -> &JobStatus {
        self.job.status.as_ref().unwrap()
    }

    fn counters(&self) -> (Option<i32>, Option<i32>, Option<i32>) {
        (self.status().active, self.status().succeeded, self.status().failed)
    }

    fn conditions(&self) -> Vec<(&str, &str, &str)> {
        let conditions = self.status().conditions.iter().flatten();
        conditions.map(|each| (each.type_.as_str(), each.status.as_str(), each.reason.as_deref().unwrap())).collect()
    }
}

#[test]
fn a_job_completes_as_often_as_asked_with_as_many_at_once_as_allowed() {
    let mut world = World::new(|spec| {
        spec.completions = Some(3);
        spec.parallelism = Some(2);
    });
    assert_eq!(world.step().create, 2);
    assert_eq!(world.counters(), (Some(2), None, None));
    assert!(world.status().start_time.is_some());
    world.phase(1, "Succeeded");
    assert_eq!(world.step().create, 1, "two more are wanted, one is there");
    assert_eq!(world.counters(), (Some(2), Some(1), None));
    world.phase(2, "Succeeded");
    assert_eq!(world.step().create, 0);
    world.phase(3, "Succeeded");
    world.step();
    assert_eq!(world.counters(), (None, Some(3), None));
    assert_eq!(
        world.conditions(),
        [("SuccessCriteriaMet", "True", "CompletionsReached"), ("Complete", "True", "CompletionsReached")]
    );
    assert!(world.status().completion_time.is_some());
    assert!(world.pods.iter().all(|pod| !is_held(pod)));
    let uncounted = world.status().uncounted_terminated_pods.clone().unwrap();
    assert_eq!((uncounted.succeeded, uncounted.failed), (None, None));
}

#[test]
fn pods_are_held_until_counted_and_carry_the_labels() {
    let mut world = World::new(|_| {});
    world.step();
    let pod = &world.pods[0];
    assert!(is_held(pod));
    for (label, value) in UID_LABELS.iter().map(|label| (label, "j")).chain(NAME_LABELS.iter().map(|label| (label, "job"))) {
        assert_eq!(pod.labels()[*label], value);
    }
    assert!(ownership::is_controlled_by(pod.meta(), "j"));
}

#[test]
fn failures_are_replaced_after_pauses_until_there_are_too_many() {
    let mut world = World::new(|spec| spec.backoff_limit = Some(2));
    for (number, pause) in [(1, 10), (2, 20)] {
        assert_eq!(world.step().create, 1);
        world.phase(number, "Failed");
        let plan = world.plan();
        assert_eq!(plan.create, 0);
        let wait = plan.look_again.unwrap().as_secs();
        assert!(wait < pause && wait + 2 >= pause, "{wait} of {pause}");
        world.step();
        world.now += 600;
    }
    assert_eq!(world.step().create, 1);
    world.phase(3, "Failed");
    world.step();
    assert_eq!(world.counters(), (None, None, Some(3)));
    assert_eq!(world.conditions(), [("FailureTarget", "True", "BackoffLimitExceeded"), ("Failed", "True", "BackoffLimitExceeded")]);
    assert_eq!(result(&world.job).unwrap().type_, "Failed");
    assert_eq!(world.status().completion_time, None);
}

#[test]
fn a_success_resets_the_pause() {
    let mut world = World::new(|spec| spec.completions = Some(2));
    world.step();
    world.phase(1, "Failed");
    world.step();
    world.now += 60;
    world.step();
    world.phase(2, "Succeeded");
    assert_eq!(world.step().create, 1, "the failure is before the success");
}

#[test]
fn a_deadline_ends_what_is_active_and_counts_it_as_failed() {
    let mut world = World::new(|spec| spec.active_deadline_seconds = Some(30));
    assert_eq!(world.step().look_again, Some(Duration::from_secs(30)));
    world.now += 40;
    let plan = world.step();
    assert_eq!((plan.end.len(), plan.terminating), (1, 1));
    assert_eq!(world.conditions(), [("FailureTarget", "True", "DeadlineExceeded")], "it waits for the pod");
    assert_eq!((world.counters(), world.status().terminating), ((None, None, Some(1)), Some(1)));
    world.ending_pods_go();
    world.step();
    assert_eq!(world.conditions()[1], ("Failed", "True", "DeadlineExceeded"));
}

#[test]
fn suspending_discards_pods_without_counting_them() {
    let mut world = World::new(|spec| spec.parallelism = Some(3));
    world.job.spec.as_mut().unwrap().completions = Some(3);
    world.step();
    let started = world.status().start_time.clone();
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    assert_eq!(world.step().discard.len(), 3);
    assert_eq!(world.counters(), (None, None, None));
    assert_eq!(world.conditions(), [("Suspended", "True", "JobSuspended")]);
    world.now += 100;
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    assert_eq!(world.step().create, 3);
    assert_eq!(world.conditions(), [("Suspended", "False", "JobResumed")]);
    assert!(world.status().start_time > started, "the deadline begins anew");
}

#[test]
fn a_job_made_suspended_has_not_started() {
    let mut world = World::new(|spec| spec.suspend = Some(true));
    assert_eq!(world.step().create, 0);
    assert_eq!(world.status().start_time, None);
}

#[test]
fn fewer_at_once_discards_the_surplus() {
    let mut world = World::new(|spec| {
        spec.completions = Some(9);
        spec.parallelism = Some(4);
    });
    world.step();
    world.job.spec.as_mut().unwrap().parallelism = Some(1);
    assert_eq!(world.step().discard.len(), 3);
    assert_eq!(world.counters(), (Some(1), None, None));
}

#[test]
fn without_completions_the_first_success_is_enough() {
    let mut world = World::new(|spec| {
        spec.completions = None;
        spec.parallelism = Some(3);
    });
    assert_eq!(world.step().create, 3);
    world.phase(1, "Succeeded");
    let plan = world.step();
    assert_eq!((plan.create, plan.discard.len()), (0, 0), "the others may finish");
    assert!(result(&world.job).is_none());
    world.phase(2, "Failed");
    world.phase(3, "Succeeded");
    world.step();
    assert_eq!(result(&world.job).unwrap().type_, "Complete");
    assert_eq!(world.counters(), (None, Some(2), Some(1)));
}

#[test]
fn restarts_in_place_count_but_not_those_of_sidecars() {
    let mut world = World::new(|spec| {
        spec.backoff_limit = Some(2);
        spec.template.spec = Some(PodSpec { restart_policy: Some("OnFailure".into()), ..Default::default() });
        let sidecar = Container { name: "proxy".into(), restart_policy: Some("Always".into()), ..Default::default() };
        spec.template.spec.as_mut().unwrap().init_containers = Some(vec![sidecar]);
    });
    world.step();
    world.phase(1, "Running");
    let restarted = |name: &str, restart_count| vec![ContainerStatus { name: name.into(), restart_count, ..Default::default() }];
    let status = world.pods[0].status.as_mut().unwrap();
    status.init_container_statuses = Some(restarted("proxy", 9));
    status.container_statuses = Some(restarted("app", 1));
    assert_eq!(world.plan().outcome, None);
    world.pods[0].status.as_mut().unwrap().container_statuses = Some(restarted("app", 2));
    assert_eq!(world.plan().outcome.unwrap().reason, "BackoffLimitExceeded");
}

#[test]
fn a_deleted_pod_is_a_failure_unless_its_end_is_awaited() {
    for (policy, created, failed) in [(None, 0, Some(1)), (Some("Failed"), 0, None)] {
        let mut world = World::new(|spec| spec.pod_replacement_policy = policy.map(str::to_owned));
        world.step();
        world.phase(1, "Running");
        world.pods[0].metadata.deletion_timestamp = Some(time(world.now()));
        assert_eq!(world.step().create, created);
        assert_eq!(world.counters().2, failed, "{policy:?}");
    }
}

#[test]
fn a_pod_is_counted_once_whatever_step_was_the_last() {
    let mut world = World::new(|spec| spec.completions = Some(2));
    world.step();
    world.phase(1, "Succeeded");
    // Stopped after the first step: noted, still held.
    let seen: Vec<_> = world.pods.iter().cloned().map(Arc::new).collect();
    let tracked = track::note(&world.job, &seen, &world.plan(), 0, world.now());
    world.job.status = Some(tracked.status);
    assert_eq!(world.plan().create, 1, "noted is as good as counted");
    // Stopped after the second: let go and even deleted, not yet counted.
    world.pods.clear();
    world.step();
    assert_eq!(world.counters(), (Some(1), Some(1), None));
}

#[test]
fn finished_jobs_are_kept_for_their_time() {
    let mut world = World::new(|spec| spec.ttl_seconds_after_finished = Some(60));
    assert_eq!(expires_in(&world.job, world.now()), None);
    world.step();
    world.phase(1, "Succeeded");
    world.step();
    world.now += 19;
    assert_eq!(expires_in(&world.job, world.now()), Some(Duration::from_secs(40)));
    world.now += 100;
    assert_eq!(expires_in(&world.job, world.now()), Some(Duration::ZERO));
    world.job.spec.as_mut().unwrap().ttl_seconds_after_finished = None;
    assert_eq!(expires_in(&world.job, world.now()), None);
}

#[test]
fn what_is_not_supported_is_named() {
    let world = World::new(|spec| spec.completion_mode = Some("Indexed".into()));
    assert_eq!(unsupported(&world.job), Some("spec.completionMode Indexed"));
    let world = World::new(|spec| spec.completion_mode = Some("NonIndexed".into()));
    assert_eq!(unsupported(&world.job), None);
}
