//! Label and field selectors.

use serde_json::Value;

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Has(String),
    HasNot(String),
}

/// A parsed label selector: all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Term>);

/// A parsed field selector: path, wanted value, equal or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String, bool)>);

/// What isn't a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct Unparsable(pub String);

impl Labels {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the text form: `a=b,c!=d,e in (f,g),h,!i`.
    pub fn parse(text: &str) -> Result<Labels, Unparsable> {
        split_top(text).into_iter().filter(|t| !t.is_empty()).map(parse_term).collect::<Result<_, _>>().map(Labels)
    }

    /// From `matchLabels` and `matchExpressions`, where null selects nothing and an empty one everything.
    pub fn from_object(selector: &Value) -> Option<Labels> {
        let object = selector.as_object()?;
        let mut terms = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            terms.push(Term::In(key.clone(), vec![value.as_str().unwrap_or_default().to_owned()]));
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            terms.push(match expression["operator"].as_str()? {
                "In" => Term::In(key, values),
                "NotIn" => Term::NotIn(key, values),
                "Exists" => Term::Has(key),
                "DoesNotExist" => Term::HasNot(key),
                _ => return None,
            });
        }
        Some(Labels(terms))
    }

    /// Whether an object's labels fit.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"])
    }

    /// Whether these labels fit.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.0.iter().all(|term| match term {
            Term::In(key, values) => labels[key].as_str().is_some_and(|v| values.iter().any(|w| w == v)),
            Term::NotIn(key, values) => labels[key].as_str().is_none_or(|v| values.iter().all(|w| w != v)),
            Term::Has(key) => labels.get(key).is_some(),
            Term::HasNot(key) => labels.get(key).is_none(),
        })
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match term {
                Term::In(key, values) if values.len() == 1 => write!(f, "{comma}{key}={}", values[0])?,
                Term::In(key, values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                Term::NotIn(key, values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
                Term::Has(key) => write!(f, "{comma}{key}")?,
                Term::HasNot(key) => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

/// Splits at commas outside parentheses.
fn split_top(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn parse_term(text: &str) -> Result<Term, Unparsable> {
    let bad = || Unparsable(format!("invalid label selector {text:?}"));
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Term::HasNot(valid_key(key).ok_or_else(bad)?));
    }
    if let Some((key, set)) = text.split_once(" notin ") {
        return Ok(Term::NotIn(valid_key(key).ok_or_else(bad)?, parse_set(set).ok_or_else(bad)?));
    }
    if let Some((key, set)) = text.split_once(" in ") {
        return Ok(Term::In(valid_key(key).ok_or_else(bad)?, parse_set(set).ok_or_else(bad)?));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Term::NotIn(valid_key(key).ok_or_else(bad)?, vec![valid_value(value).ok_or_else(bad)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Term::In(valid_key(key).ok_or_else(bad)?, vec![valid_value(value).ok_or_else(bad)?]));
    }
    Ok(Term::Has(valid_key(text).ok_or_else(bad)?))
}

fn parse_set(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    inner.split(',').map(valid_value).collect()
}

fn valid_key(key: &str) -> Option<String> {
    let key = key.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(fine)).then(|| key.to_owned())
}

fn valid_value(value: &str) -> Option<String> {
    let value = value.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (value.len() <= 63 && value.chars().all(fine)).then(|| value.to_owned())
}

impl Fields {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the text form: `metadata.name=a,spec.nodeName!=b`.
    pub fn parse(text: &str) -> Result<Fields, Unparsable> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, value, true)
            } else {
                return Err(Unparsable(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push((path.trim().to_owned(), value.trim().to_owned(), equal));
        }
        Ok(Fields(terms))
    }

    /// Also this name.
    pub fn and_name(mut self, name: &str) -> Fields {
        self.0.push(("metadata.name".into(), name.to_owned(), true));
        self
    }

    /// The one value that a path must have, if there is one.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.0.iter().find(|(asked, _, equal)| asked == path && *equal).map(|(_, value, _)| value.as_str())
    }

    /// The paths that are asked for.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(path, _, _)| path.as_str())
    }

    /// The name, when it is asked to equal something.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(path, _, equal)| path == "metadata.name" && *equal).map(|(_, value, _)| value.as_str())
    }

    /// Whether an object fits; a path that isn't there is the empty text.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, equal)| (field(object, path) == *wanted) == *equal)
    }
}

fn field(object: &Value, path: &str) -> String {
    let mut at = object;
    for step in path.split('.') {
        at = &at[step];
    }
    match at {
        Value::Null if path == "spec.restartPolicy" => "Always".into(),
        Value::Null if path == "spec.hostNetwork" || path == "spec.unschedulable" => "false".into(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors() {
        let object = json!({"metadata": {"labels": {"app": "web", "x.io/tier": "front"}}});
        let check = |selector: &str, fits: bool| {
            assert_eq!(Labels::parse(selector).unwrap().matches(&object), fits, "{selector}");
        };
        check("", true);
        check("app=web", true);
        check("app==api", false);
        check("app!=api,x.io/tier=front", true);
        check("app in (api, web)", true);
        check("app notin (api,web)", false);
        check("other notin (api)", true);
        check("app", true);
        check("!app", false);
        check("!other", true);
        check("other", false);
        for bad in ["app=(", "=x", "a b", "app in web", "app=x y"] {
            assert!(Labels::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selector_objects() {
        let labels = json!({"app": "web"});
        let check = |selector: Value, fits: bool| {
            let matched = Labels::from_object(&selector).is_some_and(|s| s.matches_labels(&labels));
            assert_eq!(matched, fits, "{selector}");
        };
        check(json!({}), true);
        check(Value::Null, false);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "api"}}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false);
    }

    #[test]
    fn field_selectors() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let check = |selector: &str, fits: bool| {
            assert_eq!(Fields::parse(selector).unwrap().matches(&pod), fits, "{selector}");
        };
        check("metadata.name=a", true);
        check("spec.nodeName!=n", false);
        check("status.phase=Running,metadata.name==a", true);
        check("metadata.namespace=", true);
        assert!(Fields::parse("metadata.name").is_err());
    }
}
