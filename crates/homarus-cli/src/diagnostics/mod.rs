//! `diagnostics`: what controllers and proxies say of themselves, unabridged.

mod endpoints;
mod pages;
mod policy;
mod profile;
mod protobuf;

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster::Cluster;
use crate::command_line::Diagnostics;
use crate::failure::{Failure, Outcome, causes};
use crate::{reach, workloads};

/// How long an answer of a controller may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks and prints.
pub async fn run(cluster: &Cluster, command: &Diagnostics) -> Outcome {
    match command {
        Diagnostics::ControllerMetrics { wait, output } => pages::controllers(cluster, *wait, *output).await,
        Diagnostics::ProxyMetrics { resource, namespace, obfuscate, output } => {
            pages::proxies(cluster, resource, namespace.as_deref(), *obfuscate, *output).await
        }
        Diagnostics::Endpoints { authorities, destination_pod, token, wait, output } => {
            let channel = controller(cluster, destination_pod.as_deref(), 8086).await?;
            endpoints::run(channel, authorities, token, *wait, *output).await
        }
        Diagnostics::Profile { address, destination_pod, token } => {
            let channel = controller(cluster, destination_pod.as_deref(), 8086).await?;
            profile::run(channel, address, token).await
        }
        Diagnostics::Policy { resource, port, namespace, destination_pod, token, output } => {
            let target = policy::Target::read(resource)?;
            let channel = controller(cluster, destination_pod.as_deref(), 8090).await?;
            policy::run(channel, &target, namespace, *port, token, *output).await
        }
    }
}

/// A connection to a port of the destination and policy controllers.
async fn controller(cluster: &Cluster, pod: Option<&str>, port: u16) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_static("http://controller.invalid");
    if let Some(address) = &cluster.api_addr {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| Failure::usage(causes(&error)))?;
        return endpoint.connect().await.map_err(|error| Failure::new(format!("cannot reach {address}: {}", causes(&error))));
    }
    let pod = match pod {
        Some(name) => name.to_owned(),
        None => a_running_pod(cluster, "destination").await?,
    };
    let (client, namespace) = (cluster.client.clone(), cluster.control_plane_ns.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (client, namespace, pod) = (client.clone(), namespace.clone(), pod.clone());
        async move { reach::connect(&client, &namespace, &pod, port).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| Failure::new(causes(&error)))
}

/// The name of a running pod of a component.
async fn a_running_pod(cluster: &Cluster, component: &str) -> Result<String, Failure> {
    let selector = format!("linkerd.io/control-plane-component={component}");
    let pods: Vec<Pod> = workloads::list(&cluster.client, Some(&cluster.control_plane_ns), Some(&selector)).await?;
    let running = pods.iter().find(|pod| workloads::phase(pod) == "Running");
    running.map(ResourceExt::name_any).ok_or_else(|| {
        Failure::new(format!("no running pod of linkerd-{component} in namespace {:?}", cluster.control_plane_ns))
            .remedy("`homarus check` tells what is wrong with the control plane.")
    })
}

/// A pod by its name.
pub(crate) async fn pod(cluster: &Cluster, namespace: &str, name: &str) -> Result<Pod, Failure> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    Ok(pods.get(name).await?)
}
