//! Objects as rows for people (`as=Table`), as `kubectl get` prints them.

mod columns;
mod rows;
mod workloads;

use serde_json::{Value, json};

use super::defaults::metadata::TEMPLATE_GENERATION;
use super::schema::kinds::Kind;
use columns::Column;

/// The metadata of an object as its own kind.
pub fn metadata(object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    if object["kind"] == "DaemonSet"
        && let Some(annotations) = metadata["annotations"].as_object_mut()
    {
        // Of a DaemonSet itself, not of its metadata.
        annotations.remove(TEMPLATE_GENERATION);
        if annotations.is_empty() {
            metadata.as_object_mut().map(|fields| fields.remove("annotations"));
        }
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// A table of objects; `heads` says whether the columns are described (a watch describes them once).
pub fn render(kind: &Kind, objects: &[&Value], mut list: Value, include: Option<&str>, heads: bool) -> Value {
    if list["resourceVersion"].is_null() {
        list = json!({});
    }
    let columns = columns::of(kind);
    let now = super::now();
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, &columns, object, include, now)).collect();
    let heads = if heads { Value::from_iter(columns.iter().map(Column::definition)) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list, "columnDefinitions": heads, "rows": rows})
}

fn row(kind: &Kind, columns: &[Column], object: &Value, include: Option<&str>, now: jiff::Timestamp) -> Value {
    let cells: Vec<Value> = match &kind.custom {
        Some(_) => columns.iter().map(|column| rows::custom(column, object, now)).collect(),
        None => rows::builtin(&kind.plural, object, now),
    };
    let mut row = json!({"cells": cells});
    match include {
        Some("None") => row["object"] = Value::Null,
        Some("Object") => row["object"] = object.clone(),
        _ => row["object"] = metadata(object),
    }
    if kind.plural == "jobs" || kind.plural == "pods" {
        let over = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if kind.plural == "pods" && over {
            let (reason, message) = match object["status"]["phase"].as_str() {
                Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
                _ => ("Failed", "The pod failed."),
            };
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
        }
    }
    row
}

#[cfg(test)]
mod tests;
