//! JSON patches (RFC 6902), of `add` operations only: injection never changes what is there.

use serde::Serialize;
use serde_json::Value;

/// Operations in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Patch(Vec<Add>);

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename = "add")]
pub struct Add {
    /// Where, as a JSON pointer.
    pub path: String,
    /// What.
    pub value: Value,
}

/// A patch that doesn't fit its object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't add at {0}: there is no such place")]
pub struct NoSuchPlace(pub String);

impl Patch {
    /// Adds a value; in lists a number inserts, `-` appends.
    pub fn add(&mut self, path: impl Into<String>, value: impl Into<Value>) {
        self.0.push(Add { path: path.into(), value: value.into() });
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The operations.
    pub fn operations(&self) -> &[Add] {
        &self.0
    }

    /// Changes an object as an API server would.
    pub fn apply(&self, object: &mut Value) -> Result<(), NoSuchPlace> {
        self.0.iter().try_for_each(|op| apply(op, object).ok_or_else(|| NoSuchPlace(op.path.clone())))
    }
}

fn apply(Add { path, value }: &Add, object: &mut Value) -> Option<()> {
    let (parent, last) = path.rsplit_once('/')?;
    match object.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last.replace("~1", "/").replace("~0", "~"), value.clone());
        }
        Value::Array(list) if last == "-" => list.push(value.clone()),
        Value::Array(list) => {
            let at: usize = last.parse().ok().filter(|at| *at <= list.len())?;
            list.insert(at, value.clone());
        }
        _ => return None,
    }
    Some(())
}

/// A name as a step of a JSON pointer.
pub fn step(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order() {
        let mut patch = Patch::default();
        patch.add("/a", json!({}));
        patch.add(format!("/a/{}", step("x.io/y~z")), "\"quoted\"");
        patch.add("/list/0", 1);
        patch.add("/list/-", 3);
        let mut object = json!({"list": [2]});
        patch.apply(&mut object).unwrap();
        assert_eq!(object, json!({"a": {"x.io/y~z": "\"quoted\""}, "list": [1, 2, 3]}));
        assert_eq!(serde_json::to_value(&patch).unwrap()[2], json!({"op": "add", "path": "/list/0", "value": 1}));
        patch.add("/b/c", 1);
        assert_eq!(patch.apply(&mut json!({"list": []})), Err(NoSuchPlace("/b/c".into())));
    }
}
