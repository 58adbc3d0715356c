//! Server-side apply: a manager says which fields it wants; others' fields stay, its own former ones go.

use serde_json::{Value, json};

use super::fields::{self, Path, Set, Step, Writer, key_of};
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::Kind;
use crate::api::schema::{Shape, Topology};

/// The fields an apply patch names.
pub fn owned(kind: &Kind, subresource: &str, applied: &Value) -> Set {
    fields::owned(kind, subresource, applied, false)
}

/// The object after an apply; 409 when another manager owns a field with another value and `force` isn't given.
pub fn apply(kind: &Kind, old: &Value, applied: &Value, set: &Set, writer: &Writer, force: bool) -> Answer<Value> {
    let wanted = fields::ownable(kind, &writer.subresource, applied);
    let mut all = fields::entries(old);
    let clashes = clashes(kind, old, &wanted, set, writer, &all);
    if !clashes.is_empty() && !force {
        return Err(conflict(clashes));
    }
    let mut new = merged(kind, old, &wanted);
    let former = all.iter().find(|e| e.manager == writer.manager && e.operation == "Apply" && e.subresource == writer.subresource);
    for path in former.map(|e| e.set.difference(set).cloned().collect::<Vec<_>>()).unwrap_or_default() {
        let others = all.iter().any(|e| !mine(e, writer) && e.set.iter().any(|p| p.starts_with(&path)));
        // An element that is still named by its key, or a container of something named, stays.
        if !others && !set.iter().any(|p| p.starts_with(&path)) {
            remove(&kind.shape, &mut new, &path);
        }
    }
    for entry in all.iter_mut().filter(|e| !mine(e, writer)) {
        entry.set.retain(|path| !clashes.iter().any(|(_, clash)| clash == path));
    }
    fields::set_entries(&mut new, all);
    Ok(new)
}

fn mine(entry: &fields::Entry, writer: &Writer) -> bool {
    entry.manager == writer.manager && entry.operation == writer.operation && entry.subresource == writer.subresource
}

/// Managers and the fields of theirs that this apply would change.
fn clashes(
    kind: &Kind,
    old: &Value,
    wanted: &Value,
    set: &Set,
    writer: &Writer,
    all: &[fields::Entry],
) -> Vec<(fields::Entry, Path)> {
    let mut found = Vec::new();
    for path in set.iter().filter(|p| !matches!(p.last(), Some(Step::Key(_)))) {
        if fields::at(&kind.shape, old, path) == fields::at(&kind.shape, wanted, path) {
            continue;
        }
        for entry in all.iter().filter(|e| !mine(e, writer) && e.set.contains(path)) {
            found.push((entry.clone(), path.clone()));
        }
    }
    found
}

/// A path as people read it: `.spec.containers[name="a"].image`.
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => text.push_str(&format!(".{name}")),
            Step::Value(value) => text.push_str(&format!("[={value}]")),
            Step::Key(keys) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let pairs = keys.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={v}"));
                text.push_str(&format!("[{}]", pairs.collect::<Vec<_>>().join(",")));
            }
        }
    }
    text
}

fn conflict(clashes: Vec<(fields::Entry, Path)>) -> Refusal {
    let mut with: Vec<(String, Vec<String>)> = Vec::new();
    let mut causes = Vec::new();
    for (entry, path) in &clashes {
        let who = match entry.operation.as_str() {
            "Apply" => format!("conflict with \"{}\"", entry.manager),
            _ if entry.subresource.is_empty() => {
                format!("conflict with \"{}\" using {}", entry.manager, entry.api_version)
            }
            _ => format!(
                "conflict with \"{}\" with subresource \"{}\" using {}",
                entry.manager, entry.subresource, entry.api_version
            ),
        };
        causes.push(json!({"reason": "FieldManagerConflict", "message": who, "field": shown(path)}));
        match with.iter_mut().find(|(other, _)| *other == who) {
            Some((_, paths)) => paths.push(shown(path)),
            None => with.push((who, vec![shown(path)])),
        }
    }
    let said: Vec<String> = with
        .iter()
        .map(|(who, paths)| match paths.as_slice() {
            [one] => format!("{who}: {one}"),
            many => format!("{}:\n- {}", who.replacen("conflict", "conflicts", 1), many.join("\n- ")),
        })
        .collect();
    let count = clashes.len();
    let message = match count {
        1 => format!("Apply failed with 1 conflict: {}", said.join("\n")),
        _ => format!("Apply failed with {count} conflicts: {}", said.join("\n")),
    };
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = json!({"causes": causes});
    refusal
}

