//! The `scale` subresource: how many replicas, as one small object for every kind that has them.

use http::Response;
use serde_json::{Value, json};

use super::respond::{self, Body};
use super::target::Verb;
use super::{Call, write};
use crate::api::defaults::represent::represent;
use crate::api::patch::{self, Format};
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::{Kind, Scale};
use crate::api::store::selector::Labels;

/// GET, PUT, PATCH of a scale.
pub async fn answer(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let paths = target.kind.scale.clone().ok_or_else(Refusal::no_such_path)?;
    let found = call.core.store.find(&target.kind.bucket, &target.stored_name());
    let found = found.ok_or_else(|| Refusal::not_found(&target.kind, &target.name))?;
    let object = represent(&target.kind, &found.value);
    let scale = scale_of(&target.kind, &paths, &object);
    let wanted = match target.verb {
        Verb::Get => return Ok(respond::json(200, &scale)),
        Verb::Update => parse(&call.body)?,
        Verb::Patch => patched(&call, scale)?,
        _ => return Err(Refusal::method_not_allowed()),
    };
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let message = format!(
            "Scale.autoscaling \"{}\" is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
            target.name
        );
        return Err(Refusal::new(422, "Invalid", message));
    }
    let mut change = json!({});
    let path: Vec<&str> = paths.spec.trim_start_matches('.').split('.').collect();
    *path.iter().fold(&mut change, |at, step| &mut at[*step]) = replicas.into();
    if let Some(version) = wanted["metadata"]["resourceVersion"].as_str() {
        change["metadata"]["resourceVersion"] = version.into();
    }
    let kind = target.kind.clone();
    let object = write::merge_into(call, change).await?;
    Ok(respond::json(200, &scale_of(&kind, &paths, &object)))
}

fn parse(body: &[u8]) -> Answer<Value> {
    serde_json::from_slice(body).map_err(|e| Refusal::bad_request(e.to_string()))
}

fn patched(call: &Call, mut scale: Value) -> Answer<Value> {
    let content_type = call.head.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let format = Format::of(content_type.unwrap_or_default())?;
    let body = parse(&call.body).or_else(|refusal| serde_yaml_ng::from_slice(&call.body).map_err(|_| refusal))?;
    // A patch that names no version doesn't insist on the one it was made from.
    scale["metadata"].as_object_mut().map(|m| m.remove("resourceVersion"));
    match format {
        Format::Json => {
            let operations: json_patch::Patch = serde_json::from_value(body).map_err(|e| Refusal::bad_request(e.to_string()))?;
            json_patch::patch(&mut scale, &operations).map_err(|e| Refusal::bad_request(e.to_string()))?;
        }
        Format::Merge | Format::Strategic | Format::Apply => patch::merge(&mut scale, &body),
    }
    Ok(scale)
}

fn at<'v>(object: &'v Value, path: &str) -> &'v Value {
    path.trim_start_matches('.').split('.').fold(object, |at, step| &at[step])
}

fn scale_of(kind: &Kind, paths: &Scale, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = match &paths.selector {
        Some(path) => at(object, path).as_str().unwrap_or_default().to_owned(),
        None if kind.custom.is_none() => {
            Labels::from_object(&object["spec"]["selector"]).map(|s| s.to_string()).unwrap_or_default()
        }
        None => String::new(),
    };
    let mut status = json!({"replicas": at(object, &paths.status).as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if let Some(replicas) = at(object, &paths.spec).as_i64().filter(|n| *n != 0) {
        spec["replicas"] = replicas.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "spec": spec, "status": status,
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
    })
}
