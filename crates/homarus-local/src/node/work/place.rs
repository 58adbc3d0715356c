//! Making a pod's place: namespaces, network, volumes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;

use super::volumes::{Sources, Volumes};
use super::{Context, order};
use crate::node::net::Attachment;
use crate::node::sandbox::Sandbox;
use crate::node::sandbox::wire::SandboxSpec;

/// A pod's place.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) sandbox: Arc<Sandbox>,
    /// None for a pod on the machine's own network.
    pub(crate) attachment: Option<Attachment>,
    pub(crate) volumes: Arc<Mutex<Volumes>>,
}

/// Others may still hold the sandbox to wait for its processes; they go with the place.
impl Drop for Place {
    fn drop(&mut self) {
        self.sandbox.kill();
    }
}

/// Makes it; an error is an Event's reason and message.
pub(crate) async fn make(context: &Context, pod: &Pod) -> Result<Place, (&'static str, String)> {
    let failed = |e: &dyn std::fmt::Display| ("FailedCreatePodSandBox", e.to_string());
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    // Ports below 1024 and ping are nobody's privilege in a network of one's own.
    let mut sysctls: Vec<(String, String)> = Vec::new();
    if !host_network {
        sysctls.push(("net.ipv4.ip_unprivileged_port_start".into(), "0".into()));
        sysctls.push(("net.ipv4.ping_group_range".into(), "0 2147483647".into()));
        let asked = spec.security_context.as_ref().and_then(|s| s.sysctls.clone());
        let namespaced = |name: &str| name.starts_with("net.");
        sysctls.extend(asked.into_iter().flatten().filter(|s| namespaced(&s.name)).map(|s| (s.name, s.value)));
    }
    let sandbox_spec =
        SandboxSpec { hostname: order::hostname(pod), host_network, memory_limit: context.config.pod_memory.clone(), sysctls };
    let sandbox = Sandbox::create(&context.spawner, &sandbox_spec).await.map_err(|e| failed(&e))?;
    let attachment = if host_network {
        None
    } else {
        let (network, net) = (context.network.clone(), sandbox.net().clone());
        let attached = tokio::task::spawn_blocking(move || network.attach(&net)).await;
        Some(attached.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?)
    };
    let root = sandbox.root();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let path = root.join("ends").join(&container.name);
        fs::write(&path, "").map_err(|e| failed(&e))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(|e| failed(&e))?;
    }
    let mut volumes = Volumes::default();
    let around = context.around(attachment.as_ref().map(|a| a.address));
    let sources =
        Sources { client: &context.client, objects: &context.objects, pod, around: &around, state: &context.config.state };
    volumes.fill(sources, &root).await.map_err(|e| ("FailedMount", e))?;
    Ok(Place { sandbox: Arc::new(sandbox), attachment, volumes: Arc::new(Mutex::new(volumes)) })
}
