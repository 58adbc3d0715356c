//! A body against its shape: unknown fields go (and are reported), nulls and empty lists vanish, types must fit.

use serde_json::Value;

use crate::api::schema::{Scalar, Shape, Struct};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `unknown field "spec.x"`, one each.
    pub unknown: Vec<String>,
    /// Values of the wrong type, in words.
    pub wrong: Vec<String>,
}

/// Deeper objects are refused: nothing real is.
const MAX_DEPTH: usize = 100;

/// Cleans an object in place. `typed` ones (built-in kinds) are decoded strictly and lose what a Go program would not
/// write again: nulls, empty lists and maps, empty optional texts.
pub fn clean(shape: &Shape, object: &mut Value, typed: bool) -> Report {
    let mut report = Report::default();
    let mut walk = Walk { report: &mut report, typed, path: Vec::new() };
    if let Some(ty) = shape.as_struct() {
        walk.root(&ty, object);
    }
    report
}

/// Drops unknown fields only.
pub fn prune(shape: &Shape, object: &mut Value) {
    clean(shape, object, false);
}

struct Walk<'r> {
    report: &'r mut Report,
    typed: bool,
    path: Vec<String>,
}

impl Walk<'_> {
    fn root(&mut self, ty: &Struct, object: &mut Value) {
        let Some(fields) = object.as_object_mut() else { return };
        let saved: Vec<_> = ["apiVersion", "kind"].into_iter().filter_map(|k| fields.remove_entry(k)).collect();
        self.record(ty, object);
        if let Some(fields) = object.as_object_mut() {
            fields.extend(saved);
        }
    }

    fn at(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            if !step.starts_with('[') && !path.is_empty() {
                path.push('.');
            }
            path.push_str(step);
        }
        path
    }

    fn value(&mut self, shape: &Shape, value: &mut Value) {
        if self.path.len() > MAX_DEPTH {
            self.report.wrong.push("exceeded max depth".into());
            return;
        }
        match shape {
            Shape::Any => {}
            Shape::Scalar(scalar) => self.scalar(*scalar, value),
            Shape::Named(_) | Shape::Struct(_) => {
                if let Some(ty) = shape.as_struct() {
                    self.record(&ty, value);
                }
            }
            Shape::List(list) => {
                self.expect(value.is_array(), value, "slice");
                for (i, item) in value.as_array_mut().into_iter().flatten().enumerate() {
                    self.step(format!("[{i}]"), |walk| walk.value(&list.item, item));
                }
            }
            Shape::Map { value: inner, .. } => {
                self.expect(value.is_object(), value, "map");
                for (key, item) in value.as_object_mut().into_iter().flatten() {
                    self.step(key.clone(), |walk| walk.value(inner, item));
                }
            }
        }
    }

    fn step(&mut self, step: String, walk: impl FnOnce(&mut Self)) {
        self.path.push(step);
        walk(self);
        self.path.pop();
    }

    fn record(&mut self, ty: &Struct, value: &mut Value) {
        self.expect(value.is_object(), value, "struct");
        let Some(fields) = value.as_object_mut() else { return };
        if self.typed {
            fields.retain(|_, v| !v.is_null());
        }
        let names: Vec<String> = fields.keys().cloned().collect();
        for name in names {
            let Some(field) = ty.field(&name) else {
                if !ty.open {
                    fields.remove(&name);
                    let unknown = self.step_path(&name);
                    self.report.unknown.push(format!("unknown field \"{unknown}\""));
                }
                continue;
            };
            let Some(inner) = fields.get_mut(&name) else { continue };
            self.step(name.clone(), |walk| walk.value(&field.shape, inner));
            if self.typed && vanishes(&field.shape, inner, field.required, &name) {
                fields.remove(&name);
            }
        }
    }

    fn step_path(&self, name: &str) -> String {
        let at = self.at();
        if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
    }

    fn scalar(&mut self, scalar: Scalar, value: &Value) {
        if !self.typed {
            return;
        }
        let (fits, go) = match scalar {
            Scalar::String => (value.is_string(), "string"),
            Scalar::Bytes => (value.is_string(), "[]uint8"),
            Scalar::Time | Scalar::MicroTime => (value.is_string() || value.is_null(), "v1.Time"),
            Scalar::Int32 => (value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()), "int32"),
            Scalar::Int64 => (value.is_i64() || value.as_f64().is_some_and(|f| f.fract() == 0.0), "int64"),
            Scalar::Number => (value.is_number(), "float64"),
            Scalar::Bool => (value.is_boolean(), "bool"),
            Scalar::Quantity | Scalar::IntOrString => (value.is_string() || value.is_number(), "intstr.IntOrString"),
        };
        self.expect(fits, value, go);
    }

    fn expect(&mut self, fits: bool, value: &Value, go: &str) {
        if fits || value.is_null() || !self.typed {
            return;
        }
        let what = match value {
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Array(_) => "array",
            _ => "object",
        };
        let at = self.at();
        self.report.wrong.push(format!("json: cannot unmarshal {what} into Go struct field {at} of type {go}"));
    }
}

/// Texts that are pointers in Go and stay when empty.
const KEPT_EMPTY: &[&str] = &["holderIdentity", "storageClassName", "value", "name", "appProtocol"];

fn vanishes(shape: &Shape, value: &Value, required: bool, name: &str) -> bool {
    match (shape, value) {
        (_, Value::Null) => true,
        (Shape::List(_), Value::Array(items)) => items.is_empty() && !required,
        (Shape::Map { .. }, Value::Object(fields)) => fields.is_empty() && !required,
        (Shape::Scalar(_), Value::String(text)) => text.is_empty() && !required && !KEPT_EMPTY.contains(&name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_go_and_are_named() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}},
            "spec": {"nonsense": 1, "nodeName": null, "containers": [{"name": "a", "comand": [], "args": []}]}});
        let report = clean(&Shape::Named("core.v1.Pod"), &mut pod, true);
        let mut unknown = report.unknown;
        unknown.sort();
        assert_eq!(unknown, ["unknown field \"spec.containers[0].comand\"", "unknown field \"spec.nonsense\""]);
        assert_eq!(
            pod,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a"}]}})
        );
    }

    #[test]
    fn wrong_types_are_told() {
        let mut deployment = json!({"spec": {"replicas": "three"}});
        let report = clean(&Shape::Named("apps.v1.Deployment"), &mut deployment, true);
        assert_eq!(report.wrong, ["json: cannot unmarshal string into Go struct field spec.replicas of type int32"]);
    }
}
