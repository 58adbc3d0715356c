//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{each, set, within};

/// A pod's defaults: those of its spec, and a few that templates don't have.
pub fn defaults(pod: &mut Value) {
    let spec = within(pod, "spec");
    set(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        each(spec, list).for_each(requests_from_limits);
    }
    spec_defaults(spec);
    if let Some(status) = pod.get_mut("status") {
        for condition in each(status, "conditions") {
            set(condition, "lastProbeTime", Value::Null);
            set(condition, "lastTransitionTime", Value::Null);
        }
    }
}

/// Defaults of a pod spec.
pub fn spec_defaults(spec: &mut Value) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    account_names(spec);
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(|container| container_defaults(container, host_network));
    }
    each(spec, "volumes").for_each(volume);
}

/// The old and the new field name mean one thing.
fn account_names(spec: &mut Value) {
    let (old, new) = (spec["serviceAccount"].clone(), spec["serviceAccountName"].clone());
    if new.is_string() {
        spec["serviceAccount"] = new;
    } else if old.is_string() {
        spec["serviceAccountName"] = old;
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let requests = within(&mut container["resources"], "requests");
    limits.into_iter().for_each(|(name, limit)| set(requests, &name, limit));
}

fn container_defaults(container: &mut Value, host_network: bool) {
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    let image = container["image"].as_str().unwrap_or_default();
    let pull = if floats(image) { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", pull);
    for port in each(container, "ports") {
        set(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            set(port, "hostPort", number);
        }
    }
    for variable in each(container, "env") {
        field_reference(&mut variable["valueFrom"]);
        if variable["valueFrom"].is_null() {
            variable.as_object_mut().map(|v| v.remove("valueFrom"));
        }
        if variable["value"] == "" {
            variable.as_object_mut().map(|v| v.remove("value"));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&mut container[name]);
        } else {
            container.as_object_mut().map(|c| c.remove(name));
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook].is_object() {
            handler(&mut container["lifecycle"][hook]);
        }
    }
    clear_null(container, "lifecycle");
}

fn clear_null(object: &mut Value, field: &str) {
    if object[field].is_null() {
        object.as_object_mut().map(|o| o.remove(field));
    }
}

/// Whether an image reference may mean something else tomorrow: no tag, or `latest`.
fn floats(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn field_reference(source: &mut Value) {
    if source.get("fieldRef").is_some_and(Value::is_object) {
        set(&mut source["fieldRef"], "apiVersion", "v1");
    }
    if source.get("resourceFieldRef").is_some_and(Value::is_object) {
        set(&mut source["resourceFieldRef"], "divisor", "0");
    }
}

fn probe(probe: &mut Value) {
    set(probe, "timeoutSeconds", 1);
    set(probe, "periodSeconds", 10);
    set(probe, "successThreshold", 1);
    set(probe, "failureThreshold", 3);
    handler(probe);
    if probe["grpc"].is_object() {
        set(&mut probe["grpc"], "service", "");
    } else {
        clear_null(probe, "grpc");
    }
}

fn handler(handler: &mut Value) {
    if handler.get("httpGet").is_some_and(Value::is_object) {
        set(&mut handler["httpGet"], "path", "/");
        set(&mut handler["httpGet"], "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    const MODE: u32 = 0o644;
    if volume.as_object().is_some_and(|v| v.len() == 1) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if volume.get(source).is_some_and(Value::is_object) {
            set(&mut volume[source], "defaultMode", MODE);
        }
    }
    if volume.get("hostPath").is_some_and(Value::is_object) {
        set(&mut volume["hostPath"], "type", "");
    }
    if let Some(api) = volume.get_mut("downwardAPI") {
        each(api, "items").for_each(field_reference);
    }
    for source in volume.get_mut("projected").map(|p| each(p, "sources")).into_iter().flatten() {
        if source.get("serviceAccountToken").is_some_and(Value::is_object) {
            set(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
        }
        if let Some(api) = source.get_mut("downwardAPI") {
            each(api, "items").for_each(field_reference);
        }
    }
}

/// Quality of service: by requests and limits of CPU and memory.
pub fn quality(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    let (mut any, mut all) = (false, true);
    for container in containers {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
            any |= !request.is_null() || !limit.is_null();
            all &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
