//! Label selectors, decided here as the API server decides them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether a selector selects something with these labels; an operator that nobody knows selects nothing.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = |value: &String| expression.values.iter().flatten().any(|known| known == value);
        match expression.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn labels_and_expressions() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let check = |selector: Value, wanted: bool| {
            let read: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(selects(&read, &labels), wanted, "{selector}");
        };
        let expression =
            |key: &str, operator: &str| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": ["1"] }] });
        check(json!({}), true);
        check(json!({ "matchLabels": { "a": "1" } }), true);
        check(json!({ "matchLabels": { "a": "2" } }), false);
        check(json!({ "matchLabels": { "b": "1" } }), false);
        for (operator, of_a, of_b) in [
            ("In", true, false),
            ("NotIn", false, true),
            ("Exists", true, false),
            ("DoesNotExist", false, true),
            ("Unheard", false, false),
        ] {
            check(expression("a", operator), of_a);
            check(expression("b", operator), of_b);
        }
    }
}
