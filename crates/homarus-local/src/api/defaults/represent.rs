//! A stored object as a version of its kind shows it, and back.
//!
//! Two versions of a custom resource differ in `apiVersion` and in their schemas; the two groups of Event differ in
//! field names.

use serde_json::{Map, Value};

use crate::api::schema::kinds::Kind;
use crate::api::validate::{decode, structural};

/// Old and new names of an Event's fields: core, events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
    ("reportingComponent", "reportingController"),
];

/// As this kind and version shows it.
pub fn represent(kind: &Kind, stored: &Value) -> Value {
    let mut object = stored.clone();
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.clone().into();
    if kind.group == "events.k8s.io" {
        rename(&mut object, false);
        let empty = |name: &str, value: &Value| name.starts_with("reporting") && *value == "";
        if let Some(fields) = object.as_object_mut() {
            fields.retain(|name, value| !empty(name, value));
        }
    }
    if let Some(custom) = &kind.custom {
        structural::default(&custom.stored_schema, &mut object);
        decode::prune(&kind.shape, &mut object);
        structural::default(&custom.schema, &mut object);
    }
    object
}

/// As it is stored.
pub fn stored(kind: &Kind, mut object: Value) -> Value {
    if kind.group == "events.k8s.io" {
        rename(&mut object, true);
        object["apiVersion"] = "v1".into();
    }
    if let Some(custom) = &kind.custom {
        object["apiVersion"] = crate::api::schema::kinds::join_version(&kind.group, &custom.stored_version).into();
    }
    object
}

fn rename(event: &mut Value, to_core: bool) {
    let Some(fields) = event.as_object_mut() else { return };
    let renamed: Map<String, Value> = std::mem::take(fields)
        .into_iter()
        .map(|(name, value)| {
            let pair = EVENT_FIELDS.iter().find(|(core, new)| if to_core { *new == name } else { *core == name });
            match pair {
                Some((core, new)) => ((if to_core { *core } else { *new }).to_owned(), value),
                None => (name, value),
            }
        })
        .collect();
    *fields = renamed;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::api::schema::kinds::Kinds;

    #[test]
    fn an_event_has_two_faces() {
        let kinds = Kinds::default();
        let new = kinds.of("events.k8s.io/v1", "Event").unwrap();
        let written = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "x"}});
        let kept = stored(&new, written.clone());
        assert_eq!(kept["message"], "n");
        assert_eq!(kept["involvedObject"]["name"], "x");
        assert_eq!(represent(&new, &kept), written);
        let core = kinds.of("v1", "Event").unwrap();
        assert_eq!(represent(&core, &kept)["message"], "n");
    }
}
