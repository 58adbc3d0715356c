//! The four kinds of patch: JSON (RFC 6902), merge (RFC 7386), strategic merge and apply. All pure: old object and patch
//! in, new object out.

pub mod apply;
pub mod fields;
pub mod strategic;

use serde_json::Value;

use super::refusal::{Answer, Cause, Refusal};
use super::schema::kinds::Kind;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A list of operations.
    Json,
    /// A partial object.
    Merge,
    /// A partial object with rules for lists.
    Strategic,
    /// The fields a manager wants.
    Apply,
}

/// A JSON patch with more operations is refused, as by a real API server.
const MAX_OPERATIONS: usize = 10_000;
/// What the copies of one JSON patch may add up to, as with a real API server.
const MAX_COPIED: usize = 3 << 20;

impl Format {
    /// By content type.
    pub fn of(content_type: &str) -> Answer<Format> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Format::Json),
            "application/merge-patch+json" => Ok(Format::Merge),
            "application/strategic-merge-patch+json" => Ok(Format::Strategic),
            "application/apply-patch+yaml" => Ok(Format::Apply),
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                Err(Refusal::new(415, "UnsupportedMediaType", message))
            }
        }
    }
}

/// The object after a JSON, merge or strategic patch.
pub fn patched(format: Format, kind: &Kind, old: &Value, patch: &Value) -> Answer<Value> {
    let mut new = old.clone();
    match format {
        Format::Json => json(&mut new, patch, kind)?,
        Format::Merge => merge(&mut new, patch),
        Format::Strategic if kind.custom.is_some() => {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
        Format::Strategic => strategic::patch(&kind.shape, &mut new, patch).map_err(|e| Refusal::new(500, "", e.0))?,
        Format::Apply => return Err(Refusal::internal("apply patches take another path")),
    }
    if !new.is_object() {
        return Err(Refusal::bad_request("the patch leaves no object"));
    }
    Ok(new)
}

fn json(object: &mut Value, patch: &Value, kind: &Kind) -> Answer<()> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Refusal::bad_request(format!("error decoding patch: {e}")))?;
    if operations.0.len() > MAX_OPERATIONS {
        let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.0.len());
        return Err(Refusal::new(413, "RequestEntityTooLarge", message));
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let rejected = |e: json_patch::PatchError| {
        let mut refusal = Refusal::invalid(kind, &name, Vec::<Cause>::new());
        refusal.message = format!("the server rejected our request due to an error in our request: {e}");
        refusal.details = Value::Null;
        refusal
    };
    let mut copied = 0;
    // From one copy to the next, each of which could double the object.
    for part in operations.0.split_inclusive(|op| matches!(op, json_patch::PatchOperation::Copy(_))) {
        let (copy, before) = match part.split_last() {
            Some((json_patch::PatchOperation::Copy(copy), before)) => (Some(copy), before),
            _ => (None, part),
        };
        json_patch::patch_unsafe(object, before).map_err(rejected)?;
        let Some(copy) = copy else { continue };
        copied += object.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
        if copied > MAX_COPIED {
            let message = format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
            );
            return Err(Refusal::new(413, "RequestEntityTooLarge", message));
        }
        json_patch::patch_unsafe(object, &part[before.len()..]).map_err(rejected)?;
    }
    Ok(())
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests;
