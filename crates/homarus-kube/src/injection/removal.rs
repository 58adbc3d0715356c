//! Taking a proxy out of a manifest again: what [`inject`](super::inject) put in goes, and nothing else.
//!
//! Also strips the annotations that ask for a proxy and configure it. Only `linkerd.io/inject: disabled` stays: it is
//! someone's decision against the mesh, which taking out a proxy must not undo.

use serde_json::{Map, Value};

use super::workload::Workload;
use super::{END_ENTITY_VOLUME, PODINFO_VOLUME, TOKEN_VOLUME, values::MountPath};
use crate::annotations::INJECT;

const CONTAINERS: [&str; 4] = ["linkerd-proxy", "linkerd-init", "linkerd-network-validator", "linkerd-debug"];

/// Removes proxy, init container, volumes, labels and annotations; tells whether there was anything.
pub fn uninject(object: &mut Value) -> bool {
    let path = Workload::new("", object).path();
    let Some(pod) = object.pointer_mut(path).and_then(Value::as_object_mut) else { return false };
    let lock = MountPath::default().name;
    let volumes = [END_ENTITY_VOLUME, PODINFO_VOLUME, TOKEN_VOLUME, &lock];
    let mut removed = false;
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        removed |= retain_keys(metadata, "annotations", |key, value| !is_ours(key) || (key == INJECT && value == "disabled"));
        removed |= retain_keys(metadata, "labels", |key, _| !is_ours(key));
    }
    if removed && pod.get("metadata").is_some_and(|metadata| metadata.as_object().is_some_and(Map::is_empty)) {
        pod.remove("metadata");
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        removed |= retain_named(spec, "containers", &CONTAINERS);
        removed |= retain_named(spec, "initContainers", &CONTAINERS);
        removed |= retain_named(spec, "volumes", &volumes);
    }
    removed
}

/// Whether a label or annotation belongs to the mesh itself, rather than to one of its extensions.
fn is_ours(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain == "linkerd.io" || (domain.starts_with("config.") && domain.ends_with("linkerd.io"))
}

/// Keeps some entries of a map, and the map only if there are any left; tells whether any went.
fn retain_keys(parent: &mut Map<String, Value>, field: &str, keep: impl Fn(&str, &Value) -> bool) -> bool {
    let Some(map) = parent.get_mut(field).and_then(Value::as_object_mut) else { return false };
    let before = map.len();
    map.retain(|key, value| keep(key, value));
    let (went, empty) = (map.len() < before, map.is_empty());
    if went && empty {
        parent.remove(field);
    }
    went
}

fn retain_named(parent: &mut Map<String, Value>, field: &str, gone: &[&str]) -> bool {
    let Some(list) = parent.get_mut(field).and_then(Value::as_array_mut) else { return false };
    let before = list.len();
    list.retain(|item| !gone.iter().any(|name| item["name"] == *name));
    let (went, empty) = (list.len() < before, list.is_empty());
    if went && empty {
        parent.remove(field);
    }
    went
}