/// Old with everything that is wanted put in.
pub fn merged(kind: &Kind, old: &Value, wanted: &Value) -> Value {
    let mut new = old.clone();
    merge(&kind.shape, false, &mut new, wanted);
    new
}

fn merge(shape: &Shape, atomic: bool, target: &mut Value, wanted: &Value) {
    let ty = shape.as_struct();
    if atomic || ty.as_ref().is_some_and(|t| t.atomic) || matches!(shape, Shape::Map { atomic: true, .. }) {
        *target = wanted.clone();
        return;
    }
    match (shape, wanted) {
        (Shape::List(list), Value::Array(items)) => match &list.topology {
            Topology::Atomic => *target = wanted.clone(),
            Topology::Set => {
                let have = as_list(target);
                let new: Vec<_> = items.iter().filter(|i| !have.contains(i)).cloned().collect();
                have.extend(new);
            }
            Topology::Map(keys) => {
                let have = as_list(target);
                for item in items {
                    let id = key_of(list, keys, item);
                    match have.iter_mut().find(|h| key_of(list, keys, h) == id) {
                        Some(same) => merge(&list.item, false, same, item),
                        None => have.push(item.clone()),
                    }
                }
            }
        },
        (_, Value::Object(fields)) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                let field = ty.as_ref().and_then(|t| t.field(name));
                let (below, atomic) = match (field, shape) {
                    (Some(field), _) => (field.shape.clone(), field.atomic),
                    (None, Shape::Map { value, .. }) => ((**value).clone(), false),
                    _ => (Shape::Any, false),
                };
                merge(&below, atomic, &mut target[name.as_str()], value);
            }
        }
        _ => *target = wanted.clone(),
    }
}

fn as_list(target: &mut Value) -> &mut Vec<Value> {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    match target {
        Value::Array(items) => items,
        _ => unreachable!("just made a list"),
    }
}

/// Removes what is at a path, and containers that this leaves empty.
fn remove(shape: &Shape, value: &mut Value, path: &[Step]) {
    let Some((first, rest)) = path.split_first() else { return };
    match first {
        Step::Field(name) => {
            let below = fields::field_shape(shape, name);
            let Some(fields) = value.as_object_mut() else { return };
            if rest.is_empty() {
                fields.remove(name);
            } else if let Some(inner) = fields.get_mut(name) {
                remove(&below, inner, rest);
                let hollow = match inner {
                    Value::Object(left) => left.is_empty() && !matches!(below, Shape::Named(_) | Shape::Struct(_)),
                    Value::Array(left) => left.is_empty(),
                    _ => false,
                };
                if hollow {
                    fields.remove(name);
                }
            }
        }
        Step::Key(_) => {
            let Shape::List(list) = shape else { return };
            let Topology::Map(keys) = &list.topology else { return };
            let Some(items) = value.as_array_mut() else { return };
            let Some(index) = items.iter().position(|item| key_of(list, keys, item) == *first) else { return };
            if rest.is_empty() {
                items.remove(index);
            } else {
                remove(&list.item, &mut items[index], rest);
            }
        }
        Step::Value(text) => {
            if let Some(items) = value.as_array_mut() {
                let gone: Value = serde_json::from_str(text).unwrap_or_default();
                items.retain(|item| *item != gone);
            }
        }
    }
}
