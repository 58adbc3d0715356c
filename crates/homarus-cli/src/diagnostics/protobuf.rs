//! Messages of the policy controller as JSON, with the names that Go gives them: scripts query them with `jq`.
//!
//! Fields are in snake_case; each oneof is a field with a capital, holding an object keyed by the chosen variant. What has
//! its zero value is left out. Messages are read from the wire by a table of their fields ([`messages`]), as the
//! generated types can't name theirs.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

const MESSAGES: &str = include_str!("messages.txt");
/// How deep messages may nest: filters in rules in routes in protocols are at eight.
const MAX_DEPTH: usize = 64;

struct Field {
    name: &'static str,
    kind: &'static str,
    list: bool,
    oneof: Option<&'static str>,
}

type Message = HashMap<u64, Field>;

/// The table, read once.
fn messages() -> &'static HashMap<&'static str, Message> {
    static TABLE: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
        let mut table: HashMap<&'static str, Message> = HashMap::new();
        let mut current = "";
        for line in MESSAGES.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                [message] => {
                    current = message;
                    table.entry(message).or_default();
                }
                [number, name, kind, oneof] => {
                    let (kind, list) = kind.strip_prefix('*').map_or((kind, false), |kind| (kind, true));
                    let field = Field { name, kind, list, oneof: (oneof != "-").then_some(oneof) };
                    table.entry(current).or_default().extend(number.parse().ok().map(|number: u64| (number, field)));
                }
                _ => {}
            }
        }
        table
    });
    &TABLE
}

/// Bytes that are no such message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the controller's answer is no {0}")]
pub(super) struct Unreadable(String);

/// A message as JSON.
pub(super) fn to_json(message: &str, bytes: &[u8]) -> Result<Value, Unreadable> {
    read(message, bytes, 0).ok_or_else(|| Unreadable(message.to_owned()))
}

fn read(message: &str, mut bytes: &[u8], depth: usize) -> Option<Value> {
    let fields = messages().get(message).filter(|_| depth < MAX_DEPTH)?;
    let mut object = Map::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let wire = Wire::read(key & 7, &mut bytes)?;
        // Fields that are newer than we are.
        let Some(field) = fields.get(&(key >> 3)) else { continue };
        insert(&mut object, field, wire, depth)?;
    }
    Some(Value::Object(object))
}

fn insert(object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Option<()> {
    if field.kind == "map" {
        let entry = map_entry(wire.bytes()?)?;
        object.entry(field.name).or_insert_with(|| json!({})).as_object_mut()?.insert(entry.0, entry.1.into());
        return Some(());
    }
    if field.list
        && is_number(field.kind)
        && let Wire::Bytes(mut packed) = wire
    {
        let list = object.entry(field.name).or_insert_with(|| json!([])).as_array_mut()?;
        while !packed.is_empty() {
            list.push(number(field.kind, varint(&mut packed)?));
        }
        return Some(());
    }
    let value = match (field.kind, wire) {
        ("string", wire) => String::from_utf8_lossy(wire.bytes()?).into_owned().into(),
        ("bytes", wire) => base64(wire.bytes()?).into(),
        (kind, Wire::Number(value)) => number(kind, value),
        (kind, Wire::Bytes(bytes)) => read(kind, bytes, depth + 1)?,
    };
    match field.oneof {
        Some(oneof) => {
            object.insert(camel(oneof), json!({ camel(field.name): value }));
        }
        None if field.list => object.entry(field.name).or_insert_with(|| json!([])).as_array_mut()?.push(value),
        None if !is_zero(&value) => {
            object.insert(field.name.to_owned(), value);
        }
        None => {}
    }
    Some(())
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn read(kind: u64, bytes: &mut &'a [u8]) -> Option<Self> {
        match kind {
            0 => varint(bytes).map(Self::Number),
            1 => Some(Self::Number(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))),
            2 => {
                let length = usize::try_from(varint(bytes)?).ok()?;
                take(bytes, length).map(Self::Bytes)
            }
            5 => Some(Self::Number(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?).into())),
            _ => None,
        }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn map_entry(mut bytes: &[u8]) -> Option<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let text = String::from_utf8_lossy(Wire::read(tag & 7, &mut bytes)?.bytes()?).into_owned();
        match tag >> 3 {
            1 => key = text,
            _ => value = text,
        }
    }
    Some((key, value))
}

