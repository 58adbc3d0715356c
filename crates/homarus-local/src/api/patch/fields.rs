//! Which manager owns which field (`metadata.managedFields`, `FieldsV1`), as structured-merge-diff counts it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::api::schema::kinds::Kind;
use crate::api::schema::{List, Shape, Topology};

/// One step of a path: a field, a list element by its keys, or one by its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `f:name`
    Field(String),
    /// `k:{"name":"x"}`, as its canonical JSON text.
    Key(String),
    /// `v:"x"`
    Value(String),
}

/// A path from the object's root.
pub type Path = Vec<Step>;

/// A set of paths; a container that is itself owned is in it too.
pub type Set = BTreeSet<Path>;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its name.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    /// Through which subresource.
    pub subresource: String,
    /// In which version.
    pub api_version: String,
    /// When.
    pub time: String,
}

/// More owners than this are merged into one, as by a real API server.
const MAX_UPDATERS: usize = 10;

impl Step {
    fn text(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(keys) => format!("k:{keys}"),
            Step::Value(value) => format!("v:{value}"),
        }
    }

    fn parse(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_at_checked(2)?;
        Some(match kind {
            "f:" => Step::Field(rest.into()),
            "k:" => Step::Key(rest.into()),
            "v:" => Step::Value(rest.into()),
            _ => return None,
        })
    }
}

/// The keys of a list element, with the schema's defaults for those it leaves out.
pub fn key_of(list: &List, keys: &[String], item: &Value) -> Step {
    let ty = list.item.as_struct();
    let mut id = Map::new();
    for key in keys {
        let default = || ty.as_ref().and_then(|t| t.field(key)?.default.clone());
        if let Some(value) = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default) {
            id.insert(key.clone(), value);
        }
    }
    Step::Key(Value::Object(id).to_string())
}

/// All leaf paths of a value, and list elements. Updates also own the maps and lists they make (`containers`).
pub fn of(shape: &Shape, value: &Value, containers: bool) -> Set {
    let mut walk = Walk { set: Set::new(), path: Vec::new(), containers };
    walk.value(shape, false, value);
    walk.set
}

struct Walk {
    set: Set,
    path: Path,
    containers: bool,
}

impl Walk {
    fn leaf(&mut self) {
        if !self.path.is_empty() {
            self.set.insert(self.path.clone());
        }
    }

    fn step(&mut self, step: Step, go: impl FnOnce(&mut Self)) {
        self.path.push(step);
        go(self);
        self.path.pop();
    }

    fn value(&mut self, shape: &Shape, atomic: bool, value: &Value) {
        let ty = shape.as_struct();
        let whole = atomic || ty.as_ref().is_some_and(|t| t.atomic) || matches!(shape, Shape::Map { atomic: true, .. });
        match (shape, value) {
            _ if whole => self.leaf(),
            (Shape::List(list), Value::Array(items)) => self.list(list, items),
            (_, Value::Object(fields)) if fields.is_empty() => self.leaf(),
            (_, Value::Object(fields)) => {
                if self.containers && matches!(shape, Shape::Map { .. }) {
                    self.leaf();
                }
                for (name, value) in fields {
                    let field = ty.as_ref().and_then(|t| t.field(name));
                    let below = field.map_or_else(|| field_shape(shape, name), |f| f.shape.clone());
                    let atomic = field.is_some_and(|f| f.atomic);
                    self.step(Step::Field(name.clone()), |walk| walk.value(&below, atomic, value));
                }
            }
            _ => self.leaf(),
        }
    }

    fn list(&mut self, list: &List, items: &[Value]) {
        match &list.topology {
            Topology::Atomic => self.leaf(),
            Topology::Set => {
                if self.containers {
                    self.leaf();
                }
                for item in items {
                    self.step(Step::Value(item.to_string()), Self::leaf);
                }
            }
            Topology::Map(keys) => {
                if self.containers {
                    self.leaf();
                }
                for item in items {
                    self.step(key_of(list, keys, item), |walk| {
                        walk.leaf();
                        walk.value(&list.item, false, item);
                    });
                }
            }
        }
    }
}

fn step(step: Step, path: &mut Path, go: impl FnOnce(&mut Path)) {
    path.push(step);
    go(path);
    path.pop();
}

