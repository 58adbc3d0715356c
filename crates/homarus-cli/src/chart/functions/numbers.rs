//! Numbers, from whatever can be taken for one. What can't is 0, as sprig has it.

use super::{ANY, Answer, Args, Entry};
use crate::chart::number;
use crate::chart::value::Value;

pub(super) const TABLE: &[Entry] = &[
    ("int", 1, 1, |args| Ok(Value::Int(long(args.any(0))))),
    ("int64", 1, 1, |args| Ok(Value::Long(long(args.any(0))))),
    ("float64", 1, 1, |args| Ok(Value::Float(float(args.any(0))))),
    ("atoi", 1, 1, |args| Ok(Value::Int(args.text(0)?.parse().unwrap_or(0)))),
    ("add", 0, ANY, |args| Ok(Value::Long(args.from(0).iter().map(long).fold(0, i64::wrapping_add)))),
    ("add1", 1, 1, |args| Ok(Value::Long(long(args.any(0)).wrapping_add(1)))),
    ("sub", 2, 2, |args| Ok(Value::Long(long(args.any(0)).wrapping_sub(long(args.any(1)))))),
    ("mul", 1, ANY, |args| Ok(Value::Long(args.from(0).iter().map(long).fold(1, i64::wrapping_mul)))),
    ("div", 2, 2, |args| divided(args, i64::wrapping_div)),
    ("mod", 2, 2, |args| divided(args, i64::wrapping_rem)),
    ("max", 1, ANY, |args| Ok(Value::Long(args.from(0).iter().map(long).max().unwrap_or(0)))),
    ("min", 1, ANY, |args| Ok(Value::Long(args.from(0).iter().map(long).min().unwrap_or(0)))),
    ("ceil", 1, 1, |args| Ok(Value::Float(float(args.any(0)).ceil()))),
    ("floor", 1, 1, |args| Ok(Value::Float(float(args.any(0)).floor()))),
];

fn divided(args: &Args<'_>, how: fn(i64, i64) -> i64) -> Answer {
    match long(args.any(1)) {
        0 => Err("integer divide by zero".into()),
        divisor => Ok(Value::Long(how(long(args.any(0)), divisor))),
    }
}

fn long(value: &Value) -> i64 {
    match value {
        Value::Bool(value) => i64::from(*value),
        Value::Int(value) | Value::Long(value) => *value,
        Value::Float(value) => *value as i64,
        Value::Text(text) => number::integer(whole(text)).unwrap_or(0),
        _ => 0,
    }
}

/// "3.00" is taken for "3".
fn whole(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|digit| digit == b'0') => whole,
        _ => text,
    }
}

fn float(value: &Value) -> f64 {
    match value {
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Int(value) | Value::Long(value) => *value as f64,
        Value::Float(value) => *value,
        Value::Text(text) => text.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}
