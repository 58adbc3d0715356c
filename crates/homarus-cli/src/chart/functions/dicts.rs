//! Mappings. They are shared: `set`, `unset`, `merge` and `mergeOverwrite` change their first argument for all who hold it.

use super::checks::is_empty;
use super::{ANY, Answer, Args, Entry};
use crate::chart::error::Wrong;
use crate::chart::format;
use crate::chart::value::{Dict, MAX_NESTING, Value, too_deep};

pub(super) const TABLE: &[Entry] = &[
    ("dict", 0, ANY, dict),
    ("get", 2, 2, |args| Ok(args.dict(0)?.lookup(args.text(1)?).unwrap_or_else(|| Value::text("")))),
    ("set", 3, 3, set),
    ("unset", 2, 2, unset),
    ("hasKey", 2, 2, |args| Ok(Value::Bool(args.dict(0)?.has(args.text(1)?)))),
    ("keys", 0, ANY, keys),
    ("values", 1, 1, |args| Ok(Value::list(args.dict(0)?.entries().into_iter().map(|(_, value)| value).collect()))),
    ("pluck", 1, ANY, pluck),
    ("pick", 1, ANY, |args| chosen(args, true)),
    ("omit", 1, ANY, |args| chosen(args, false)),
    ("dig", 3, ANY, dig),
    ("merge", 1, ANY, |args| merge_all(args, false)),
    ("mustMerge", 1, ANY, |args| merge_all(args, false)),
    ("mergeOverwrite", 1, ANY, |args| merge_all(args, true)),
    ("mustMergeOverwrite", 1, ANY, |args| merge_all(args, true)),
    ("deepCopy", 1, 1, |args| Ok(args.any(0).deep_copy()?)),
    ("mustDeepCopy", 1, 1, |args| Ok(args.any(0).deep_copy()?)),
];

fn dict(args: &Args<'_>) -> Answer {
    let dict = Dict::default();
    for pair in args.from(0).chunks(2) {
        let key = format::plain(pair.first().unwrap_or(&Value::Nil))?;
        dict.insert(key, pair.get(1).map_or_else(|| Value::text(""), nil));
    }
    Ok(Value::Dict(dict))
}

fn set(args: &Args<'_>) -> Answer {
    args.dict(0)?.insert(args.text(1)?, nil(args.any(2)));
    Ok(args.any(0).clone())
}

/// What stays in a mapping is nil, never nothing.
fn nil(value: &Value) -> Value {
    if value.is_nil() { Value::Nil } else { value.clone() }
}

fn unset(args: &Args<'_>) -> Answer {
    args.dict(0)?.remove(args.text(1)?);
    Ok(args.any(0).clone())
}

/// In order, though Go has none.
fn keys(args: &Args<'_>) -> Answer {
    let mut keys = Vec::new();
    for place in 0..args.from(0).len() {
        keys.extend(args.dict(place)?.entries().into_iter().map(|(key, _)| Value::text(key)));
    }
    Ok(Value::list(keys))
}

fn pluck(args: &Args<'_>) -> Answer {
    let key = args.text(0)?;
    let mut found = Vec::new();
    for place in 1..=args.from(1).len() {
        found.extend(args.dict(place)?.lookup(key));
    }
    Ok(Value::list(found))
}

fn chosen(args: &Args<'_>, named: bool) -> Answer {
    let names = (1..=args.from(1).len()).map(|place| args.text(place)).collect::<Result<Vec<_>, _>>()?;
    let entries = args.dict(0)?.entries().into_iter();
    Ok(Value::dict(entries.filter(|(key, _)| names.contains(&key.as_str()) == named)))
}

fn dig(args: &Args<'_>) -> Answer {
    let places = args.from(0).len();
    let (default, mut value) = (args.any(places - 2), args.last().clone());
    for place in 0..places - 2 {
        let key = args.text(place)?;
        let Value::Dict(dict) = &value else { return Err(super::expected("map[string]interface {}", &value)) };
        match dict.lookup(key) {
            Some(inner) => value = inner,
            None => return Ok(default.clone()),
        }
    }
    Ok(value)
}

fn merge_all(args: &Args<'_>, overwrite: bool) -> Answer {
    let target = args.dict(0)?;
    for place in 1..=args.from(1).len() {
        merge(target, args.dict(place)?, overwrite, MAX_NESTING)?;
    }
    Ok(args.any(0).clone())
}

/// Merges by the rules of the `mergo` library. Without `overwrite`, what is missing or empty in `into` is taken; with it, all is,
/// even what is empty. Mappings on both sides are merged, unless the one in `into` is empty.
fn merge(into: &Dict, from: &Dict, overwrite: bool, depth: usize) -> Result<(), Wrong> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    for (key, new) in from.entries() {
        let old = into.lookup(&key);
        match (&old, &new) {
            (_, new) if new.is_nil() && !overwrite => {}
            (Some(Value::Dict(old)), Value::Dict(new)) if old.len() > 0 => merge(old, new, overwrite, depth)?,
            (Some(old), _) if !overwrite && !is_empty(old) => {}
            _ => into.insert(key, new),
        }
    }
    Ok(())
}