/// What is at a path; `None` when nothing is.
pub fn at<'v>(shape: &Shape, value: &'v Value, path: &[Step]) -> Option<&'v Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match first {
        Step::Field(name) => {
            let below = field_shape(shape, name);
            at(&below, value.get(name)?, rest)
        }
        Step::Key(_) => {
            let Shape::List(list) = shape else { return None };
            let Topology::Map(keys) = &list.topology else { return None };
            let item = value.as_array()?.iter().find(|item| key_of(list, keys, item) == *first)?;
            at(&list.item, item, rest)
        }
        Step::Value(text) => value.as_array()?.iter().find(|item| item.to_string() == *text),
    }
}

/// The shape of a field below.
pub fn field_shape(shape: &Shape, name: &str) -> Shape {
    match shape {
        Shape::Map { value, .. } => (**value).clone(),
        _ => shape.as_struct().and_then(|t| t.field(name).map(|f| f.shape.clone())).unwrap_or(Shape::Any),
    }
}

/// `FieldsV1` of a set.
pub fn to_json(set: &Set) -> Value {
    let mut root = json!({});
    for path in set {
        let at = path.iter().fold(&mut root, |at, step| &mut at[step.text()]);
        if at.is_null() {
            *at = json!({});
        }
        // Sorted order: what lies below comes right after.
        let below = set.range(path.clone()..).nth(1).is_some_and(|next| next.starts_with(path));
        if below || path.last().is_some_and(|s| matches!(s, Step::Key(_))) {
            at["."] = json!({});
        }
    }
    root
}

/// The set of a `FieldsV1`.
pub fn from_json(fields: &Value) -> Set {
    let mut set = Set::new();
    read(fields, &mut Vec::new(), &mut set);
    set
}

fn read(fields: &Value, path: &mut Path, set: &mut Set) {
    let Some(fields) = fields.as_object() else { return };
    if (fields.is_empty() || fields.contains_key(".")) && !path.is_empty() {
        set.insert(path.clone());
    }
    for (name, below) in fields {
        if let Some(next) = Step::parse(name) {
            step(next, path, |path| read(below, path, set));
        }
    }
}

/// One owner's entry, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// Through which subresource.
    pub subresource: String,
    /// In which version.
    pub api_version: String,
    /// When it last changed.
    pub time: String,
    /// What it owns.
    pub set: Set,
}

impl Entry {
    fn is(&self, writer: &Writer) -> bool {
        self.manager == writer.manager
            && self.operation == writer.operation
            && self.subresource == writer.subresource
            && (writer.operation == "Apply" || self.api_version == writer.api_version)
    }

    fn of(writer: &Writer, set: Set) -> Entry {
        Entry {
            manager: writer.manager.clone(),
            operation: writer.operation.into(),
            subresource: writer.subresource.clone(),
            api_version: writer.api_version.clone(),
            time: writer.time.clone(),
            set,
        }
    }
}

/// The owners of an object's fields.
pub fn entries(object: &Value) -> Vec<Entry> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let all = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    all.map(|e| Entry {
        manager: text(&e["manager"]),
        operation: text(&e["operation"]),
        subresource: text(&e["subresource"]),
        api_version: text(&e["apiVersion"]),
        time: text(&e["time"]),
        set: from_json(&e["fieldsV1"]),
    })
    .collect()
}

/// Writes the owners back; those that own nothing go.
pub fn set_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    // Appliers first, then by time and name.
    entries.sort_by(|a, b| {
        let key = |e: &Entry| (e.operation.clone(), e.time.clone(), e.manager.clone(), e.subresource.clone());
        key(a).cmp(&key(b))
    });
    let written: Vec<Value> = entries
        .iter()
        .map(|e| {
            let mut entry = json!({
                "manager": e.manager, "operation": e.operation, "apiVersion": e.api_version, "time": e.time,
                "fieldsType": "FieldsV1", "fieldsV1": to_json(&e.set),
            });
            if !e.subresource.is_empty() {
                entry["subresource"] = e.subresource.clone().into();
            }
            entry
        })
        .collect();
    match written.is_empty() {
        true => {
            object["metadata"].as_object_mut().map(|m| m.remove("managedFields"));
        }
        false => object["metadata"]["managedFields"] = written.into(),
    }
}

