//! Label selectors (apimachinery's `LabelSelector`).

use std::{collections::BTreeMap, sync::Arc};

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A selector: all of it must hold; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels with these values.
    pub labels: Labels,
    /// And these conditions.
    pub expressions: Vec<Expression>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The label.
    pub key: Arc<str>,
    /// What must hold of it.
    pub operator: Operator,
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It has one of these values.
    In(Vec<Arc<str>>),
    /// It is absent or has none of these values.
    NotIn(Vec<Arc<str>>),
    /// It is there.
    Exists,
    /// It isn't there.
    DoesNotExist,
}

impl Selector {
    /// Selects by labels alone.
    pub fn of_labels<K: Into<Arc<str>>, V: Into<Arc<str>>>(labels: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { labels: labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), expressions: Vec::new() }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(k, v)| labels.get(k) == Some(v)) && self.expressions.iter().all(|e| e.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_hold() {
        let labels: Labels = [("app", "web"), ("tier", "front")].map(|(k, v)| (k.into(), v.into())).into();
        let expression =
            |key: &str, operator| Selector { labels: Labels::new(), expressions: vec![Expression { key: key.into(), operator }] };
        let values = |v: &[&str]| v.iter().map(|v| Arc::from(*v)).collect();
        for (selector, selected) in [
            (Selector::default(), true),
            (Selector::of_labels([("app", "web")]), true),
            (Selector::of_labels([("app", "api")]), false),
            (Selector::of_labels([("app", "web"), ("no", "label")]), false),
            (expression("app", Operator::In(values(&["api", "web"]))), true),
            (expression("app", Operator::In(values(&["api"]))), false),
            (expression("none", Operator::In(values(&["api"]))), false),
            (expression("app", Operator::NotIn(values(&["web"]))), false),
            (expression("none", Operator::NotIn(values(&["web"]))), true),
            (expression("app", Operator::Exists), true),
            (expression("none", Operator::Exists), false),
            (expression("app", Operator::DoesNotExist), false),
            (expression("none", Operator::DoesNotExist), true),
        ] {
            assert_eq!(selector.matches(&labels), selected, "{selector:?}");
        }
    }
}
