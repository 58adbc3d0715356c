//! Values held against a chart's `values.schema.json`: the part of JSON Schema (draft 7) that our charts use. A keyword beyond it
//! is an error, so that nothing is checked by Helm alone.

use serde_json::{Map, Value as Json};

/// The deepest schema in a schema, references included.
const MAX_DEPTH: usize = 64;
/// The most that is said about one set of values.
const MAX_WRONG: usize = 50;
/// What says nothing about a value.
const SILENT: [&str; 7] = ["$schema", "$id", "title", "description", "default", "examples", "definitions"];

/// Everything that is wrong with values, each with its path.
pub(super) fn check(values: &Json, schema: &Json) -> Result<Vec<String>, String> {
    let mut checker = Checker { root: schema, wrong: Vec::new() };
    checker.check(values, schema, "", MAX_DEPTH)?;
    Ok(checker.wrong)
}

struct Checker<'a> {
    root: &'a Json,
    wrong: Vec<String>,
}

impl<'a> Checker<'a> {
    fn say(&mut self, path: &str, what: impl std::fmt::Display) {
        if self.wrong.len() < MAX_WRONG {
            let path = if path.is_empty() { "the values" } else { path };
            self.wrong.push(format!("{path}: {what}"));
        }
    }

    fn check(&mut self, value: &Json, schema: &'a Json, path: &str, depth: usize) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or("schemas refer to each other without end")?;
        let rules = match schema {
            Json::Bool(true) => return Ok(()),
            Json::Bool(false) => {
                self.say(path, "not allowed here");
                return Ok(());
            }
            Json::Object(rules) => rules,
            _ => return Err("a schema must be an object or a boolean".to_owned()),
        };
        // In draft 7 a reference stands alone.
        if let Some(reference) = rules.get("$ref") {
            return self.check(value, self.referred(reference)?, path, depth);
        }
        for (keyword, rule) in rules {
            self.rule(keyword, rule, value, path, depth)?;
        }
        if let Json::Object(fields) = value {
            self.fields(fields, rules, path, depth)?;
        }
        Ok(())
    }

    fn referred(&self, reference: &Json) -> Result<&'a Json, String> {
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
        let found = pointer.and_then(|pointer| self.root.pointer(pointer));
        found.ok_or_else(|| format!("a schema refers to {reference}, which isn't there"))
    }

    fn rule(&mut self, keyword: &str, rule: &'a Json, value: &Json, path: &str, depth: usize) -> Result<(), String> {
        match keyword {
            "type" => self.kind(rule, value, path),
            "enum" => {
                let allowed = rule.as_array().ok_or("enum must be a list")?;
                if !allowed.iter().any(|one| equal(one, value)) {
                    let listed = allowed.iter().map(shown).collect::<Vec<_>>().join(", ");
                    self.say(path, format!("{} is none of {listed}", shown(value)));
                }
            }
            "minimum" | "maximum" => self.limit(keyword, rule, value, path),
            "minLength" => {
                if let (Some(text), Some(least)) = (value.as_str(), rule.as_u64())
                    && (text.chars().count() as u64) < least
                {
                    self.say(path, format!("needs at least {least} characters"));
                }
            }
            "pattern" => self.pattern(rule, value, path)?,
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(item, rule, &format!("{path}[{index}]"), depth)?;
                }
            }
            "anyOf" => self.any(rule, value, path, depth)?,
            "properties" | "additionalProperties" | "required" => {}
            keyword if SILENT.contains(&keyword) => {}
            other => return Err(format!("the schema uses {other:?}, which isn't supported")),
        }
        Ok(())
    }

    fn kind(&mut self, rule: &Json, value: &Json, path: &str) {
        let kinds: Vec<&str> = match rule {
            Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        if !kinds.iter().any(|kind| is_kind(value, kind)) {
            self.say(path, format!("must be {}, but is {}", kinds.join(" or "), described(value)));
        }
    }

    fn limit(&mut self, keyword: &str, rule: &Json, value: &Json, path: &str) {
        let (Some(limit), Some(number)) = (rule.as_f64(), value.as_f64()) else { return };
        match keyword {
            "minimum" if number < limit => self.say(path, format!("{number} is less than {limit}")),
            "maximum" if number > limit => self.say(path, format!("{number} is more than {limit}")),
            _ => {}
        }
    }

    fn pattern(&mut self, rule: &Json, value: &Json, path: &str) -> Result<(), String> {
        let pattern = rule.as_str().ok_or("a pattern must be text")?;
        let regex = regex::Regex::new(pattern).map_err(|error| format!("pattern {pattern:?}: {error}"))?;
        if let Some(text) = value.as_str()
            && !regex.is_match(text)
        {
            self.say(path, format!("{} doesn't match {pattern}", shown(value)));
        }
        Ok(())
    }

    fn any(&mut self, rule: &'a Json, value: &Json, path: &str, depth: usize) -> Result<(), String> {
        let mut first = None;
        for schema in rule.as_array().into_iter().flatten() {
            let mut alone = Checker { root: self.root, wrong: Vec::new() };
            alone.check(value, schema, path, depth)?;
            if alone.wrong.is_empty() {
                return Ok(());
            }
            first.get_or_insert(alone.wrong);
        }
        first.into_iter().flatten().for_each(|wrong| self.wrong.push(wrong));
        Ok(())
    }

    fn fields(&mut self, fields: &Map<String, Json>, rules: &'a Map<String, Json>, path: &str, depth: usize) -> Result<(), String> {
        let known = rules.get("properties").and_then(Json::as_object);
        let others = rules.get("additionalProperties").unwrap_or(&Json::Bool(true));
        for (name, value) in fields {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.and_then(|known| known.get(name)) {
                Some(schema) => self.check(value, schema, &inner, depth)?,
                None if *others == Json::Bool(false) => self.say(&inner, "unknown key"),
                None => self.check(value, others, &inner, depth)?,
            }
        }
        for name in rules.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if !fields.contains_key(name) {
                self.say(path, format!("{name} is missing"));
            }
        }
        Ok(())
    }
}

fn is_kind(value: &Json, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

/// Numbers are equal by what they are, not by how they are kept.
fn equal(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => left.as_f64() == right.as_f64(),
        (left, right) => left == right,
    }
}

fn described(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "a mapping".to_owned(),
        Json::Bool(_) => format!("the boolean {value}"),
        Json::Number(_) => format!("the number {}", shown(value)),
        Json::String(_) => format!("the text {}", shown(value)),
    }
}

/// A value in a message; keys and certificates don't belong there.
fn shown(value: &Json) -> String {
    const MOST: usize = 60;
    let text = match value {
        Json::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        value => value.to_string(),
    };
    if text.chars().count() > MOST { "(a long value)".to_owned() } else { text }
}
