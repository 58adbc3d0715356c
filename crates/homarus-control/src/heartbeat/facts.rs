//! The facts and how they are written.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use serde_json::Value;

/// The most extensions that are told apart.
const MAX_EXTENSIONS: usize = 32;

/// What Prometheus is asked, and under which name the answer is told.
pub(super) const QUERIES: [(&str, &str); 8] = [
    ("total-rps", "sum(rate(request_total{direction=\"inbound\"}[30m]))"),
    ("meshed-pods", "count(count by (pod) (request_total))"),
    ("p99-handle-us", "histogram_quantile(0.99, sum(rate(request_handle_us_bucket{direction=\"inbound\"}[24h])) by (le))"),
    ("proxy-injector-injections", "sum(proxy_inject_admission_responses_total{skip=\"false\"})"),
    ("max-mem-linkerd-proxy", "max(container_memory_working_set_bytes{container=\"linkerd-proxy\"})"),
    ("max-mem-destination", "max(container_memory_working_set_bytes{container=\"destination\"})"),
    (
        "p95-cpu-linkerd-proxy",
        "max(quantile_over_time(0.95, rate(container_cpu_usage_seconds_total{container=\"linkerd-proxy\"}[5m])[24h:5m]))",
    ),
    (
        "p95-cpu-destination",
        "max(quantile_over_time(0.95, rate(container_cpu_usage_seconds_total{container=\"destination\"}[5m])[24h:5m]))",
    ),
];

/// Names and values, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts(Vec<(String, String)>);

impl Facts {
    pub(super) fn of_program() -> Self {
        let mut facts = Self::default();
        facts.put("arch", std::env::consts::ARCH);
        facts.put("version", env!("CARGO_PKG_VERSION"));
        facts.put("source", "heartbeat");
        facts
    }

    pub(super) fn put(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// The ConfigMap is made once and applied ever after: it stands for the installation.
    pub(super) fn of_installation(&mut self, config: &ConfigMap) {
        if let Some(uid) = &config.metadata.uid {
            self.put("uuid", uid);
        }
        if let Some(made) = &config.metadata.creation_timestamp {
            self.put("install-time", made.0.as_second());
        }
    }

    pub(super) fn of_extensions(&mut self, namespaces: &[PartialObjectMeta<Namespace>]) {
        let name = |namespace: &PartialObjectMeta<Namespace>| namespace.labels().get("linkerd.io/extension").cloned();
        let mut names: Vec<String> = namespaces.iter().filter_map(name).collect();
        names.sort();
        names.dedup();
        names.iter().take(MAX_EXTENSIONS).for_each(|name| self.put(&format!("ext-{name}"), 1));
    }

    /// An answer of Prometheus, if it holds one number.
    pub(super) fn of_answer(&mut self, name: &str, text: &str) {
        let answer: Value = serde_json::from_str(text).unwrap_or_default();
        let number = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        if let Some(number) = number.filter(|number| number.is_finite()) {
            self.put(name, number.round());
        }
    }

    /// As the query of a URL.
    pub(super) fn to_query(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        pairs.collect::<Vec<_>>().join("&")
    }
}

/// Percent-encoding (RFC 3986 §2.1) of everything but unreserved characters.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_make_a_query() {
        let mut facts = Facts::default();
        let config = json!({ "metadata": { "uid": "u-1", "creationTimestamp": "2026-01-02T03:04:05Z" } });
        facts.of_installation(&serde_json::from_value(config).unwrap());
        let namespace = |name: &str| {
            let meta = json!({ "metadata": { "name": name, "labels": { "linkerd.io/extension": name } } });
            serde_json::from_value::<PartialObjectMeta<Namespace>>(meta).unwrap()
        };
        facts.of_extensions(&[namespace("viz"), namespace("multicluster"), namespace("viz")]);
        facts.put("k8s-version", "v1.34+a b");
        let wanted = "uuid=u-1&install-time=1767323045&ext-multicluster=1&ext-viz=1&k8s-version=v1.34%2Ba%20b";
        assert_eq!(facts.to_query(), wanted);
    }

    #[test]
    fn answers_without_a_number_are_left_out() {
        let mut facts = Facts::default();
        let answer = |value: &str| json!({ "data": { "result": [{ "value": [1, value] }] } }).to_string();
        facts.of_answer("a", &answer("12.6"));
        for nothing in [answer("NaN"), answer("x"), "{}".to_owned(), "<html>".to_owned()] {
            facts.of_answer("b", &nothing);
        }
        assert_eq!(facts.to_query(), "a=13");
    }
}
