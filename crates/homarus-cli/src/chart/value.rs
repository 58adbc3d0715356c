//! What templates compute with: Go's values, as far as templates can tell them apart.
//!
//! Helm reads every number of YAML and JSON as a 64-bit float, makes 64-bit integers of `--set`, and literals in templates
//! are plain integers; comparisons and parameters of functions tell these three apart, so we do too. A mapping is shared, as in
//! Go: `set` changes what every holder sees.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value as Json;

/// The deepest value inside a value. A mapping can be put into itself, so whoever walks values counts.
pub(super) const MAX_NESTING: usize = 64;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing: the end of a pipeline that came to nil. Fields of it are nothing again.
    Absent,
    /// Nil, where a value was looked for: fields of it are an error.
    Nil,
    /// A boolean.
    Bool(bool),
    /// Go's `int`: literals, lengths, indices.
    Int(i64),
    /// Go's `int64`: `--set`, arithmetic.
    Long(i64),
    /// Go's `float64`: every number of YAML.
    Float(f64),
    /// A string.
    Text(Rc<str>),
    /// A list.
    List(Rc<Vec<Value>>),
    /// A mapping.
    Dict(Dict),
    /// One of Helm's own objects.
    Object(Rc<Object>),
}

/// A mapping with text keys, shared by all who hold it.
#[derive(Clone, Debug, Default)]
pub(super) struct Dict(Rc<RefCell<BTreeMap<String, Value>>>);

impl Dict {
    /// What a key has.
    pub(super) fn lookup(&self, key: &str) -> Option<Value> {
        self.0.borrow().get(key).cloned()
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.borrow().contains_key(key)
    }

    /// Sets a key.
    pub(super) fn insert(&self, key: impl Into<String>, value: Value) {
        self.0.borrow_mut().insert(key.into(), value);
    }

    /// Removes a key.
    pub(super) fn remove(&self, key: &str) {
        self.0.borrow_mut().remove(key);
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// All of it as it is now, by key.
    pub(super) fn entries(&self) -> Vec<(String, Value)> {
        self.0.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl FromIterator<(String, Value)> for Dict {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(entries: T) -> Self {
        Self(Rc::new(RefCell::new(entries.into_iter().collect())))
    }
}

/// An object of Helm's: fields with known names, and at most one kind of methods.
#[derive(Debug)]
pub(super) struct Object {
    /// What Go calls it.
    pub(super) name: &'static str,
    /// Its fields.
    pub(super) fields: BTreeMap<&'static str, Value>,
    /// What can be asked of it.
    pub(super) methods: Methods,
}

/// What can be asked of an object.
#[derive(Debug)]
pub(super) enum Methods {
    /// Nothing.
    None,
    /// `.Capabilities.APIVersions.Has`.
    ApiVersions(Vec<String>),
    /// `.Files.Get`.
    Files(BTreeMap<String, String>),
}

impl Value {
    /// A string.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(Rc::from(text.as_ref()))
    }

    /// A list.
    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    /// A mapping.
    pub(super) fn dict(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self::Dict(entries.into_iter().collect())
    }

    /// Values as they come from files and flags.
    pub(super) fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Nil,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Long(value),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::list(items.iter().map(Self::from_json).collect()),
            Json::Object(fields) => Self::dict(fields.iter().map(|(key, value)| (key.clone(), Self::from_json(value)))),
        }
    }

    /// Whether it is nil of either kind.
    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Self::Absent | Self::Nil)
    }

    /// What `if` makes of it.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Absent | Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) | Self::Long(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Dict(dict) => dict.len() > 0,
            Self::Object(_) => true,
        }
    }

    /// What `kindOf` calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Absent | Self::Nil => "invalid",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Long(_) => "int64",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "slice",
            Self::Dict(_) => "map",
            Self::Object(_) => "struct",
        }
    }

    /// What Go calls its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Absent | Self::Nil => "<nil>",
            Self::List(_) => "[]interface {}",
            Self::Dict(_) => "map[string]interface {}",
            Self::Object(object) => object.name,
            other => other.kind(),
        }
    }

    /// Whether two values are of one type and equal all the way down.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.same_within(other, MAX_NESTING)
    }

    fn same_within(&self, other: &Self, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        match (self, other) {
            (Self::Absent | Self::Nil, Self::Absent | Self::Nil) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) | (Self::Long(a), Self::Long(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same_within(b, depth)),
            (Self::Dict(a), Self::Dict(b)) => {
                let same = |((left, a), (right, b)): (&(String, Self), &(String, Self))| left == right && a.same_within(b, depth);
                a.len() == b.len() && a.entries().iter().zip(b.entries().iter()).all(same)
            }
            (Self::Object(a), Self::Object(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// A copy that shares nothing.
    pub(super) fn deep_copy(&self) -> Result<Self, String> {
        self.copy_within(MAX_NESTING)
    }

    fn copy_within(&self, depth: usize) -> Result<Self, String> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        Ok(match self {
            Self::List(items) => Self::list(items.iter().map(|item| item.copy_within(depth)).collect::<Result<_, _>>()?),
            Self::Dict(dict) => {
                let copy = |(key, value): (String, Self)| Ok((key, value.copy_within(depth)?));
                Self::dict(dict.entries().into_iter().map(copy).collect::<Result<Vec<_>, String>>()?)
            }
            other => other.clone(),
        })
    }
}

/// The error of whoever counted too far.
pub(super) fn too_deep() -> String {
    format!("a value is nested more than {MAX_NESTING} levels deep, or in itself")
}
