//! Takes out of an answer what differs from one cluster to the next: ids, versions, times, addresses, tokens, and the
//! texts that explain columns.

use serde_json::{Value, json};

/// The answer without chance.
pub fn normal(mut value: Value) -> Value {
    walk(&mut value, "");
    value
}

const UIDS: &[&str] = &["uid", "controller-uid", "batch.kubernetes.io/controller-uid"];
const TIMES: &[&str] = &["creationTimestamp", "deletionTimestamp", "lastTransitionTime", "expirationTimestamp", "time"];

fn walk(value: &mut Value, key: &str) {
    match value {
        Value::Object(fields) => {
            // Who owns what is compared by the rows that are about it.
            fields.remove("managedFields");
            // Of a storage we don't have.
            fields.remove("storageVersionHash");
            if fields.get("kind").is_some_and(|k| k == "Deployment" || k == "ReplicaSet" || k == "Job") {
                fields.remove("status");
            }
            if let Some(annotations) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("deployment.kubernetes.io/revision");
                if annotations.is_empty() {
                    fields.remove("annotations");
                }
            }
            for (name, inner) in fields.iter_mut() {
                walk(inner, name);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, key)),
        Value::String(text) => {
            let fresh = replaced(key, text);
            *text = fresh;
        }
        _ => {}
    }
}

fn replaced(key: &str, text: &str) -> String {
    if UIDS.contains(&key) {
        return "UID".into();
    }
    if TIMES.contains(&key) {
        return "TIME".into();
    }
    match key {
        "resourceVersion" => "VERSION".into(),
        "token" => "TOKEN".into(),
        "continue" => "CONTINUE".into(),
        "description" | "format" => String::new(),
        "clusterIP" | "clusterIPs" if text != "None" => "ADDRESS".into(),
        "ca.crt" => "CERTIFICATE".into(),
        "caBundle" => "BUNDLE".into(),
        "url" => "URL".into(),
        _ => words(text),
    }
}

/// Ids, versions and ages within texts.
fn words(text: &str) -> String {
    let replace = |pattern: &str, by: &str, text: &str| regex::Regex::new(pattern).unwrap().replace_all(text, by).into_owned();
    let text = replace("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID", text);
    let text = replace(r"kube-api-access-[a-z0-9]{5}", "kube-api-access-X", &text);
    let text = replace(r"generated-[a-z0-9]{5}", "generated-X", &text);
    let text = replace(r"^\d+s$", "AGE", &text);
    let text = replace(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", "TIME", &text);
    let text = replace(r"resource version: \d+ \(\d+\)", "resource version: N (N)", &text);
    replace(r"\b10\.\d+\.\d+\.\d+\b", "ADDRESS", &text)
}

/// Where two answers differ.
pub fn difference(wanted: &Value, has: &Value) -> String {
    let mut found = Vec::new();
    compare(wanted, has, String::new(), &mut found);
    found.join("\n")
}

fn compare(wanted: &Value, has: &Value, at: String, found: &mut Vec<String>) {
    match (wanted, has) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                match (a.get(name), b.get(name)) {
                    (Some(x), Some(y)) => compare(x, y, format!("{at}/{name}"), found),
                    (x, y) => found.push(format!(
                        "  {at}/{name}: kubernetes {} embedded {}",
                        x.unwrap_or(&json!("(absent)")),
                        y.unwrap_or(&json!("(absent)"))
                    )),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(x, y, format!("{at}/{i}"), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("  {at}:\n    kubernetes {a}\n    embedded   {b}")),
    }
}
