//! The functions of templates: Go's own, sprig's and Helm's, as far as our charts use them or soon may.
//!
//! A function sees nil as nil, whether it was looked up or came out of a pipeline. Types of parameters are Go's: a text is no
//! number, and the `int64` of `--set` is no `int`. What isn't here is an error when a chart is read.

mod checks;
mod dicts;
mod encode;
mod lists;
mod numbers;
mod semver;
mod snake;
mod strings;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::error::Wrong;
use super::value::{Dict, Value};

pub(super) use semver::satisfies;

/// The longest list or text that a function makes out of a number.
const MAX_COUNT: i64 = 1 << 20;

type Answer = Result<Value, Wrong>;
type Function = fn(&Args<'_>) -> Answer;

/// A name, the least and the most arguments, and what does it.
type Entry = (&'static str, usize, usize, Function);

/// As many arguments as one likes.
const ANY: usize = usize::MAX;

/// What the evaluator does itself, because it needs templates or must not compute all arguments.
const SPECIAL: [&str; 4] = ["and", "or", "include", "tpl"];

static TABLE: LazyLock<HashMap<&'static str, Entry>> = LazyLock::new(|| {
    let tables = [checks::TABLE, dicts::TABLE, encode::TABLE, lists::TABLE, numbers::TABLE, strings::TABLE];
    tables.into_iter().flatten().map(|entry| (entry.0, *entry)).collect()
});

/// Whether templates may name this function.
pub(super) fn is_known(name: &str) -> bool {
    SPECIAL.contains(&name) || TABLE.contains_key(name)
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Answer {
    let (name, least, most, function) = TABLE.get(name).ok_or_else(|| format!("function {name:?} not defined"))?;
    let count = arguments.len();
    if count < *least || count > *most {
        let want = if least == most { least.to_string() } else { format!("at least {least}") };
        return Err(format!("wrong number of args for {name}: want {want} got {count}").into());
    }
    function(&Args { name, values: arguments }).map_err(|wrong| match wrong {
        Wrong::Because(what) => Wrong::Because(format!("{name}: {what}")),
        other => other,
    })
}

/// A number of things to make, if it is sane.
pub(super) fn bounded_count(count: i64) -> Result<i64, Wrong> {
    if count > MAX_COUNT { Err(format!("{count} is more than the {MAX_COUNT} that are allowed").into()) } else { Ok(count.max(0)) }
}

/// The arguments of a call, by place and type. Places that the table promises are there.
struct Args<'a> {
    name: &'static str,
    values: &'a [Value],
}

impl<'a> Args<'a> {
    fn any(&self, place: usize) -> &'a Value {
        self.values.get(place).unwrap_or(&Value::Nil)
    }

    fn from(&self, place: usize) -> &'a [Value] {
        self.values.get(place..).unwrap_or_default()
    }

    fn last(&self) -> &'a Value {
        self.values.last().unwrap_or(&Value::Nil)
    }

    fn text(&self, place: usize) -> Result<&'a str, Wrong> {
        match self.any(place) {
            Value::Text(text) => Ok(text),
            other => Err(expected("string", other)),
        }
    }

    fn bool(&self, place: usize) -> Result<bool, Wrong> {
        match self.any(place) {
            Value::Bool(value) => Ok(*value),
            other => Err(expected("bool", other)),
        }
    }

    fn int(&self, place: usize) -> Result<i64, Wrong> {
        match self.any(place) {
            Value::Int(value) => Ok(*value),
            other => Err(expected("int", other)),
        }
    }

    /// A number of things to make.
    fn count(&self, place: usize) -> Result<usize, Wrong> {
        let count = self.int(place)?;
        if count < 0 {
            return Err(format!("a count of {count}").into());
        }
        Ok(usize::try_from(bounded_count(count)?).unwrap_or_default())
    }

    fn dict(&self, place: usize) -> Result<&'a Dict, Wrong> {
        match self.any(place) {
            Value::Dict(dict) => Ok(dict),
            other => Err(expected("map[string]interface {}", other)),
        }
    }

    fn list(&self, place: usize) -> Result<&'a [Value], Wrong> {
        match self.any(place) {
            Value::List(items) => Ok(items),
            other => Err(format!("cannot {} on type {}", self.name, other.kind()).into()),
        }
    }
}

fn expected(wanted: &str, found: &Value) -> Wrong {
    Wrong::Because(match found {
        Value::Absent | Value::Nil => format!("invalid value; expected {wanted}"),
        found => format!("wrong type for value; expected {wanted}; got {}", found.type_name()),
    })
}

fn text(text: impl AsRef<str>) -> Answer {
    Ok(Value::text(text))
}