/// Fields nobody owns: the API writes them itself.
const OWNERLESS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// An object without what nobody owns, and without what this subresource can't set.
pub fn ownable(kind: &Kind, subresource: &str, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        match subresource {
            "status" => fields.retain(|name, _| name == "status" || name == "metadata"),
            _ if kind.status => {
                fields.remove("status");
            }
            _ => {}
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !OWNERLESS.contains(&name.as_str()));
        if metadata.is_empty() {
            object.as_object_mut().map(|o| o.remove("metadata"));
        }
    }
    object
}

/// The fields of an object that a writer through this subresource can own.
pub fn owned(kind: &Kind, subresource: &str, object: &Value, containers: bool) -> Set {
    of(&kind.shape, &ownable(kind, subresource, object), containers)
}

/// Counts an update: what it changed is its writer's now and nobody else's; what is gone is nobody's.
pub fn record_update(kind: &Kind, old: Option<&Value>, sent: &Value, new: &mut Value, writer: &Writer) {
    // Whoever sends an empty list wants the owners forgotten.
    let mut all = match sent["metadata"].get("managedFields") {
        Some(Value::Array(none)) if none.is_empty() => Vec::new(),
        _ => old.map(entries).unwrap_or_default(),
    };
    let now = owned(kind, &writer.subresource, new, true);
    let before = old.map(|o| owned(kind, &writer.subresource, o, true)).unwrap_or_default();
    // Of what holds other paths of the set only the existence counts.
    let leaves = owned(kind, &writer.subresource, new, false);
    let value = |object: &Value, path: &Path| {
        let leaf = leaves.contains(path) && !matches!(path.last(), Some(Step::Key(_)));
        at(&kind.shape, object, path).map(|v| if leaf { v.clone() } else { Value::Null })
    };
    let changed: Set = now
        .iter()
        .filter(|path| !before.contains(*path) || old.is_some_and(|o| value(o, path) != value(new, path)))
        .cloned()
        .collect();
    let gone: Set = before.difference(&now).cloned().collect();
    for entry in &mut all {
        entry.set.retain(|path| !gone.contains(path) && !changed.contains(path));
    }
    take(&mut all, writer, changed);
    forget_many(&mut all);
    set_entries(new, all);
}

fn take(all: &mut Vec<Entry>, writer: &Writer, changed: Set) {
    if changed.is_empty() {
        return;
    }
    match all.iter_mut().find(|e| e.is(writer)) {
        Some(own) => {
            own.set.extend(changed);
            own.time = writer.time.clone();
        }
        None => all.push(Entry::of(writer, changed)),
    }
}

/// Too many updaters become one.
fn forget_many(all: &mut Vec<Entry>) {
    let updaters = all.iter().filter(|e| e.operation == "Update").count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    all.sort_by(|a, b| a.time.cmp(&b.time));
    let mut ancient: BTreeMap<String, Set> = BTreeMap::new();
    let mut excess = updaters - MAX_UPDATERS + 1;
    all.retain(|e| {
        let merged = e.operation == "Update" && excess > 0;
        if merged {
            excess -= 1;
            ancient.entry(e.api_version.clone()).or_default().extend(e.set.iter().cloned());
        }
        !merged
    });
    for (api_version, set) in ancient {
        let (manager, operation) = ("ancient-changes".into(), "Update".into());
        all.push(Entry { manager, operation, subresource: String::new(), api_version, time: String::new(), set });
    }
}

/// Counts an apply: the writer owns exactly what it named.
pub fn record_apply(object: &mut Value, set: &Set, writer: &Writer) {
    let mut all = entries(object);
    match all.iter_mut().find(|e| e.is(writer)) {
        Some(own) if own.set == *set => {}
        Some(own) => {
            own.set.clone_from(set);
            own.time = writer.time.clone();
            own.api_version = writer.api_version.clone();
        }
        None => all.push(Entry::of(writer, set.clone())),
    }
    set_entries(object, all);
}

/// Whether two objects are one but for the times in their owners.
pub fn same_but_times(old: &Value, new: &Value) -> bool {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry.as_object_mut().map(|e| e.remove("time"));
        }
        if object["metadata"]["managedFields"].is_null() {
            object["metadata"].as_object_mut().map(|m| m.remove("managedFields"));
        }
        object
    };
    timeless(old) == timeless(new)
}
