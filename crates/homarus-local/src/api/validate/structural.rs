//! Custom resources against their OpenAPI schema: defaults, and every keyword that structural schemas may use.
//! CEL rules (`x-kubernetes-validations`) are not evaluated: what they would refuse is accepted here.

use regex::Regex;
use serde_json::Value;

use crate::api::refusal::Cause;

/// More causes than this are not told.
const MAX_CAUSES: usize = 64;
/// Patterns that compile to more are taken as matching nothing.
const MAX_PATTERN: usize = 1 << 20;

/// Fills in the defaults of a schema.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default")
                    && (!fields.contains_key(name) || fields[name].is_null() && property["nullable"] != true)
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(inner) = fields.get_mut(name) {
                    default(property, inner);
                }
            }
            if schema["additionalProperties"].is_object() {
                let named = &schema["properties"];
                for (_, inner) in fields.iter_mut().filter(|(name, _)| named.get(name.as_str()).is_none()) {
                    default(&schema["additionalProperties"], inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

/// Everything about a value that its schema forbids.
pub fn validate(schema: &Value, value: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(schema, value, path, &mut causes);
    causes.truncate(MAX_CAUSES);
    causes
}

fn cause(reason: &'static str, field: &str, message: String) -> Cause {
    Cause { reason, message, field: if field.is_empty() { "<nil>".into() } else { field.into() } }
}

fn shown(value: &Value) -> String {
    value.to_string()
}

fn invalid(value: &Value, path: &str, why: String) -> Cause {
    cause("FieldValueInvalid", path, format!("Invalid value: {}: {why}", shown(value)))
}

fn check(schema: &Value, value: &Value, path: &str, out: &mut Vec<Cause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !check_type(schema, value, path, out) {
        return;
    }
    check_enum(schema, value, path, out);
    match value {
        Value::String(text) => check_text(schema, text, value, path, out),
        Value::Number(_) => check_number(schema, value, path, out),
        Value::Array(items) => check_list(schema, items, value, path, out),
        Value::Object(fields) => check_object(schema, fields, value, path, out),
        _ => {}
    }
    check_combinations(schema, value, path, out);
}

fn check_type(schema: &Value, value: &Value, path: &str, out: &mut Vec<Cause>) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        if !fits {
            out.push(type_cause(path, value, "integer,string"));
        }
        return fits;
    }
    let Some(wanted) = schema["type"].as_str() else { return true };
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        out.push(type_cause(path, value, wanted));
    }
    fits
}

fn type_cause(path: &str, value: &Value, wanted: &str) -> Cause {
    let has = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let at = if path.is_empty() { "<nil>" } else { path };
    let said = format!("Invalid value: \"{has}\": {at} in body must be of type {wanted}: \"{has}\"");
    cause("FieldValueTypeInvalid", path, said)
}

fn check_enum(schema: &Value, value: &Value, path: &str, out: &mut Vec<Cause>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let said = format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", "));
        out.push(cause("FieldValueNotSupported", path, said));
    }
}

fn check_text(schema: &Value, text: &str, value: &Value, path: &str, out: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        let said = format!("Too long: may not be more than {max} bytes");
        out.push(cause("FieldValueTooLong", path, said));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        out.push(invalid(value, path, format!("{path} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matched = regex::RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build().is_ok_and(|p| p.is_match(text));
        if !matched {
            out.push(invalid(value, path, format!("{path} in body should match '{pattern}'")));
        }
    }
    if let Some(format) = schema["format"].as_str().filter(|f| !has_format(f, text)) {
        out.push(invalid(value, path, format!("{path} in body must be of type {format}: \"{text}\"")));
    }
}

/// Whether a text has a named format; unknown formats always fit.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" => Regex::new("^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$").is_ok_and(|r| r.is_match(text)),
        _ => true,
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, out: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    if let Some(min) = schema["minimum"].as_f64() {
        let strict = schema["exclusiveMinimum"] == true;
        if number < min || strict && number == min {
            let than = if strict { "greater than" } else { "greater than or equal to" };
            out.push(invalid(value, path, format!("{path} in body should be {than} {min}")));
        }
    }
    if let Some(max) = schema["maximum"].as_f64() {
        let strict = schema["exclusiveMaximum"] == true;
        if number > max || strict && number == max {
            let than = if strict { "less than" } else { "less than or equal to" };
            out.push(invalid(value, path, format!("{path} in body should be {than} {max}")));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|s| *s != 0.0 && (number / s).fract() != 0.0) {
        out.push(invalid(value, path, format!("{path} in body should be a multiple of {step}")));
    }
}

fn check_list(schema: &Value, items: &[Value], value: &Value, path: &str, out: &mut Vec<Cause>) {
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| items.len() as u64 > *max) {
        let said = format!("Too many: {}: must have at most {max} items", items.len());
        out.push(cause("FieldValueTooMany", path, said));
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| (items.len() as u64) < *min) {
        out.push(invalid(value, path, format!("{path} in body should have at least {min} items")));
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let unique = schema["uniqueItems"] == true || schema["x-kubernetes-list-type"] == "set" || !keys.is_empty();
    let key = |item: &Value| match keys.is_empty() {
        true => item.clone(),
        false => keys.iter().map(|k| item[*k].clone()).collect(),
    };
    for (i, item) in items.iter().enumerate() {
        let at = format!("{path}[{i}]");
        check(&schema["items"], item, &at, out);
        if unique && items[..i].iter().any(|earlier| key(earlier) == key(item)) {
            out.push(cause("FieldValueDuplicate", &at, format!("Duplicate value: {}", shown(&key(item)))));
        }
        if out.len() > MAX_CAUSES {
            return;
        }
    }
}

fn check_object(schema: &Value, fields: &serde_json::Map<String, Value>, value: &Value, path: &str, out: &mut Vec<Cause>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            out.push(cause("FieldValueRequired", &below(required), "Required value".into()));
        }
    }
    let count = fields.len() as u64;
    if let Some(max) = schema["maxProperties"].as_u64().filter(|max| count > *max) {
        out.push(cause("FieldValueTooMany", path, format!("Too many: {count}: must have at most {max} items")));
    }
    if let Some(min) = schema["minProperties"].as_u64().filter(|min| count < *min) {
        out.push(invalid(value, path, format!("{path} in body should have at least {min} properties")));
    }
    for (name, inner) in fields {
        if let Some(property) = schema["properties"].get(name) {
            check(property, inner, &below(name), out);
        } else if schema["additionalProperties"].is_object() {
            check(&schema["additionalProperties"], inner, &below(name), out);
        }
    }
}

