//! Workloads that keep their pods' names, nodes or times, and what they claim.

use serde_json::Value;

use super::{Cause, invalid, pod_spec, required, required_because, workload};
use crate::schedule::Schedule;

/// A Job's name is its CronJob's and a dash and ten digits.
const CRON_JOB_NAME_MAX: usize = 52;
/// What of a StatefulSet's spec may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn one_of(field: &str, value: &Value, known: &[&str]) -> Option<Cause> {
    if known.iter().any(|name| value == name) {
        return None;
    }
    let names: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
    let message = format!("Unsupported value: {value}: supported values: {}", names.join(", "));
    Some(Cause { reason: "FieldValueNotSupported", message, field: field.into() })
}

fn forbidden(field: &str, why: &str) -> Cause {
    Cause { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.into() }
}

fn not_negative(field: &str, value: &Value) -> Option<Cause> {
    value.as_i64().filter(|number| *number < 0).map(|_| invalid(field, value, "must be greater than or equal to 0"))
}

fn restarts_always(spec: &Value) -> Option<Cause> {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    one_of("spec.template.spec.restartPolicy", policy, &["Always"])
}

pub(super) fn stateful_set(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let mut causes = workload(object);
    causes.extend(one_of("spec.podManagementPolicy", &spec["podManagementPolicy"], &["OrderedReady", "Parallel"]));
    causes.extend(one_of("spec.updateStrategy", &spec["updateStrategy"]["type"], &["RollingUpdate", "OnDelete"]));
    let partition = &spec["updateStrategy"]["rollingUpdate"]["partition"];
    causes.extend(not_negative("spec.updateStrategy.rollingUpdate.partition", partition));
    causes.extend(not_negative("spec.ordinals.start", &spec["ordinals"]["start"]));
    causes.extend(restarts_always(spec));
    // A claim's volume is the pod's, whether its template has one of that name or not.
    let claims = spec["volumeClaimTemplates"].as_array().map(Vec::as_slice).unwrap_or_default();
    let claimed = |cause: &Cause| {
        cause.reason == "FieldValueNotFound"
            && claims.iter().any(|claim| cause.message.ends_with(&format!(": {}", claim["metadata"]["name"])))
    };
    causes.retain(|cause| !claimed(cause));
    causes
}

pub(super) fn stateful_set_change(old: &Value, new: &Value) -> Option<Cause> {
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|name, _| !CHANGEABLE.contains(&name.as_str()));
        }
        spec
    };
    let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
               'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    (rest(old) != rest(new)).then(|| forbidden("spec", why))
}

pub(super) fn daemon_set(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let mut causes = workload(object);
    causes.extend(one_of("spec.updateStrategy", &spec["updateStrategy"]["type"], &["RollingUpdate", "OnDelete"]));
    causes.extend(restarts_always(spec));
    let zero = |value: &Value| *value == 0 || *value == "0" || *value == "0%";
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if rolling.is_object() && zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let why = "cannot be 0 when `maxSurge` is 0";
        causes.push(invalid("spec.updateStrategy.rollingUpdate.maxUnavailable", &rolling["maxUnavailable"], why));
    }
    causes
}

pub(super) fn cron_job(object: &Value) -> Vec<Cause> {
    let spec = &object["spec"];
    let mut causes = Vec::new();
    let name = &object["metadata"]["name"];
    if name.as_str().is_some_and(|name| name.len() > CRON_JOB_NAME_MAX) {
        causes.push(invalid("metadata.name", name, "must be no more than 52 characters"));
    }
    causes.extend(schedule(spec));
    causes.extend(not_negative("spec.startingDeadlineSeconds", &spec["startingDeadlineSeconds"]));
    causes.extend(one_of("spec.concurrencyPolicy", &spec["concurrencyPolicy"], &["Allow", "Forbid", "Replace"]));
    for limit in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        causes.extend(not_negative(&format!("spec.{limit}"), &spec[limit]));
    }
    let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
    let at = "spec.jobTemplate.spec.template.spec";
    causes.extend(pod_spec(pod, at));
    if pod["restartPolicy"] == "Always" {
        let field = format!("{at}.restartPolicy");
        causes.extend(one_of(&field, &pod["restartPolicy"], &["OnFailure", "Never"]));
    }
    causes
}

fn schedule(spec: &Value) -> Option<Cause> {
    let Some(text) = spec["schedule"].as_str().filter(|text| !text.is_empty()) else {
        return Some(required("spec.schedule"));
    };
    if text.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        return Some(invalid("spec.schedule", &spec["schedule"], why));
    }
    if let Err(why) = Schedule::parse(text, None) {
        return Some(invalid("spec.schedule", &spec["schedule"], &why.to_string()));
    }
    let zone = &spec["timeZone"];
    match zone.as_str() {
        None => None,
        Some("") => Some(invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string")),
        Some(name) => match Schedule::parse(text, Some(name)) {
            Ok(_) => None,
            Err(why) => Some(invalid("spec.timeZone", zone, &why.to_string())),
        },
    }
}

pub(super) fn claim(spec: &Value, at: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if spec["accessModes"].as_array().is_none_or(Vec::is_empty) {
        causes.push(required_because(&format!("{at}.accessModes"), "at least 1 access mode is required"));
    }
    if spec["resources"]["requests"]["storage"].is_null() {
        causes.push(required(&format!("{at}.resources[storage]")));
    }
    causes
}

/// A claim is what it was, but for what it asks for, and the volume that it gets.
pub(super) fn claim_change(old: &Value, new: &Value) -> Option<Cause> {
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("resources");
            fields.remove("volumeAttributesClassName");
            if old["volumeName"].is_null() {
                fields.remove("volumeName");
            }
        }
        spec
    };
    let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    (rest(old) != rest(new)).then(|| forbidden("spec", why))
}
