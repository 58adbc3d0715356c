//! `diagnostics controller-metrics` and `proxy-metrics`: the pages as they are.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::command_line::Output;
use crate::failure::{Exit, Failure, Outcome};
use crate::metrics::Labels;
use crate::reach::{Admin, proxy_admin_port};
use crate::resources::{Kind, Target};
use crate::terminal;
use crate::workloads::{self, Workloads};

/// The labels that name someone or something.
const TELLING: [&str; 6] = ["authority", "client_id", "server_id", "target_addr", "dst_service", "dst_namespace"];

/// A page, or why there is none.
struct Page {
    pod: String,
    container: Option<String>,
    text: Result<String, String>,
}

/// Everything that the control plane counts.
pub(super) async fn controllers(cluster: &Cluster, wait: Duration, output: Output) -> Outcome {
    let deadline = Instant::now() + wait;
    let pods: Vec<Pod> = workloads::list(&cluster.client, Some(&cluster.control_plane_ns), None).await?;
    let pods: Vec<_> = pods.iter().filter(|pod| workloads::phase(pod) == "Running").collect();
    if pods.is_empty() {
        return Err(Failure::new(format!("no running pods in namespace {:?}", cluster.control_plane_ns))
            .remedy("`homarus check` tells what is wrong with the control plane."));
    }
    let asked = pods.iter().flat_map(|pod| admin_ports(pod).into_iter().map(move |port| (pod, port))).map(
        |(pod, (container, port))| async move {
            let mut admin = Admin::new(&cluster.client, pod, port);
            let text = match timeout_at(deadline, admin.page("/metrics")).await {
                Ok(page) => page.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            Page { pod: pod.name_any(), container: Some(container), text }
        },
    );
    write(&futures::future::join_all(asked).await, output)?;
    Ok(Exit::Ok)
}

/// The containers and ports of a pod's admin servers.
fn admin_ports(pod: &Pod) -> Vec<(String, u16)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten().map(move |port| (container, port)));
    let admin = ports.filter(|(_, port)| port.name.as_deref().is_some_and(|name| name.ends_with("-admin")));
    admin.filter_map(|(container, port)| Some((container.name.clone(), u16::try_from(port.container_port).ok()?))).collect()
}

/// Everything that the proxies of a workload count.
pub(super) async fn proxies(
    cluster: &Cluster,
    resource: &str,
    namespace: Option<&str>,
    obfuscate: bool,
    output: Output,
) -> Outcome {
    let target = Target::read(resource)?;
    if target.name.is_none() || target.kind == Kind::Service {
        return Err(Failure::usage(format!("{resource} names no workload")).remedy("Write TYPE/NAME, as in deploy/web."));
    }
    let namespace = cluster.namespace(namespace);
    let pods = Workloads::list(&cluster.client, Some(&namespace), None).await?;
    let meant = pods.0.iter().filter(|member| member.is_part_of(target.kind, target.name.as_deref()) && member.has_running_proxy());
    let asked = meant.filter_map(|member| Some((member, proxy_admin_port(&member.pod)?))).map(|(member, port)| async move {
        let page = Admin::new(&cluster.client, &member.pod, port).page("/metrics").await;
        let text = page.map(|text| if obfuscate { obfuscated(&text) } else { text });
        Page { pod: member.name.clone(), container: None, text: text.map_err(|error| error.to_string()) }
    });
    let pages = futures::future::join_all(asked).await;
    if pages.is_empty() {
        return Err(Failure::new(format!("no running proxies in {target} of namespace {namespace:?}"))
            .remedy("Is the name right, and is the workload in the mesh? `homarus stat --unmeshed` tells."));
    }
    write(&pages, output)?;
    Ok(Exit::Ok)
}

fn write(pages: &[Page], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        let pages: Vec<_> = pages
            .iter()
            .map(|page| json!({ "pod": page.pod, "container": page.container, "metrics": page.text.as_ref().ok(), "error": page.text.as_ref().err() }))
            .collect();
        return terminal::print(&format!("{}\n", serde_json::to_string_pretty(&pages).map_err(Failure::new)?));
    }
    let mut text = String::new();
    for (i, page) in pages.iter().enumerate() {
        text += &format!("#\n# POD {} ({} of {})\n", page.pod, i + 1, pages.len());
        if let Some(container) = &page.container {
            text += &format!("# CONTAINER {container} \n");
        }
        text += "#\n";
        match &page.text {
            Ok(metrics) => text += metrics,
            Err(error) => text += &format!("# ERROR {error}\n"),
        }
    }
    terminal::print(&text)
}

/// A page that can be shown to strangers: telling labels have the beginning of a hash instead of their value.
fn obfuscated(text: &str) -> String {
    let line = |line: &str| match line.split_once('{').filter(|_| !line.starts_with('#')) {
        Some((name, rest)) => match rest.rsplit_once('}') {
            Some((labels, value)) => format!("{name}{{{}}}{value}\n", hashed(labels)),
            None => format!("{line}\n"),
        },
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn hashed(labels: &str) -> String {
    let labels = Labels::read(labels);
    let pairs = labels.iter().map(|(name, value)| {
        let value = if TELLING.contains(&name) {
            Sha256::digest(value.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
        } else {
            value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
        };
        format!("{name}=\"{value}\"")
    });
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_and_figures_are_not() {
        let page = "# HELP x {y}\nx 1\nrequest_total{authority=\"web:80\",direction=\"out\\\"bound\"} 3\n";
        let hidden = obfuscated(page);
        assert!(hidden.starts_with("# HELP x {y}\nx 1\nrequest_total{authority=\""), "{hidden}");
        assert!(hidden.ends_with("\",direction=\"out\\\"bound\"} 3\n") && !hidden.contains("web"), "{hidden}");
        assert_eq!(hashed("authority=\"a\""), "authority=\"ca978112\"");
    }
}
