#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::plan::{Plan, plan, reference};
use super::*;

/// A CronJob that was made at 12:00:30, and its Jobs.
struct World {
    cron_job: CronJob,
    jobs: Vec<Job>,
    told: Vec<String>,
}

fn at(time: &str) -> Timestamp {
    format!("2026-03-01T{time}Z").parse().unwrap()
}

impl World {
    fn new(spec: Value) -> World {
        let mut cron_job = json!({
            "metadata": { "name": "tick", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-03-01T12:00:30Z" },
            "spec": {
                "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow",
                "jobTemplate": { "metadata": { "labels": { "app": "tick" } }, "spec": { "template": {} } },
            },
        });
        for (name, value) in spec.as_object().unwrap() {
            cron_job["spec"][name] = value.clone();
        }
        World { cron_job: serde_json::from_value(cron_job).unwrap(), jobs: vec![], told: vec![] }
    }

    fn plan(&self, time: &str) -> Plan {
        let jobs: Vec<_> = self.jobs.iter().cloned().map(Arc::new).collect();
        plan(&self.cron_job, &jobs, at(time))
    }

    /// Does what is planned; says which Jobs were made and which deleted.
    fn step(&mut self, time: &str) -> String {
        let plan = self.plan(time);
        let mut did = Vec::new();
        for gone in plan.forget.iter().chain(&plan.replace) {
            did.push(format!("-{}", gone.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"][11..16].to_owned()));
            self.jobs.retain(|job| job.uid() != gone.uid());
        }
        self.told = plan.tell.iter().map(|(_, reason, _)| (*reason).to_owned()).collect();
        let mut status = plan.status;
        if let Some(mut job) = plan.create {
            job.metadata.uid = job.metadata.name.clone();
            did.push(format!("+{}", job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"][11..16].to_owned()));
            status.active.get_or_insert_default().push(reference(&job));
            self.jobs.push(job);
        }
        self.cron_job.status = Some(status);
        did.join(" ")
    }

    fn end(&mut self, job: usize, how: &str, time: &str) {
        let now = at(time).to_string();
        let mut status = json!({ "startTime": now, "conditions": [{ "type": how, "status": "True" }] });
        if how == "Complete" {
            status["completionTime"] = json!(now);
        }
        self.jobs[job].status = serde_json::from_value(status).unwrap();
    }

    fn active(&self) -> usize {
        self.cron_job.status.as_ref().unwrap().active.as_ref().map_or(0, Vec::len)
    }
}

#[test]
fn a_job_for_each_time_once() {
    let mut world = World::new(json!({}));
    assert_eq!(world.step("12:04:00"), "", "its time of 12:00 was before it was made");
    assert_eq!(world.plan("12:04:00").look_again, Some(std::time::Duration::from_millis(60_100)));
    assert_eq!(world.step("12:05:00"), "+12:05");
    assert_eq!(world.step("12:05:01"), "");
    assert_eq!(world.jobs[0].name_any(), format!("tick-{}", at("12:05:00").as_second() / 60));
    assert_eq!(world.jobs[0].labels()["app"], "tick");
    assert_eq!(world.step("12:10:03"), "+12:10");
    assert_eq!(world.active(), 2);
    world.end(0, "Complete", "12:11:00");
    world.step("12:11:01");
    assert_eq!((world.active(), world.told.as_slice()), (1, ["SawCompletedJob".to_owned()].as_slice()));
    let status = world.cron_job.status.clone().unwrap();
    assert_eq!(status.last_successful_time.unwrap().0, at("12:11:00"));
}

#[test]
fn after_a_pause_the_last_time_alone_is_made_up_for() {
    let mut world = World::new(json!({}));
    assert_eq!(world.step("12:23:00"), "+12:20");
    assert!(world.told.is_empty());
    let mut world = World::new(json!({ "schedule": "* * * * *" }));
    assert_eq!(world.step("18:00:00"), "+18:00");
    assert_eq!(world.told, ["TooManyMissedTimes"]);
}

#[test]
fn what_is_too_late_is_left_out() {
    let mut world = World::new(json!({ "startingDeadlineSeconds": 30 }));
    assert_eq!(world.step("12:05:31"), "");
    assert_eq!(world.told, ["MissSchedule"]);
    assert_eq!(world.step("12:05:32"), "");
    assert!(world.told.is_empty(), "told once");
    assert_eq!(world.step("12:10:29"), "+12:10");
}

#[test]
fn concurrency_is_as_asked_for() {
    let mut forbids = World::new(json!({ "concurrencyPolicy": "Forbid" }));
    forbids.step("12:05:00");
    assert_eq!(forbids.step("12:10:00"), "");
    assert_eq!(forbids.told, ["JobAlreadyActive"]);
    forbids.end(0, "Complete", "12:11:00");
    assert_eq!(forbids.step("12:11:00"), "+12:10", "late is better than never");
    let mut replaces = World::new(json!({ "concurrencyPolicy": "Replace" }));
    replaces.step("12:05:00");
    assert_eq!(replaces.step("12:10:00"), "-12:05 +12:10");
    assert_eq!(replaces.active(), 1);
}

#[test]
fn suspension_stops_it_and_its_end_makes_up_for_the_last_time() {
    let mut world = World::new(json!({ "suspend": true }));
    assert_eq!(world.step("12:06:00"), "");
    assert_eq!(world.plan("12:06:00").look_again, None);
    world.cron_job.spec.as_mut().unwrap().suspend = Some(false);
    assert_eq!(world.step("12:07:00"), "+12:05");
}

#[test]
fn a_history_has_its_limits() {
    let mut world = World::new(json!({}));
    for (n, time) in ["12:05:00", "12:10:00", "12:15:00"].into_iter().enumerate() {
        world.step(time);
        world.end(n, if n == 1 { "Failed" } else { "Complete" }, time);
    }
    let spec = world.cron_job.spec.as_mut().unwrap();
    (spec.successful_jobs_history_limit, spec.failed_jobs_history_limit) = (Some(1), Some(0));
    assert_eq!(world.step("12:16:00"), "-12:05 -12:10");
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_zone_is_heeded_and_a_wrong_schedule_told() {
    let mut world = World::new(json!({ "schedule": "30 8 * * *", "timeZone": "America/New_York" }));
    assert_eq!(world.step("13:29:00"), "");
    assert_eq!(world.step("13:30:00"), "+08:30");
    let mut wrong = World::new(json!({ "schedule": "often" }));
    assert_eq!(wrong.step("13:30:00"), "");
    assert_eq!(wrong.told, ["UnparseableSchedule"]);
}

#[test]
fn a_job_made_by_hand_is_not_ours_and_a_lost_one_is_told() {
    let mut world = World::new(json!({}));
    world.step("12:05:00");
    let by_hand =
        json!({ "metadata": { "name": "mine", "uid": "m", "annotations": { "cronjob.kubernetes.io/instantiate": "manual" } } });
    world.jobs.push(serde_json::from_value(by_hand).unwrap());
    world.jobs.remove(0);
    world.step("12:06:00");
    assert_eq!((world.active(), world.told.as_slice()), (0, ["MissingJob".to_owned()].as_slice()));
}