fn is_number(kind: &str) -> bool {
    matches!(kind, "int32" | "int64" | "uint32" | "uint64" | "bool" | "enum" | "sint32" | "sint64")
}

fn number(kind: &str, value: u64) -> Value {
    match kind {
        "bool" => (value != 0).into(),
        // Negative ones are written as if they were very large.
        "int32" | "int64" | "enum" => value.cast_signed().into(),
        "float" => u32::try_from(value).map(f32::from_bits).map(shortest).unwrap_or_default(),
        "double" => f64::from_bits(value).into(),
        _ => value.into(),
    }
}

/// The number with the fewest digits that is this one, as everybody writes it: 0.2, not 0.20000000298023224.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().unwrap_or_default().into()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// `peak_ewma` as Go writes it: `PeakEwma`.
fn camel(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_wire::api::{inbound, meta, outbound};
    use prost::Message as _;

    #[test]
    fn servers_as_go_writes_them() {
        use inbound::proxy_protocol::{Detect, Kind};
        let timeout = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        let server = inbound::Server {
            protocol: Some(inbound::ProxyProtocol { kind: Some(Kind::Detect(Detect { timeout, ..Default::default() })) }),
            labels: [("kind".to_owned(), "default".to_owned())].into(),
            authorizations: vec![inbound::Authz {
                metadata: Some(meta::Metadata { kind: Some(meta::metadata::Kind::Default("all-unauthenticated".into())) }),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            to_json("inbound.Server", &server.encode_to_vec()).unwrap(),
            json!({
                "protocol": { "Kind": { "Detect": { "timeout": { "seconds": 10 } } } },
                "labels": { "kind": "default" },
                "authorizations": [{ "metadata": { "Kind": { "Default": "all-unauthenticated" } } }],
            })
        );
    }

    #[test]
    fn a_ratio_is_the_number_that_was_meant() {
        assert_eq!(number("float", u64::from(0.2_f32.to_bits())), json!(0.2));
        assert_eq!(number("float", u64::from(1.5_f32.to_bits())), json!(1.5));
    }

    #[test]
    fn queries_of_scripts_find_their_way() {
        use outbound::proxy_protocol::{Detect, Http1, Kind};
        let http1 = Http1 { failure_accrual: Some(outbound::FailureAccrual::default()), ..Default::default() };
        let policy = outbound::OutboundPolicy {
            protocol: Some(outbound::ProxyProtocol {
                kind: Some(Kind::Detect(Detect { http1: Some(http1), ..Default::default() })),
            }),
            ..Default::default()
        };
        let json = to_json("outbound.OutboundPolicy", &policy.encode_to_vec()).unwrap();
        assert_eq!(json.pointer("/protocol/Kind/Detect/http1/failure_accrual"), Some(&json!({})));
    }

    #[test]
    fn the_table_names_only_what_it_has_and_nonsense_is_refused() {
        for (name, message) in messages() {
            for field in message.values() {
                let known = is_number(field.kind)
                    || ["string", "bytes", "map", "float", "double", "fixed32", "fixed64"].contains(&field.kind)
                    || messages().contains_key(field.kind);
                assert!(known, "{name}.{} is a {}", field.name, field.kind);
            }
        }
        for bad in [&[0x0a, 0xff][..], &[0x07], &[0x80]] {
            assert!(to_json("inbound.Server", bad).is_err());
        }
        assert!(to_json("no.Such", &[]).is_err());
        assert_eq!(["f", "fo", "foo"].map(|text| base64(text.as_bytes())), ["Zg==", "Zm8=", "Zm9v"]);
    }
}
