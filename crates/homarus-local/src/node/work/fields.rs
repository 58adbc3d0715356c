//! What a pod can be told about itself: fields of its object and resources of its containers (the downward API).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// Facts of the node that pods can ask for.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) pod_ip: Option<Ipv4Addr>,
    pub(crate) cpus: f64,
    pub(crate) memory: f64,
}

/// The value of a field path; an error names what can't be had.
pub(crate) fn field(pod: &Pod, around: &Surroundings, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let pod_ip = || around.pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field path {path:?} is not supported")),
        };
        let value = map.as_ref().and_then(|m| m.get(key)).cloned();
        return Ok(value.unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => around.host_ip.to_string(),
        "status.podIP" | "status.podIPs" => pod_ip(),
        _ => return Err(format!("field path {path:?} is not supported")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    Some((map, key.trim_matches(['\'', '"'])))
}

/// All entries of a map, one a line, as files of the downward API have them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A resource of a container, in units of the divisor, rounded up.
pub(crate) fn resource(
    pod: &Pod,
    around: &Surroundings,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = match named {
        Some(name) => all.find(|c| c.name == name).ok_or_else(|| format!("no container {name:?}"))?,
        None => own.ok_or("a container's name is needed")?,
    };
    let resources = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
    let (kind, name) =
        selector.resource.split_once('.').ok_or_else(|| format!("resource {:?} is not supported", selector.resource))?;
    let declared = match kind {
        "limits" => limits.get(name),
        "requests" => requests.get(name).or_else(|| limits.get(name)),
        _ => None,
    };
    // A limit that isn't set is all the node has; a request that isn't set is none.
    let whole = match (kind, name) {
        ("limits", "cpu") => around.cpus,
        ("limits", "memory") => around.memory,
        ("limits" | "requests", _) => 0.0,
        _ => return Err(format!("resource {:?} is not supported", selector.resource)),
    };
    let amount = match declared {
        Some(declared) => quantity(&declared.0).ok_or_else(|| format!("bad quantity {:?}", declared.0))?,
        None => whole,
    };
    let divisor = selector.divisor.as_ref().and_then(|d| quantity(&d.0)).filter(|d| *d > 0.0);
    Ok(format!("{:.0}", (amount / divisor.unwrap_or(1.0)).ceil()))
}

/// A quantity such as `100m`, `1.5` or `64Mi`.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("", 1.0),
    ];
    let (suffix, factor) = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix))?;
    let number: f64 = text.strip_suffix(suffix)?.parse().ok()?;
    number.is_finite().then_some(number * factor)
}