fn check_combinations(schema: &Value, value: &Value, path: &str, out: &mut Vec<Cause>) {
    let fits = |branch: &Value| validate(branch, value, path).is_empty();
    let branches = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
    for branch in branches("allOf") {
        check(branch, value, path, out);
    }
    if !branches("anyOf").is_empty() && !branches("anyOf").iter().any(fits) {
        out.push(whole(path, "must validate at least one schema (anyOf)"));
        out.extend(nearest(branches("anyOf"), value, path));
    }
    if !branches("oneOf").is_empty() {
        let found = branches("oneOf").iter().filter(|b| fits(b)).count();
        if found != 1 {
            let said = found_text(found);
            out.push(whole(path, &format!("must validate one and only one schema (oneOf). {said}")));
            if found == 0 {
                out.extend(nearest(branches("oneOf"), value, path));
            }
        }
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        out.push(whole(path, "must not validate the schema (not)"));
    }
}

/// What the branch that fits best forbids.
fn nearest(branches: &[Value], value: &Value, path: &str) -> Vec<Cause> {
    branches.iter().map(|branch| validate(branch, value, path)).min_by_key(Vec::len).unwrap_or_default()
}

/// What combinations say is said of the whole object.
fn whole(path: &str, why: &str) -> Cause {
    cause("FieldValueInvalid", "", format!("Invalid value: \"\": \"{path}\" {why}"))
}

fn found_text(found: usize) -> String {
    if found == 0 { "Found none valid".into() } else { format!("Found {found} valid alternatives") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_go_as_deep_as_the_object() {
        let schema = json!({"properties": {"spec": {"properties": {
            "mode": {"default": "deny"},
            "ports": {"items": {"properties": {"protocol": {"default": "TCP"}}}},
        }}}});
        let mut object = json!({"spec": {"ports": [{}, {"protocol": "UDP"}]}});
        default(&schema, &mut object);
        assert_eq!(object, json!({"spec": {"mode": "deny", "ports": [{"protocol": "TCP"}, {"protocol": "UDP"}]}}));
        let mut without = json!({});
        default(&schema, &mut without);
        assert_eq!(without, json!({}));
    }

    #[test]
    fn keywords() {
        let check = |schema: Value, value: Value, reasons: &[&str]| {
            let found: Vec<_> = validate(&schema, &value, "spec").into_iter().map(|c| c.reason).collect();
            assert_eq!(found, reasons, "{schema} {value}");
        };
        check(json!({"type": "string"}), json!("x"), &[]);
        check(json!({"type": "string"}), json!(1), &["FieldValueTypeInvalid"]);
        check(json!({"type": "integer", "minimum": 1, "maximum": 9}), json!(9), &[]);
        check(json!({"type": "integer", "minimum": 1}), json!(0), &["FieldValueInvalid"]);
        check(json!({"enum": ["a"]}), json!("b"), &["FieldValueNotSupported"]);
        check(json!({"type": "object", "required": ["a"]}), json!({}), &["FieldValueRequired"]);
        check(json!({"pattern": "^[a-z]+$"}), json!("A"), &["FieldValueInvalid"]);
        check(json!({"maxLength": 2}), json!("äöü"), &["FieldValueTooLong"]);
        check(json!({"maxItems": 1}), json!([1, 2]), &["FieldValueTooMany"]);
        check(json!({"x-kubernetes-list-type": "set"}), json!([1, 1]), &["FieldValueDuplicate"]);
        check(json!({"x-kubernetes-int-or-string": true}), json!("http"), &[]);
        check(json!({"x-kubernetes-int-or-string": true}), json!(true), &["FieldValueTypeInvalid"]);
        let either = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        check(either.clone(), json!({"a": 1}), &[]);
        check(either.clone(), json!({"a": 1, "b": 1}), &["FieldValueInvalid"]);
        check(either, json!({}), &["FieldValueInvalid", "FieldValueRequired"]);
        check(json!({"format": "date-time"}), json!("2026-01-01T00:00:00Z"), &[]);
        check(json!({"format": "date-time"}), json!("yesterday"), &["FieldValueInvalid"]);
        check(json!({"not": {"enum": [1]}}), json!(1), &["FieldValueInvalid"]);
    }
}
