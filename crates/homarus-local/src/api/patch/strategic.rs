//! Strategic merge patches: like merge patches, but lists with a merge key are merged by it, and directives
//! (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`) say what a merge can't.

use serde_json::{Map, Value};

use crate::api::schema::{Field, List, Shape, Strategy, Struct};

/// A patch that doesn't fit its own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub String);

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Patches a value of this shape in place.
pub fn patch(shape: &Shape, target: &mut Value, patch: &Value) -> Result<(), Misfit> {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match changes.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = changes.clone();
            whole.remove(PATCH);
            *target = Value::Object(whole);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Misfit(format!("unknown patch type found: {other}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return Ok(()) };
    if let Some(kept) = changes.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|name, _| kept.iter().any(|k| k == name));
    }
    merge_fields(shape, fields, changes)
}

fn merge_fields(shape: &Shape, fields: &mut Map<String, Value>, changes: &Map<String, Value>) -> Result<(), Misfit> {
    let ty = shape.as_struct();
    for (name, change) in changes {
        if name == PATCH || name == RETAIN || name.starts_with(ORDER) {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            let gone = change.as_array().cloned().unwrap_or_default();
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if change.is_null() {
            fields.remove(name);
            continue;
        }
        let below = below(shape, ty.as_deref(), name);
        let order = changes.get(&format!("{ORDER}{name}")).and_then(Value::as_array);
        merge_field(&below, fields, name, change, order)?;
    }
    for (name, order) in changes.iter().filter_map(|(k, v)| Some((k.strip_prefix(ORDER)?, v.as_array()?))) {
        if !changes.contains_key(name)
            && let Shape::List(list) = below(shape, ty.as_deref(), name)
            && let Some(items) = fields.get_mut(name).and_then(Value::as_array_mut)
        {
            let before = items.clone();
            reorder(&list, items, order, &before);
        }
    }
    Ok(())
}

fn below(shape: &Shape, ty: Option<&Struct>, name: &str) -> Shape {
    match (shape, ty) {
        (Shape::Map { value, .. }, _) => (**value).clone(),
        (_, Some(ty)) => ty.field(name).map_or(Shape::Any, |f: &Field| f.shape.clone()),
        _ => Shape::Any,
    }
}

fn merge_field(
    shape: &Shape,
    fields: &mut Map<String, Value>,
    name: &str,
    change: &Value,
    order: Option<&Vec<Value>>,
) -> Result<(), Misfit> {
    match (shape, change) {
        (Shape::List(list), Value::Array(changes)) => {
            let items = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if !items.is_array() {
                *items = Value::Array(Vec::new());
            }
            let Some(items) = items.as_array_mut() else { return Ok(()) };
            let before = items.clone();
            merge_list(list, items, changes)?;
            let special = changes.iter().any(|c| c.get(PATCH).is_some());
            match order {
                Some(order) => reorder(list, items, order, &before),
                None if list.strategy != Strategy::Replace && !special => reorder(list, items, changes, &before),
                None => {}
            }
            Ok(())
        }
        (_, Value::Object(_)) => patch(shape, fields.entry(name).or_insert(Value::Null), change),
        _ => {
            fields.insert(name.to_owned(), change.clone());
            Ok(())
        }
    }
}

fn merge_list(list: &List, items: &mut Vec<Value>, changes: &[Value]) -> Result<(), Misfit> {
    if changes.iter().any(|c| c[PATCH] == "replace") {
        *items = changes.iter().filter(|c| c[PATCH] != "replace").cloned().collect();
        return Ok(());
    }
    match &list.strategy {
        Strategy::Replace => *items = changes.to_vec(),
        Strategy::Unite => {
            let new: Vec<_> = changes.iter().filter(|c| !items.contains(c)).cloned().collect();
            items.extend(new);
        }
        Strategy::MergeBy(key) => {
            for change in changes {
                let id = &change[key.as_str()];
                if id.is_null() {
                    return Err(Misfit(format!("map: {change} does not contain declared merge key: {key}")));
                }
                if change[PATCH] == "delete" {
                    items.retain(|item| item[key.as_str()] != *id);
                } else if let Some(item) = items.iter_mut().find(|item| item[key.as_str()] == *id) {
                    patch(&list.item, item, change)?;
                } else {
                    let mut item = Value::Null;
                    patch(&list.item, &mut item, change)?;
                    items.push(item);
                }
            }
        }
    }
    Ok(())
}

/// Sorts by the order given; what it doesn't name keeps its place before what followed it.
fn reorder(list: &List, items: &mut Vec<Value>, order: &[Value], before: &[Value]) {
    let id = |item: &Value| match &list.strategy {
        Strategy::MergeBy(key) => item[key.as_str()].clone(),
        _ => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(id).collect();
    let place = |item: &Value| before.iter().position(|b| id(b) == id(item));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) = items.drain(..).partition(|item| wanted.contains(&id(item)));
    named.sort_by_key(|item| wanted.iter().position(|w| *w == id(item)));
    rest.sort_by_key(place);
    let mut rest = rest.into_iter().peekable();
    for next in named {
        while let Some(other) = rest.next_if(|other| place(&next).is_some_and(|n| place(other) < Some(n))) {
            items.push(other);
        }
        items.push(next);
    }
    items.extend(rest);
}
