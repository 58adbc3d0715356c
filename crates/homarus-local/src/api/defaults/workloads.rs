//! Defaults of workloads that keep their pods' names, nodes or times, and of what they claim.

use serde_json::{Value, json};

use super::{each, pod, set, template, within};

/// The status of a new DaemonSet: the counters that its schema demands.
pub(super) fn no_daemons() -> Value {
    json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
}

pub(super) fn stateful_set(object: &mut Value) {
    let spec = within(object, "spec");
    set(spec, "podManagementPolicy", "OrderedReady");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    let strategy = within(spec, "updateStrategy");
    if strategy["type"].is_null() {
        set(strategy, "type", "RollingUpdate");
        within(strategy, "rollingUpdate");
    }
    if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
        set(&mut strategy["rollingUpdate"], "partition", 0);
    }
    if let Some(fields) = strategy.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let retention = within(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", "Retain");
    set(retention, "whenScaled", "Retain");
    for claim in each(spec, "volumeClaimTemplates") {
        claim["apiVersion"] = "v1".into();
        claim["kind"] = "PersistentVolumeClaim".into();
        self::claim(claim);
        claim["status"] = json!({"phase": "Pending"});
    }
    template(object);
}

pub(super) fn daemon_set(object: &mut Value) {
    let spec = within(object, "spec");
    set(spec, "revisionHistoryLimit", 10);
    let strategy = within(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = within(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    template(object);
}

pub(super) fn cron_job(object: &mut Value) {
    let spec = within(object, "spec");
    set(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    let job = within(spec, "jobTemplate");
    within(job, "metadata");
    let template = within(within(job, "spec"), "template");
    within(template, "metadata");
    pod::spec_defaults(within(template, "spec"));
}

/// A claim, or what one is to be made from.
pub(super) fn claim(object: &mut Value) {
    let spec = within(object, "spec");
    set(spec, "volumeMode", "Filesystem");
    within(spec, "resources");
}
