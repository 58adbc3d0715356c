//! Workloads that keep their pods' names, nodes or times, and what they claim. None of them may make a pod here: one of the
//! clusters has no node.

use serde_json::{Value, json};

use crate::requests::{Request, get, patch, post, table_of};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "n"}}, "spec": {"schedulerName": "nobody", "nodeSelector": {"no": "where"},
        "containers": [{"name": "a", "image": "x.invalid/a:1"}]}})
}

fn claim() -> Value {
    json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})
}

/// The object under another name, with another value at one place.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["name"] = "x".into();
    *object.pointer_mut(pointer).unwrap() = value;
    object
}

pub fn stateful_sets() -> Vec<Request> {
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "ss"}, "spec": {"replicas": 0, "serviceName": "headless",
        "selector": {"matchLabels": {"app": "n"}}, "template": template(),
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim()}]}});
    vec![
        post("create a stateful set", "apps/v1:statefulsets", set.clone()),
        get("its claims", "apps/v1:statefulsets/ss").pick("/spec/volumeClaimTemplates"),
        table_of("stateful sets as rows", "apps/v1:statefulsets"),
        get("its scale", "apps/v1:statefulsets/ss/scale").pick("/status/selector"),
        patch("scale it below nothing", "merge", "apps/v1:statefulsets/ss/scale", json!({"spec": {"replicas": -1}})).pick("/code"),
        patch("its service stays", "merge", "apps/v1:statefulsets/ss", json!({"spec": {"serviceName": "other"}})),
        patch(
            "its strategy may change",
            "merge",
            "apps/v1:statefulsets/ss",
            json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}),
        )
        .pick("/spec/updateStrategy"),
        post("a stateful set of no order", "apps/v1:statefulsets", {
            let mut odd = with(&set, "/spec/serviceName", "headless".into());
            odd["spec"]["podManagementPolicy"] = "Sometimes".into();
            odd
        })
        .pick("/details/causes/0/field"),
        post("a stateful set without containers", "apps/v1:statefulsets", with(&set, "/spec/template/spec/containers", json!([])))
            .pick("/details/causes/0/field"),
    ]
}

pub fn daemon_sets() -> Vec<Request> {
    let daemons = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ds"}, "spec": {
        "selector": {"matchLabels": {"app": "n"}}, "template": template()}});
    vec![
        post("create a daemon set", "apps/v1:daemonsets", daemons),
        get("the daemon set's strategy", "apps/v1:daemonsets/ds").pick("/spec/updateStrategy"),
        table_of("daemon sets as rows", "apps/v1:daemonsets"),
        patch(
            "its template changes",
            "merge",
            "apps/v1:daemonsets/ds",
            json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}),
        )
        .pick("/metadata/annotations"),
        patch(
            "a daemon set's selector stays",
            "merge",
            "apps/v1:daemonsets/ds",
            json!({"spec": {"selector": {"matchLabels": {"app": "o"}}}}),
        )
        .pick("/code"),
        get("a daemon set has no scale", "apps/v1:daemonsets/ds/scale").pick("/code"),
    ]
}

pub fn cron_jobs() -> Vec<Request> {
    let cron_job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cj"}, "spec": {"schedule": "@hourly", "suspend": true,
        "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x.invalid/a:1"}]}}}}}});
    let no_containers = json!({"spec": {"restartPolicy": "Always", "containers": []}});
    vec![
        post("create a cron job", "batch/v1:cronjobs", cron_job.clone()),
        table_of("cron jobs as rows", "batch/v1:cronjobs"),
        post("a cron job that is never", "batch/v1:cronjobs", with(&cron_job, "/spec/schedule", "often".into()))
            .pick("/details/causes/0/field"),
        post("a cron job with six fields", "batch/v1:cronjobs", with(&cron_job, "/spec/schedule", "* * * * * *".into()))
            .pick("/details/causes/0/field"),
        post("a cron job without a schedule", "batch/v1:cronjobs", with(&cron_job, "/spec/schedule", "".into())),
        post("a cron job of no zone", "batch/v1:cronjobs", with(&cron_job, "/spec/timeZone", "Nowhere/Land".into()))
            .pick("/details/causes/0/field"),
        post(
            "a cron job with its zone in the wrong place",
            "batch/v1:cronjobs",
            with(&cron_job, "/spec/schedule", "TZ=UTC 0 * * * *".into()),
        )
        .pick("/details/causes/0/field"),
        post(
            "a cron job whose pods never end",
            "batch/v1:cronjobs",
            with(&cron_job, "/spec/jobTemplate/spec/template", no_containers),
        )
        .pick("/code"),
    ]
}

pub fn claims_and_revisions() -> Vec<Request> {
    vec![
        post(
            "create a claim",
            "v1:persistentvolumeclaims",
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"}, "spec": claim()}),
        )
        .pick("/spec"),
        post(
            "a claim of nothing",
            "v1:persistentvolumeclaims",
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"}, "spec": {}}),
        ),
        post(
            "a revision",
            "apps/v1:controllerrevisions",
            json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r-1"}, "data": {"spec": {"a": 1}}, "revision": 7}),
        ),
        table_of("a revision as a row", "apps/v1:controllerrevisions/r-1"),
        patch("a revision's data stays", "merge", "apps/v1:controllerrevisions/r-1", json!({"data": {"spec": {"a": 2}}}))
            .pick("/code"),
        patch("a revision's number may change", "merge", "apps/v1:controllerrevisions/r-1", json!({"revision": 8}))
            .pick("/revision"),
    ]
}
