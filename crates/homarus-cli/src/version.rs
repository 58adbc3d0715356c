//! `version`: of this program, the control plane, and the proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use serde_json::json;

use crate::cluster::Cluster;
use crate::command_line::{Globals, Output, Version};
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;
use crate::workloads::{self, CONTROL_PLANE_NS_LABEL};

/// How long the server may take to tell.
const BUDGET: Duration = Duration::from_secs(5);
const UNAVAILABLE: &str = "unavailable";

/// The version of this program.
pub fn ours() -> String {
    match std::env::var("LINKERD_CONTAINER_VERSION_OVERRIDE") {
        Ok(version) if !version.is_empty() => version,
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Prints the versions.
pub async fn run(globals: &Globals, args: &Version) -> Outcome {
    let (mut server, mut proxies) = (None, None);
    if !args.client {
        let cluster = Cluster::connect(globals).await?;
        server = tokio::time::timeout(BUDGET, of_control_plane(&cluster)).await.ok().and_then(Result::ok);
        if args.proxy {
            let listed = tokio::time::timeout(BUDGET, of_proxies(&cluster, args.namespace.as_deref())).await;
            proxies = listed.ok().and_then(Result::ok).filter(|versions| !versions.is_empty());
        }
    }
    let server = server.unwrap_or_else(|| UNAVAILABLE.to_owned());
    terminal::print(&match args.output {
        Output::Json => json(args, &server, proxies.as_ref())?,
        Output::Table => text(args, &server, proxies.as_ref()),
    })?;
    Ok(Exit::Ok)
}

/// What the stored values say.
pub async fn of_control_plane(cluster: &Cluster) -> Result<String, Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let config = maps.get("linkerd-config").await?;
    let values = config.data.as_ref().and_then(|data| data.get("values")).map(String::as_str).unwrap_or_default();
    linkerd_version(values).ok_or_else(|| Failure::new("ConfigMap linkerd-config tells no linkerdVersion"))
}

fn linkerd_version(values: &str) -> Option<String> {
    let values: serde_yaml_ng::Value = serde_yaml_ng::from_str(values).ok()?;
    Some(values.get("linkerdVersion")?.as_str()?.to_owned())
}

type Proxies = BTreeMap<String, usize>;

async fn of_proxies(cluster: &Cluster, namespace: Option<&str>) -> Result<Proxies, Failure> {
    let selector = format!("{CONTROL_PLANE_NS_LABEL}={}", cluster.control_plane_ns);
    let pods = workloads::list::<Pod>(&cluster.client, namespace, Some(&selector)).await?;
    let mut versions = Proxies::new();
    for version in pods.iter().filter_map(proxy_version) {
        *versions.entry(version).or_default() += 1;
    }
    Ok(versions)
}

/// The version of a pod's proxy: the tag of its image; empty if that is pinned by a digest.
pub fn proxy_version(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let image = containers.find(|container| container.name == "linkerd-proxy")?.image.as_deref()?;
    Some(tag(image).to_owned())
}

fn tag(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains('@') { "" } else { last.split_once(':').map_or("", |(_, tag)| tag) }
}

fn text(args: &Version, server: &str, proxies: Option<&Proxies>) -> String {
    let label = |label: &str, value: &str| if args.short { format!("{value}\n") } else { format!("{label}: {value}\n") };
    let mut text = label("Client version", &ours());
    if args.client {
        return text;
    }
    text.push_str(&label("Server version", server));
    match (args.proxy, proxies) {
        (false, _) => {}
        (true, None) => text.push_str(&label("Proxy versions", UNAVAILABLE)),
        (true, Some(versions)) => {
            text.push_str("Proxy versions:\n");
            text.extend(versions.iter().map(|(version, pods)| format!("\t{version} ({pods} pods)\n")));
        }
    }
    text
}

fn json(args: &Version, server: &str, proxies: Option<&Proxies>) -> Result<String, Failure> {
    let mut answer = json!({ "client": ours() });
    if !args.client {
        answer["server"] = server.into();
    }
    if args.proxy {
        answer["proxies"] = json!(proxies);
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(&answer).map_err(Failure::new)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Version = Version { short: false, client: false, proxy: true, namespace: None, output: Output::Table };

    #[test]
    fn texts() {
        let proxies = Proxies::from([("edge-1".to_owned(), 2), ("edge-2".to_owned(), 1)]);
        let ours = ours();
        let long = format!("Client version: {ours}\nServer version: s\nProxy versions:\n\tedge-1 (2 pods)\n\tedge-2 (1 pods)\n");
        assert_eq!(text(&ALL, "s", Some(&proxies)), long);
        let short = Version { short: true, proxy: false, ..ALL };
        assert_eq!(text(&short, UNAVAILABLE, None), format!("{ours}\nunavailable\n"));
        assert!(text(&ALL, "s", None).ends_with("Proxy versions: unavailable\n"));
        assert_eq!(text(&Version { client: true, ..ALL }, "s", None), format!("Client version: {ours}\n"));
    }

    #[test]
    fn versions_where_they_are_written() {
        assert_eq!(linkerd_version("linkerdVersion: edge-26.8.1\nx: 1"), Some("edge-26.8.1".to_owned()));
        assert_eq!(linkerd_version("x: 1"), None);
        for (image, wanted) in [("cr.l5d.io/linkerd/proxy:v1", "v1"), ("host:5000/proxy", ""), ("a/proxy@sha256:1", "")] {
            assert_eq!(tag(image), wanted, "{image}");
        }
    }
}
