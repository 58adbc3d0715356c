//! Questions and choices: comparisons, defaults, kinds, and refusals.

use std::cmp::Ordering;

use super::{ANY, Answer, Args, Entry};
use crate::chart::error::Wrong;
use crate::chart::format;
use crate::chart::value::Value;

pub(super) const TABLE: &[Entry] = &[
    ("not", 1, 1, |args| Ok(Value::Bool(!args.any(0).truth()))),
    ("eq", 1, ANY, eq),
    ("ne", 2, 2, |args| Ok(Value::Bool(!equal(args.any(0), args.any(1))?))),
    ("lt", 2, 2, |args| Ok(Value::Bool(order(args)?.is_lt()))),
    ("le", 2, 2, |args| Ok(Value::Bool(order(args)?.is_le()))),
    ("gt", 2, 2, |args| Ok(Value::Bool(order(args)?.is_gt()))),
    ("ge", 2, 2, |args| Ok(Value::Bool(order(args)?.is_ge()))),
    ("empty", 1, 1, |args| Ok(Value::Bool(is_empty(args.any(0))))),
    ("default", 1, ANY, default),
    ("coalesce", 0, ANY, |args| Ok(args.from(0).iter().find(|value| !is_empty(value)).cloned().unwrap_or(Value::Nil))),
    ("all", 0, ANY, |args| Ok(Value::Bool(!args.from(0).iter().any(is_empty)))),
    ("any", 0, ANY, |args| Ok(Value::Bool(args.from(0).iter().any(|value| !is_empty(value))))),
    ("ternary", 3, 3, |args| Ok(if args.bool(2)? { args.any(0) } else { args.any(1) }.clone())),
    ("kindOf", 1, 1, |args| super::text(args.any(0).kind())),
    ("kindIs", 2, 2, |args| Ok(Value::Bool(args.text(0)? == args.any(1).kind()))),
    ("typeOf", 1, 1, |args| super::text(args.any(0).type_name())),
    ("typeIs", 2, 2, |args| Ok(Value::Bool(args.text(0)? == args.any(1).type_name()))),
    ("deepEqual", 2, 2, |args| Ok(Value::Bool(args.any(0).same(args.any(1))))),
    ("required", 2, 2, required),
    ("fail", 1, 1, |args| Err(Wrong::Refused(args.text(0)?.to_owned()))),
    ("print", 0, ANY, |args| super::text(format::print(args.from(0))?)),
    ("println", 0, ANY, |args| super::text(format::println(args.from(0))?)),
    ("printf", 1, ANY, |args| super::text(format::printf(args.text(0)?, args.from(1))?)),
    ("lookup", 4, 4, |_| Ok(Value::dict([]))),
];

/// What sprig takes for empty: the same as what is not true, but objects never are.
pub(super) fn is_empty(value: &Value) -> bool {
    !value.truth()
}

fn default(args: &Args<'_>) -> Answer {
    let given = args.from(1).first().filter(|given| !is_empty(given));
    Ok(given.unwrap_or(args.any(0)).clone())
}

fn required(args: &Args<'_>) -> Answer {
    let says = args.text(0)?;
    match args.any(1) {
        Value::Absent | Value::Nil => Err(Wrong::Refused(says.to_owned())),
        Value::Text(text) if text.is_empty() => Err(Wrong::Refused(says.to_owned())),
        value => Ok(value.clone()),
    }
}

fn eq(args: &Args<'_>) -> Answer {
    let others = args.from(1);
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if equal(args.any(0), other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn equal(left: &Value, right: &Value) -> Result<bool, Wrong> {
    match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a) | Value::Long(a), Value::Int(b) | Value::Long(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (a, b) if a.is_nil() || b.is_nil() => Ok(a.is_nil() && b.is_nil()),
        (a, b) => Err(incompatible(a, b)),
    }
}

fn order(args: &Args<'_>) -> Result<Ordering, Wrong> {
    match (args.any(0), args.any(1)) {
        (Value::Int(a) | Value::Long(a), Value::Int(b) | Value::Long(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or_else(|| "NaN has no order".into()),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (a, b) => Err(incompatible(a, b)),
    }
}

fn incompatible(left: &Value, right: &Value) -> Wrong {
    let note = match (left, right) {
        (Value::Float(_), Value::Int(_)) | (Value::Int(_), Value::Float(_)) => " (numbers of YAML are float64: use `int`)",
        _ => "",
    };
    Wrong::Because(format!("incompatible types for comparison: {} and {}{note}", left.type_name(), right.type_name()))
}
