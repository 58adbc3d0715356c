//! Names and labels as Kubernetes allows them (RFC 1035, RFC 1123).

use serde_json::Value;

use super::{invalid, required};
use crate::api::refusal::Cause;
use crate::api::schema::kinds::Kind;

/// What is said about a bad label name.
pub const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
     with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
     with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// RFC 1123 label.
pub fn is_dns_label(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(fine) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_dns_subdomain(text: &str) -> bool {
    let fine = |part: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(fine) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(fine)
}

fn is_label_value(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.is_empty() || text.len() <= 63 && text.chars().all(fine) && edge(text.chars().next()) && edge(text.chars().last())
}

/// Whether the name of a new object fits its kind, and its labels.
pub fn check(kind: &Kind, object: &Value) -> Vec<Cause> {
    let name = &object["metadata"]["name"];
    let text = name.as_str().unwrap_or_default();
    let fault = match (kind.group.as_str(), kind.plural.as_str()) {
        (_, "namespaces") if !is_dns_label(text) => Some(DNS_LABEL),
        (_, "services") if !is_dns_label(text) || text.starts_with(|c: char| c.is_ascii_digit()) => Some(DNS_1035),
        ("rbac.authorization.k8s.io", _) if text.contains('/') || text.contains('%') || text == "." || text == ".." => {
            Some("may not contain '/' or '%'")
        }
        ("rbac.authorization.k8s.io", _) | (_, "namespaces" | "services") => None,
        _ if !is_dns_subdomain(text) => Some(DNS_SUBDOMAIN),
        _ => None,
    };
    let mut causes: Vec<Cause> = fault.map(|why| invalid("metadata.name", name, why)).into_iter().collect();
    causes.extend(check_metadata(object));
    causes
}

/// Whether labels and finalizers fit.
pub fn check_metadata(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(invalid("metadata.labels", value, LABEL_VALUE));
        }
        let name = key.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || !is_label_value(name) || key.matches('/').count() > 1 {
            causes.push(invalid("metadata.labels", &key.clone().into(), LABEL_VALUE));
        }
    }
    for (i, owner) in object["metadata"]["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                causes.push(required(&format!("metadata.ownerReferences[{i}].{field}")));
            }
        }
    }
    causes
}
