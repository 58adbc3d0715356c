//! Lists, and what else has a length.

use super::checks::is_empty;
use super::{ANY, Answer, Args, Entry, bounded_count};
use crate::chart::error::Wrong;
use crate::chart::value::Value;

pub(super) const TABLE: &[Entry] = &[
    ("list", 0, ANY, |args| Ok(Value::list(args.from(0).iter().map(nil).collect()))),
    ("tuple", 0, ANY, |args| Ok(Value::list(args.from(0).iter().map(nil).collect()))),
    ("first", 1, 1, |args| Ok(args.list(0)?.first().cloned().unwrap_or(Value::Nil))),
    ("last", 1, 1, |args| Ok(args.list(0)?.last().cloned().unwrap_or(Value::Nil))),
    ("rest", 1, 1, |args| Ok(args.list(0)?.split_first().map_or(Value::Nil, |(_, rest)| Value::list(rest.to_vec())))),
    ("initial", 1, 1, |args| Ok(args.list(0)?.split_last().map_or(Value::Nil, |(_, rest)| Value::list(rest.to_vec())))),
    ("append", 2, 2, |args| joined(&[args.list(0)?, &[nil(args.any(1))]])),
    ("push", 2, 2, |args| joined(&[args.list(0)?, &[nil(args.any(1))]])),
    ("prepend", 2, 2, |args| joined(&[&[nil(args.any(1))], args.list(0)?])),
    ("concat", 0, ANY, concat),
    ("reverse", 1, 1, |args| Ok(Value::list(args.list(0)?.iter().rev().cloned().collect()))),
    ("compact", 1, 1, |args| Ok(Value::list(args.list(0)?.iter().filter(|item| !is_empty(item)).cloned().collect()))),
    ("uniq", 1, 1, |args| Ok(Value::list(unique(args.list(0)?)))),
    ("without", 1, ANY, |args| Ok(Value::list(args.list(0)?.iter().filter(|item| !holds(args.from(1), item)).cloned().collect()))),
    ("has", 2, 2, has),
    ("len", 1, 1, len),
    ("index", 1, ANY, index),
    ("until", 1, 1, |args| steps(0, args.int(0)?, if args.int(0)? < 0 { -1 } else { 1 })),
    ("untilStep", 3, 3, |args| steps(args.int(0)?, args.int(1)?, args.int(2)?)),
];

fn nil(value: &Value) -> Value {
    if value.is_nil() { Value::Nil } else { value.clone() }
}

/// Lists one after the other; what comes of it is bounded like any list that templates make.
fn joined(lists: &[&[Value]]) -> Answer {
    bounded_count(lists.iter().map(|list| list.len() as i64).sum())?;
    Ok(Value::list(lists.concat()))
}

fn concat(args: &Args<'_>) -> Answer {
    let lists = (0..args.from(0).len()).map(|place| args.list(place)).collect::<Result<Vec<_>, _>>()?;
    joined(&lists)
}

fn holds(items: &[Value], wanted: &Value) -> bool {
    items.iter().any(|item| item.same(wanted))
}

fn unique(items: &[Value]) -> Vec<Value> {
    let mut unique: Vec<Value> = Vec::new();
    for item in items {
        if !holds(&unique, item) {
            unique.push(item.clone());
        }
    }
    unique
}

fn has(args: &Args<'_>) -> Answer {
    match args.any(1) {
        haystack if haystack.is_nil() => Ok(Value::Bool(false)),
        _ => Ok(Value::Bool(holds(args.list(1)?, args.any(0)))),
    }
}

fn len(args: &Args<'_>) -> Answer {
    let length = match args.any(0) {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Dict(dict) => dict.len(),
        other if other.is_nil() => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name()).into()),
    };
    Ok(Value::Int(length as i64))
}

fn index(args: &Args<'_>) -> Answer {
    let first = args.any(0);
    if first.is_nil() {
        return Err("index of untyped nil".into());
    }
    args.from(1).iter().try_fold(first.clone(), |value, key| item(&value, key))
}

fn item(of: &Value, key: &Value) -> Answer {
    match (of, key) {
        (Value::Dict(dict), Value::Text(key)) => Ok(dict.lookup(key).unwrap_or(Value::Nil)),
        (Value::Dict(_), key) => Err(super::expected("string", key)),
        (Value::List(items), Value::Int(at) | Value::Long(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or_else(|| format!("index out of range: {at}").into())
        }
        (Value::List(_), key) => Err(format!("cannot index slice/array with {}", key.type_name()).into()),
        (of, _) if of.is_nil() => Err("index of nil pointer".into()),
        (of, _) => Err(format!("can't index item of type {}", of.type_name()).into()),
    }
}

fn steps(start: i64, stop: i64, step: i64) -> Answer {
    let forward = start < stop;
    if step == 0 || forward == (step < 0) || start == stop {
        return Ok(Value::list(Vec::new()));
    }
    let distance = stop.checked_sub(start).and_then(i64::checked_abs).ok_or("a range beyond all numbers")?;
    let size = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX);
    let many = bounded_count(distance.saturating_add(size - 1) / size)?;
    let items: Option<Vec<Value>> = (0..many).map(|nth| nth.checked_mul(step)?.checked_add(start).map(Value::Int)).collect();
    items.map(Value::list).ok_or_else(|| Wrong::from("a range beyond all numbers"))
}
