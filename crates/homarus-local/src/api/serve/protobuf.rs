//! Bodies in Kubernetes' protobuf, which kubectl's `create` commands send without asking: read by the field numbers of
//! the schema table. Answers are JSON, which every client accepts.
//!
//! The envelope is `k8s\0` and an `Unknown` message: type (1: apiVersion 1, kind 2), raw (2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::api::schema::{Field, Scalar, Shape, Struct};

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Deeper messages are refused.
const MAX_DEPTH: usize = 64;

/// A field as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Reads an enveloped object; its shape is found by `shape_of` from `apiVersion` and `kind`.
pub fn read(body: &[u8], shape_of: impl Fn(&str, &str) -> Option<Shape>) -> Option<Value> {
    let envelope = fields(body.strip_prefix(MAGIC)?)?;
    let kind = fields(bytes(&envelope, 1).unwrap_or_default())?;
    let (version, name) = (text(bytes(&kind, 1)?)?, text(bytes(&kind, 2)?)?);
    let ty = shape_of(&version, &name)?.as_struct()?;
    let mut object = record(&ty, &fields(bytes(&envelope, 2)?)?, 0)?;
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), name.into());
    Some(Value::Object(object))
}

fn bytes<'b>(fields: &[(u32, Wire<'b>)], number: u32) -> Option<&'b [u8]> {
    fields.iter().rev().find_map(|(n, wire)| match wire {
        Wire::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

fn number(fields: &[(u32, Wire<'_>)], wanted: u32) -> i64 {
    let found = fields.iter().rev().find_map(|(n, wire)| match wire {
        Wire::Number(value) if *n == wanted => Some(*value as i64),
        _ => None,
    });
    found.unwrap_or(0)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn fields(mut input: &[u8]) -> Option<Vec<(u32, Wire<'_>)>> {
    let mut all = Vec::new();
    while !input.is_empty() {
        let tag = varint(&mut input)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let fixed = |input: &mut &[u8], width: usize| {
            let (value, rest) = input.split_at_checked(width)?;
            *input = rest;
            Some(value.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut input)?),
            1 => Wire::Number(fixed(&mut input, 8)?),
            5 => Wire::Number(fixed(&mut input, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut input)?).ok()?;
                let (content, rest) = input.split_at_checked(length)?;
                input = rest;
                Wire::Bytes(content)
            }
            _ => return None,
        };
        all.push((number, wire));
    }
    Some(all)
}

fn record(ty: &Struct, all: &[(u32, Wire<'_>)], depth: usize) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    if depth > MAX_DEPTH {
        return None;
    }
    for (name, field) in &ty.fields {
        let found = at(all, &field.number)?;
        if !found.is_empty()
            && let Some(value) = value_of(field, &found, depth + 1)?
        {
            object.insert(name.clone(), value);
        }
    }
    Some(object)
}

/// The fields at a path of numbers: what JSON inlines is a message of its own here.
fn at<'b>(all: &[(u32, Wire<'b>)], path: &[u32]) -> Option<Vec<Wire<'b>>> {
    let Some((first, rest)) = path.split_first() else { return Some(Vec::new()) };
    let here: Vec<Wire<'b>> = all.iter().filter(|(n, _)| n == first).map(|(_, wire)| *wire).collect();
    if rest.is_empty() {
        return Some(here);
    }
    let mut below = Vec::new();
    for wire in here {
        if let Wire::Bytes(message) = wire {
            below.extend(at(&fields(message)?, rest)?);
        }
    }
    Some(below)
}

/// `None` is malformed, `Some(None)` isn't there.
fn value_of(field: &Field, found: &[Wire<'_>], depth: usize) -> Option<Option<Value>> {
    match &field.shape {
        Shape::List(list) => {
            let items: Option<Vec<Value>> = found.iter().map(|wire| one(&list.item, *wire, depth)).collect();
            Some(Some(items?.into()))
        }
        Shape::Map { value, .. } => {
            let mut map = Map::new();
            for wire in found {
                let Wire::Bytes(entry) = wire else { return None };
                let entry = fields(entry)?;
                let key = text(bytes(&entry, 1).unwrap_or_default())?;
                let inner = entry.iter().rev().find(|(n, _)| *n == 2).map_or(Wire::Bytes(&[]), |(_, wire)| *wire);
                map.insert(key, one(value, inner, depth)?);
            }
            Some(Some(map.into()))
        }
        shape => {
            let value = one(shape, *found.last()?, depth)?;
            // Go writes what isn't a pointer even when it is empty.
            Some((value != "").then_some(value))
        }
    }
}

fn one(shape: &Shape, wire: Wire<'_>, depth: usize) -> Option<Value> {
    match (shape, wire) {
        (Shape::Scalar(Scalar::Bool), Wire::Number(n)) => Some(Value::Bool(n != 0)),
        (Shape::Scalar(Scalar::Number), Wire::Number(n)) => Some(json!(f64::from_bits(n))),
        (Shape::Scalar(_), Wire::Number(n)) => Some((n as i64).into()),
        (Shape::Scalar(scalar), Wire::Bytes(content)) => leaf(*scalar, content),
        (Shape::Any, Wire::Bytes(content)) => serde_json::from_slice(bytes(&fields(content)?, 1)?).ok(),
        (Shape::Named(_) | Shape::Struct(_), Wire::Bytes(content)) => {
            record(&*shape.as_struct()?, &fields(content)?, depth).map(Value::Object)
        }
        _ => None,
    }
}

fn leaf(scalar: Scalar, content: &[u8]) -> Option<Value> {
    Some(match scalar {
        Scalar::Bytes => BASE64.encode(content).into(),
        Scalar::Quantity => text(bytes(&fields(content)?, 1).unwrap_or_default())?.into(),
        Scalar::IntOrString => {
            let all = fields(content)?;
            match number(&all, 1) {
                0 => number(&all, 2).into(),
                _ => text(bytes(&all, 3).unwrap_or_default())?.into(),
            }
        }
        Scalar::Time | Scalar::MicroTime => {
            let all = fields(content)?;
            if all.is_empty() {
                return Some(Value::Null);
            }
            let time = jiff::Timestamp::new(number(&all, 1), i32::try_from(number(&all, 2)).ok()?).ok()?;
            let format = if scalar == Scalar::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            time.strftime(format).to_string().into()
        }
        _ => text(content)?.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let kind = [message(1, b"v1"), message(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), message(1, &kind), message(2, raw)].concat()
    }

    fn shape(_: &str, kind: &str) -> Option<Shape> {
        (kind == "ConfigMap").then_some(Shape::Named("core.v1.ConfigMap"))
    }

    #[test]
    fn a_config_map_is_read() {
        let entry = [message(1, b"k"), message(2, b"v")].concat();
        let raw = [message(1, &message(1, b"name")), message(2, &entry)].concat();
        let read = read(&envelope("ConfigMap", &raw), shape);
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "name"}, "data": {"k": "v"}});
        assert_eq!(read, Some(wanted));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(read(b"", shape), None);
        assert_eq!(read(b"k8s\0\xff\xff", shape), None);
        assert_eq!(read(&envelope("Other", b""), shape), None);
        let whole = envelope("ConfigMap", &message(1, &message(1, b"name")));
        for cut in 0..whole.len() {
            let _ = read(&whole[..cut], shape);
        }
    }
}
