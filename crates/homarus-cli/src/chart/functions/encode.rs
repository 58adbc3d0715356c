//! YAML and JSON, to and from.

use super::{Answer, Args, Entry, text};
use crate::chart::value::Value;
use crate::chart::{json, yaml};

pub(super) const TABLE: &[Entry] = &[
    ("toYaml", 1, 1, |args| to_yaml(args)),
    ("fromYaml", 1, 1, |args| from_yaml(args, |value| matches!(value, Value::Dict(_)))),
    ("fromYamlArray", 1, 1, |args| from_yaml(args, |value| matches!(value, Value::List(_)))),
    ("toJson", 1, 1, |args| text(json::compact(args.any(0), true)?)),
    ("toRawJson", 1, 1, |args| text(json::compact(args.any(0), false)?)),
    ("toPrettyJson", 1, 1, |args| text(json::pretty(args.any(0))?)),
    ("fromJson", 1, 1, |args| from_json(args, |value| matches!(value, Value::Dict(_)))),
    ("fromJsonArray", 1, 1, |args| from_json(args, |value| matches!(value, Value::List(_)))),
    ("semverCompare", 2, 2, |args| Ok(Value::Bool(super::satisfies(args.text(0)?, args.text(1)?)?))),
];

/// Without the line break at its end; `|+` may leave more of them. Nothing at all if a text has characters that YAML forbids:
/// Helm swallows that error.
fn to_yaml(args: &Args<'_>) -> Answer {
    let forbidden = |next| matches!(next, '\x7f'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    if json::compact(args.any(0), false)?.contains(forbidden) {
        return text("");
    }
    let printed = yaml::print(args.any(0))?;
    text(printed.strip_suffix('\n').unwrap_or(&printed))
}

/// Helm answers errors as values.
fn unreadable(what: String, list: bool) -> Value {
    match list {
        true => Value::list(vec![Value::text(what)]),
        false => Value::dict([("Error".to_owned(), Value::text(what))]),
    }
}

fn from_yaml(args: &Args<'_>, fits: fn(&Value) -> bool) -> Answer {
    let list = fits(&Value::list(Vec::new()));
    Ok(match yaml::first(args.text(0)?) {
        Ok(found) => fitting(Value::from_json(&yaml::as_helm_reads(found)), fits, list),
        Err(what) => unreadable(what, list),
    })
}

fn from_json(args: &Args<'_>, fits: fn(&Value) -> bool) -> Answer {
    let list = fits(&Value::list(Vec::new()));
    Ok(match serde_json::from_str(args.text(0)?) {
        Ok(found) => fitting(Value::from_json(&yaml::as_helm_reads(found)), fits, list),
        Err(error) => unreadable(error.to_string(), list),
    })
}

fn fitting(value: Value, fits: fn(&Value) -> bool, list: bool) -> Value {
    match value {
        value if fits(&value) => value,
        value if value.is_nil() && list => Value::list(Vec::new()),
        value if value.is_nil() => Value::dict([]),
        value => unreadable(format!("a {} where something else is wanted", value.kind()), list),
    }
}
