//! Cells of workloads that keep their pods' names, nodes or times, and of what they claim.

use jiff::Timestamp;
use serde_json::Value;

use super::rows::{NONE, UNKNOWN, count, joined, list, of_template, or_none, since, text};
use crate::api::store::selector::Labels;

const UNSET: &str = "<unset>";

/// The cells of a row of one of these kinds.
pub(super) fn cells(plural: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let age = Value::from(since(&object["metadata"]["creationTimestamp"], now));
    let mut cells = vec![object["metadata"]["name"].clone()];
    cells.extend(match plural {
        "statefulsets" => stateful_set(object, age),
        "daemonsets" => daemon_set(object, age),
        "controllerrevisions" => vec![controller(object).into(), object["revision"].clone(), age],
        "cronjobs" => cron_job(object, age, now),
        _ => claim(object, age),
    });
    cells
}

fn stateful_set(object: &Value, age: Value) -> Vec<Value> {
    let ready = format!("{}/{}", count(&object["status"]["readyReplicas"]), count(&object["spec"]["replicas"]));
    let [names, images, _] = of_template(object);
    vec![ready.into(), age, names, images]
}

fn daemon_set(object: &Value, age: Value) -> Vec<Value> {
    let status = &object["status"];
    let counters = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"];
    let mut cells: Vec<Value> = counters.iter().map(|counter| count(&status[*counter]).into()).collect();
    let selector = object["spec"]["template"]["spec"]["nodeSelector"].as_object();
    let pairs = selector.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    cells.extend([or_none(joined(pairs)).into(), age]);
    cells.extend(of_template(object));
    cells
}

fn controller(object: &Value) -> String {
    let owner = list(&object["metadata"]["ownerReferences"]).iter().find(|owner| owner["controller"] == true);
    let Some(owner) = owner else { return NONE.into() };
    let group = owner["apiVersion"].as_str().and_then(|version| version.split_once('/')).map(|(group, _)| format!(".{group}"));
    format!("{}{}/{}", text(&owner["kind"]).to_lowercase(), group.unwrap_or_default(), text(&owner["name"]))
}

fn cron_job(object: &Value, age: Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let suspend = match spec["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let last = &status["lastScheduleTime"];
    let last = if last.is_null() { NONE.into() } else { since(last, now) };
    let job = &spec["jobTemplate"];
    let containers = list(&job["spec"]["template"]["spec"]["containers"]);
    let selector = Labels::from_object(&job["spec"]["selector"]).map(|selector| selector.to_string()).unwrap_or_default();
    vec![
        spec["schedule"].clone(),
        or_none(text(&spec["timeZone"])).into(),
        suspend.into(),
        list(&status["active"]).len().into(),
        last.into(),
        age,
        joined(containers.iter().map(|container| text(&container["name"]))).into(),
        joined(containers.iter().map(|container| text(&container["image"]))).into(),
        or_none(selector).into(),
    ]
}

fn claim(object: &Value, age: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let ending = !object["metadata"]["deletionTimestamp"].is_null();
    let phase = match status["phase"].as_str() {
        _ if ending => "Terminating",
        Some(phase) => phase,
        None => UNKNOWN,
    };
    let bound = spec["volumeName"].as_str().is_some_and(|volume| !volume.is_empty());
    let modes = list(&status["accessModes"]).iter().filter(|_| bound).map(|mode| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO".to_owned(),
        Some("ReadOnlyMany") => "ROX".to_owned(),
        Some("ReadWriteMany") => "RWX".to_owned(),
        Some("ReadWriteOncePod") => "RWOP".to_owned(),
        _ => text(mode),
    });
    let capacity = if bound { text(&status["capacity"]["storage"]) } else { String::new() };
    let or_unset = |value: &Value| value.as_str().unwrap_or(UNSET).to_owned();
    vec![
        phase.into(),
        text(&spec["volumeName"]).into(),
        capacity.into(),
        joined(modes).into(),
        text(&spec["storageClassName"]).into(),
        or_unset(&spec["volumeAttributesClassName"]).into(),
        age,
        or_unset(&spec["volumeMode"]).into(),
    ]
}
