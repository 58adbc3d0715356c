//! The proxies of the controllers themselves: they can't come from the injector, which needs them (control-plane §1.2).

use super::{ManifestError, Options};
use crate::injection::{self, Mesh, Owner, Request, decision::Origin, values::Values, workload::Workload};
use serde_json::{Value, json};

/// What is special about one controller's proxy.
pub(super) struct Sidecar {
    name: &'static str,
    /// The controller's ports, as its proxy must know them.
    ports: &'static str,
    /// Whether it may be a native sidecar. Identity's starts after identity itself: it needs a certificate from it.
    may_be_native: bool,
    /// Where its own control plane is, if it is in the same pod.
    addresses: &'static [(&'static str, &'static str)],
    require_tls: &'static str,
    opaque_ports: &'static str,
}

pub(super) const IDENTITY: Sidecar = Sidecar {
    name: "linkerd-identity",
    ports: "8080,9990",
    may_be_native: false,
    addresses: &[("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "localhost.:8080")],
    require_tls: "8080",
    opaque_ports: "",
};

pub(super) const DESTINATION: Sidecar = Sidecar {
    name: "linkerd-destination",
    ports: "8086,8090,8443,9443,9990,9996,9997",
    may_be_native: true,
    addresses: &[("LINKERD2_PROXY_DESTINATION_SVC_ADDR", "localhost.:8086"), ("LINKERD2_PROXY_POLICY_SVC_ADDR", "localhost.:8090")],
    require_tls: "",
    opaque_ports: "",
};

pub(super) const INJECTOR: Sidecar = Sidecar {
    name: "linkerd-proxy-injector",
    ports: "8443,9995",
    may_be_native: true,
    addresses: &[],
    require_tls: "",
    opaque_ports: "8443",
};

const INJECT: &str = "linkerd.io/inject";
const DEFAULT_POLICY: &str = "all-unauthenticated";

/// Renders the proxy into a Deployment.
pub(super) fn add(options: &Options, values: &Values, sidecar: Sidecar, mut deployment: Value) -> Result<Value, ManifestError> {
    let values = own_values(values, &sidecar);
    let annotations = &mut deployment["spec"]["template"]["metadata"]["annotations"];
    annotations[INJECT] = "enabled".into();
    annotations["config.linkerd.io/default-inbound-policy"] = DEFAULT_POLICY.into();
    if !sidecar.opaque_ports.is_empty() {
        annotations["config.linkerd.io/opaque-ports"] = sidecar.opaque_ports.into();
    }
    let created_by = format!("homarus/{}", options.version);
    let mesh = Mesh { control_plane_ns: &options.namespace, values: &values, created_by: &created_by };
    let owner = Owner { kind: "deployment".into(), name: sidecar.name.into() };
    let request = Request {
        workload: Workload::new("Deployment", &deployment),
        namespace: &options.namespace,
        namespace_annotations: &Default::default(),
        owner: &owner,
        origin: Origin::Cli,
    };
    let outcome = injection::inject(&mesh, &request)?;
    outcome.patch.apply(&mut deployment).map_err(|_| ManifestError::Sidecar(sidecar.name))?;
    let template = &mut deployment["spec"]["template"];
    if let Some(annotations) = template["metadata"]["annotations"].as_object_mut() {
        annotations.remove(INJECT);
    }
    let proxy = proxy(&mut template["spec"]).ok_or(ManifestError::Sidecar(sidecar.name))?;
    for (name, value) in sidecar.addresses {
        set(proxy, name, json!({ "value": value }));
    }
    set(proxy, "LINKERD2_PROXY_INBOUND_PORTS", json!({ "value": sidecar.ports }));
    if !sidecar.require_tls.is_empty() {
        set(proxy, "LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_TLS", json!({ "value": sidecar.require_tls }));
    }
    let anchors = json!({ "configMapKeyRef": { "name": "linkerd-identity-trust-roots", "key": "ca-bundle.crt" } });
    set(proxy, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", json!({ "valueFrom": anchors }));
    Ok(deployment)
}

/// The values of a controller's own proxy.
fn own_values(values: &Values, sidecar: &Sidecar) -> Values {
    let mut values = values.clone();
    let proxy = &mut values.proxy;
    proxy.default_inbound_policy = DEFAULT_POLICY.into();
    proxy.capabilities = Some(json!({ "drop": ["ALL"] }));
    proxy.wait_before_exit_seconds = 0;
    proxy.outbound_discovery_cache_unused_timeout = "5s".into();
    proxy.inbound_discovery_cache_unused_timeout = "90s".into();
    proxy.native_sidecar &= sidecar.may_be_native;
    proxy.r#await &= sidecar.may_be_native;
    // The API server is asked directly: it must be reachable before there is a mesh.
    values.proxy_init.ignore_outbound_ports = "443,6443".into();
    values
}

fn proxy(spec: &mut Value) -> Option<&mut Value> {
    let in_list = |spec: &Value, list: &str| -> Option<usize> {
        spec[list].as_array()?.iter().position(|container| container["name"] == "linkerd-proxy")
    };
    let (list, at) = ["initContainers", "containers"].into_iter().find_map(|list| Some((list, in_list(spec, list)?)))?;
    spec[list].get_mut(at)
}

/// Sets a variable, in its place if it is there already.
fn set(container: &mut Value, name: &str, value: Value) {
    let mut variable = json!({ "name": name });
    if let (Some(variable), Value::Object(value)) = (variable.as_object_mut(), value) {
        variable.extend(value);
    }
    let Some(env) = container["env"].as_array_mut() else { return };
    match env.iter_mut().find(|v| v["name"] == name) {
        Some(there) => *there = variable,
        None => env.push(variable),
    }
}
