//! `identity`: the certificates that proxies show.
//!
//! Taken from a handshake with the proxy itself, so that it is what its peers see. Nothing is verified: whoever looks wants
//! to see bad certificates too. `identity rotate` replaces what they stand on.

mod dump;
mod handshake;
mod rotate;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::cluster::Cluster;
use crate::command_line::{Identity, IdentityCommand, Output};
use crate::diagnostics::pod;
use crate::failure::{Exit, Failure, Outcome};
use crate::reach::{self, named_port, proxy_admin_port};
use crate::{terminal, workloads};

/// Asks and prints.
pub async fn run(cluster: &Cluster, args: &Identity) -> Outcome {
    if let Some(IdentityCommand::Rotate(args)) = &args.command {
        return rotate::run(cluster, args).await;
    }
    if args.pods.is_empty() && args.selector.is_none() {
        return Err(Failure::usage("Provide the pod name argument or use the selector flag"));
    }
    let namespace = cluster.namespace(args.namespace.as_deref());
    let mut pods: Vec<Pod> = Vec::new();
    for name in &args.pods {
        pods.push(pod(cluster, &namespace, name).await?);
    }
    if let Some(selector) = &args.selector {
        pods.extend(workloads::list::<Pod>(&cluster.client, Some(&namespace), Some(selector)).await?);
    }
    if pods.is_empty() {
        return Err(Failure::new(format!("no pods in namespace {namespace:?} match")).remedy("Check -n and --selector."));
    }
    let (mut text, mut objects, mut failed) = (String::new(), Vec::new(), false);
    for (i, pod) in pods.iter().enumerate() {
        text += &format!("\nPOD {} ({} of {})\n\n", pod.name_any(), i + 1, pods.len());
        match certificates(cluster, pod).await {
            Ok(chain) => {
                let leaves = chain.iter().filter_map(|der| dump::Dump::read(der)).filter(|dump| !dump.is_authority());
                let leaves: Vec<_> = leaves.collect();
                text.extend(leaves.iter().map(dump::Dump::text));
                let leaves: Vec<_> = leaves.iter().map(dump::Dump::json).collect();
                objects.push(json!({ "pod": pod.name_any(), "certificates": leaves }));
            }
            Err(failure) => {
                failed = true;
                let message = failure.to_string();
                objects.push(json!({ "pod": pod.name_any(), "error": message }));
                eprintln!("Error: {}: {message}", pod.name_any());
            }
        }
    }
    terminal::print(&match args.output {
        Output::Table => text,
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&objects).map_err(Failure::new)?),
    })?;
    Ok(if failed { Exit::Unwell } else { Exit::Ok })
}

/// What a pod's proxy shows, leaf first.
async fn certificates(cluster: &Cluster, pod: &Pod) -> Result<Vec<Vec<u8>>, Failure> {
    let unmeshed = || {
        Failure::new("Could not fetch Certificate. Ensure that the pod(s) are meshed by running `linkerd inject`")
            .remedy("`homarus inject` does the same; `homarus check --proxy` tells more.")
    };
    let admin = proxy_admin_port(pod).ok_or_else(unmeshed)?;
    let name = identity_name(pod, &cluster.control_plane_ns).ok_or_else(unmeshed)?;
    let namespace = pod.namespace().unwrap_or_default();
    let mut last = unmeshed();
    // The port for traffic shows the same certificate, should the admin server speak no TLS.
    for port in [Some(admin), named_port(pod, "linkerd-proxy")].into_iter().flatten() {
        let stream = reach::connect(&cluster.client, &namespace, &pod.name_any(), port).await.map_err(Failure::new)?;
        match handshake::shown(stream, &name).await {
            Ok(chain) if !chain.is_empty() => return Ok(chain),
            Ok(_) => {}
            Err(error) => last = Failure::new(format!("{}: {error}", unmeshed())),
        }
    }
    Err(last)
}

/// The name that a pod's certificate is for.
fn identity_name(pod: &Pod, control_plane_ns: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let proxy = containers.find(|container| container.name == "linkerd-proxy")?;
    let variable = |name: &str| proxy.env.as_ref()?.iter().find(|variable| variable.name == name)?.value.clone();
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let domain = variable("_l5d_trustdomain").unwrap_or_else(|| "cluster.local".to_owned());
    let own = variable("LINKERD2_PROXY_IDENTITY_LOCAL_NAME").filter(|name| !name.contains("$("));
    let namespace = pod.namespace().unwrap_or_default();
    Some(own.unwrap_or_else(|| format!("{account}.{namespace}.serviceaccount.identity.{control_plane_ns}.{domain}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_pods() {
        let pod = json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "serviceAccountName": "web", "containers": [],
            "initContainers": [{ "name": "linkerd-proxy", "env": [
                { "name": "_l5d_trustdomain", "value": "td" },
                { "name": "LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "value": "$(_pod_sa).x" }] }] } });
        let pod = serde_json::from_value(pod).unwrap();
        assert_eq!(identity_name(&pod, "linkerd").as_deref(), Some("web.ns.serviceaccount.identity.linkerd.td"));
        let plain = serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [] } })).unwrap();
        assert_eq!(identity_name(&plain, "linkerd"), None);
    }
}
