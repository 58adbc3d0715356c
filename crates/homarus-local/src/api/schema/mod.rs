//! The one schema table everything generic is driven by: pruning, patches, field ownership, OpenAPI, explain.
//!
//! `types.txt` holds the built-in types; custom resources bring the same [`Shape`]s out of their OpenAPI schemas
//! ([`custom`]). [`kinds`] says which types are served under which names.

pub mod custom;
pub mod kinds;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

/// What a value may look like.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Free-form: nothing is known below, nothing is pruned.
    Any,
    /// A leaf.
    Scalar(Scalar),
    /// A built-in type by its short name (`core.v1.PodSpec`); the indirection lets types refer to themselves.
    Named(&'static str),
    /// A list.
    List(Box<List>),
    /// A map with free keys; atomic ones have one owner.
    Map {
        /// The shape of every value.
        value: Box<Shape>,
        /// Replaced and owned as a whole.
        atomic: bool,
    },
    /// A record.
    Struct(Arc<Struct>),
}

/// The leaf types, as OpenAPI names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// 32 bit integer.
    Int32,
    /// 64 bit integer.
    Int64,
    /// Any number.
    Number,
    /// A boolean.
    Bool,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A resource quantity.
    Quantity,
    /// A number or a text.
    IntOrString,
}

/// A list and how it merges.
#[derive(Debug, Clone)]
pub struct List {
    /// The shape of each element.
    pub item: Shape,
    /// How apply merges it.
    pub topology: Topology,
    /// How a strategic merge patch merges it.
    pub strategy: Strategy,
}

/// How server-side apply treats a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// Owned as a whole.
    Atomic,
    /// Unique scalars.
    Set,
    /// Elements found by these keys.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// Replaced.
    Replace,
    /// Scalars united.
    Unite,
    /// Elements merged by this key.
    MergeBy(String),
}

/// A record type.
#[derive(Debug, Clone, Default)]
pub struct Struct {
    /// Its fields by name.
    pub fields: BTreeMap<String, Field>,
    /// Replaced and owned as a whole.
    pub atomic: bool,
    /// Unknown fields stay (custom resources only).
    pub open: bool,
}

/// One field of a record.
#[derive(Debug, Clone)]
pub struct Field {
    /// What it holds.
    pub shape: Shape,
    /// Whether the schema demands it.
    pub required: bool,
    /// Whether this use of the type is atomic.
    pub atomic: bool,
    /// Whether strategic patches may name the keys to retain.
    pub retain_keys: bool,
    /// Where protobuf has it: a number, or several when JSON inlines what is a message there.
    pub number: Vec<u32>,
    /// The schema's default, which merge keys need when an element leaves one out.
    pub default: Option<serde_json::Value>,
}

static TYPES: LazyLock<HashMap<&'static str, Arc<Struct>>> = LazyLock::new(|| parse(include_str!("types.txt")));

/// The built-in type of this short name; an unknown name is an empty open record.
pub fn named(name: &str) -> Arc<Struct> {
    TYPES.get(name).cloned().unwrap_or_else(|| Arc::new(Struct { open: true, ..Struct::default() }))
}

/// Every built-in type, for the OpenAPI documents.
pub fn all_named() -> impl Iterator<Item = (&'static str, &'static Arc<Struct>)> {
    TYPES.iter().map(|(name, ty)| (*name, ty))
}

impl Shape {
    /// The record behind this shape, if it is one.
    pub fn as_struct(&self) -> Option<Arc<Struct>> {
        match self {
            Shape::Named(name) => Some(named(name)),
            Shape::Struct(fields) => Some(fields.clone()),
            _ => None,
        }
    }
}

impl Struct {
    /// The shape of a field.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }
}

fn parse(table: &'static str) -> HashMap<&'static str, Arc<Struct>> {
    let mut types = HashMap::new();
    let mut current: Option<(&'static str, Struct)> = None;
    for line in table.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        if let Some(field) = line.strip_prefix(' ') {
            if let (Some((_, ty)), Some((name, field))) = (current.as_mut(), parse_field(field)) {
                ty.fields.insert(name, field);
            }
            continue;
        }
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let ty = Struct { atomic: words.next() == Some("atomic"), ..Struct::default() };
        if let Some((name, done)) = current.replace((name, ty)) {
            types.insert(name, Arc::new(done));
        }
    }
    if let Some((name, done)) = current {
        types.insert(name, Arc::new(done));
    }
    types
}

fn parse_field(line: &'static str) -> Option<(String, Field)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let mut shape = parse_shape(words.next()?);
    let mut field = Field {
        shape: Shape::Any,
        required: name.ends_with('!'),
        atomic: false,
        retain_keys: false,
        number: Vec::new(),
        default: None,
    };
    for rule in words {
        match (rule.split_once('='), &mut shape) {
            (Some(("map", keys)), Shape::List(list)) => {
                list.topology = Topology::Map(keys.split(',').map(str::to_owned).collect());
            }
            (Some(("merge", key)), Shape::List(list)) => list.strategy = Strategy::MergeBy(key.to_owned()),
            (Some(("", value)), _) => field.default = Some(parse_default(value)),
            (None, Shape::List(list)) if rule == "set" => list.topology = Topology::Set,
            (None, Shape::List(list)) if rule == "merge" => list.strategy = Strategy::Unite,
            (None, Shape::Map { atomic, .. }) if rule == "atomic" => *atomic = true,
            (None, _) if rule.starts_with('@') => {
                field.number = rule[1..].split('.').filter_map(|n| n.parse().ok()).collect();
            }
            (None, _) if rule == "atomic" => field.atomic = true,
            (None, _) if rule == "retain" => field.retain_keys = true,
            _ => {}
        }
    }
    field.shape = shape;
    Some((name.trim_end_matches('!').to_owned(), field))
}

fn parse_default(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn parse_shape(text: &'static str) -> Shape {
    if let Some(item) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let (topology, strategy) = (Topology::Atomic, Strategy::Replace);
        return Shape::List(Box::new(List { item: parse_shape(item), topology, strategy }));
    }
    if let Some(value) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return Shape::Map { value: Box::new(parse_shape(value)), atomic: false };
    }
    Shape::Scalar(match text {
        "any" => return Shape::Any,
        "string" => Scalar::String,
        "bytes" => Scalar::Bytes,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "number" => Scalar::Number,
        "bool" => Scalar::Bool,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "quantity" => Scalar::Quantity,
        "intorstring" => Scalar::IntOrString,
        named => return Shape::Named(named),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_table_is_closed() {
        fn check(shape: &Shape) {
            match shape {
                Shape::Named(name) => assert!(TYPES.contains_key(name), "no type {name}"),
                Shape::List(list) => check(&list.item),
                Shape::Map { value, .. } => check(value),
                _ => {}
            }
        }
        for (_, ty) in all_named() {
            ty.fields.values().for_each(|f| check(&f.shape));
        }
        assert!(TYPES.len() > 200);
    }

    #[test]
    fn rules_are_read() {
        let pod = named("core.v1.PodSpec");
        let Shape::List(containers) = &pod.field("containers").unwrap().shape else { panic!("not a list") };
        assert_eq!(containers.topology, Topology::Map(vec!["name".into()]));
        assert_eq!(containers.strategy, Strategy::MergeBy("name".into()));
        assert!(pod.field("volumes").unwrap().retain_keys);
        assert!(pod.field("containers").unwrap().required);
        assert!(named("core.v1.ObjectReference").atomic);
        assert_eq!(named("core.v1.ContainerPort").field("protocol").unwrap().default, Some("TCP".into()));
    }
}
