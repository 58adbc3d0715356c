//! Workloads: who a proxy works for.

use serde::{Deserialize, Serialize};
use std::{str::FromStr, sync::Arc};

/// A workload as a proxy names itself to the policy controller: `{"ns":…,"pod":…}` (control-plane §5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Pod or external process.
    pub kind: WorkloadKind,
}

/// What kind of workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// A pod, by name.
    Pod(Arc<str>),
    /// An ExternalWorkload, by name.
    External(Arc<str>),
}

/// Why a text names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a workload: expected {{\"ns\":…,\"pod\":…}} or {{\"ns\":…,\"external_workload\":…}}")]
pub struct InvalidWorkload;

#[derive(Deserialize)]
struct Token {
    ns: Arc<str>,
    pod: Option<Arc<str>>,
    external_workload: Option<Arc<str>>,
}

impl FromStr for Workload {
    type Err = InvalidWorkload;

    fn from_str(text: &str) -> Result<Self, InvalidWorkload> {
        let text = text.trim();
        let (namespace, kind) = if text.starts_with('{') {
            let Token { ns, pod, external_workload } = serde_json::from_str(text).map_err(|_| InvalidWorkload)?;
            let kind = match (pod, external_workload) {
                (Some(pod), None) => WorkloadKind::Pod(pod),
                (None, Some(name)) => WorkloadKind::External(name),
                _ => return Err(InvalidWorkload),
            };
            (ns, kind)
        } else {
            // The form of proxies older than ExternalWorkloads.
            let (ns, pod) = text.split_once(':').ok_or(InvalidWorkload)?;
            (ns.into(), WorkloadKind::Pod(pod.into()))
        };
        let (WorkloadKind::Pod(name) | WorkloadKind::External(name)) = &kind;
        if namespace.is_empty() || name.is_empty() {
            return Err(InvalidWorkload);
        }
        Ok(Self { namespace, kind })
    }
}

/// What a proxy says of itself to the destination controller (control-plane §2.1); unknown parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default)]
pub struct Context {
    /// Namespace.
    pub ns: Arc<str>,
    /// The node's name: endpoints may be chosen by its zone.
    #[serde(rename = "nodeName")]
    pub node_name: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
}

impl Context {
    /// Parses a context token: JSON, or the old form `ns:<namespace>`. What can't be read is an empty context.
    pub fn parse(token: &str) -> Self {
        let token = token.trim();
        if let Ok(context) = serde_json::from_str(token) {
            return context;
        }
        let ns = token.strip_prefix("ns:").unwrap_or_default().into();
        Self { ns, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn workloads() {
        let web: Workload = "{\"ns\":\"shop\", \"pod\":\"web-1\"}\n".parse().unwrap();
        assert_eq!(web, "shop:web-1".parse().unwrap());
        assert!(matches!(
            "{\"ns\":\"a\",\"external_workload\":\"b\"}".parse::<Workload>().unwrap().kind,
            WorkloadKind::External(_)
        ));
        for bad in [
            "",
            "{}",
            "{\"ns\":\"a\"}",
            "{\"ns\":\"a\",\"pod\":\"\"}",
            "a",
            ":b",
            "{\"ns\":\"a\",\"pod\":\"b\",\"external_workload\":\"c\"}",
        ] {
            assert!(bad.parse::<Workload>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contexts() {
        assert_eq!(&*Context::parse("{\"ns\":\"a\",\"nodeName\":\"n\",\"pod\":\"p\"}\n").node_name, "n");
        assert_eq!(&*Context::parse("ns:old").ns, "old");
        assert_eq!(Context::parse("garbage"), Context::default());
    }
}
