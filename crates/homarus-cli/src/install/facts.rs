//! What a cluster says to an installation: what is there already, and what isn't yet.

use std::collections::BTreeSet;

use homarus_identity::anchors::TrustAnchors;
use homarus_identity::issuer::{Issuer, Validity};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DynamicObject, ListParams};
use kube::discovery;
use kube::error::DiscoveryError;
use kube::{Api, ResourceExt};
use serde_json::Value as Json;

use crate::chart::Values;
use crate::cluster::Cluster;
use crate::failure::Failure;

/// One of the Gateway API's custom resources stands for all.
const GATEWAY_CRD: &str = "httproutes.gateway.networking.k8s.io";
/// One of ours does too.
const OUR_CRD: &str = "servers.policy.linkerd.io";
/// Every injected pod says with it whose it is.
const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";

/// Whose the Gateway API's custom resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatewayApi {
    /// There are none.
    Absent,
    /// A service mesh of our kind installed them.
    Ours,
    /// Something else did.
    Foreign,
}

impl GatewayApi {
    /// Whether to install them, given what the user says. A cluster without them gets them: the mesh needs them.
    pub(super) fn installs(self, wanted: Option<bool>) -> Result<bool, Failure> {
        match (self, wanted) {
            (Self::Absent | Self::Ours, None | Some(true)) => Ok(true),
            (Self::Foreign, None | Some(false)) => Ok(false),
            (Self::Absent, Some(false)) => Err(Failure::new("The Gateway API CRDs must be installed prior to installing Linkerd")
                .remedy("Install them from https://gateway-api.sigs.k8s.io, or leave installGatewayAPI away.")),
            (Self::Ours, Some(false)) => {
                Err(Failure::new("Linkerd is providing GW API, but your current install configuration will remove it"))
            }
            (Self::Foreign, Some(true)) => Err(Failure::new(
                "Linkerd cannot install the Gateway API CRDs because they are already installed by an external source. Please set \
                 `installGatewayAPI` to `false`.",
            )),
        }
    }
}

/// Whose the Gateway API is here.
pub(super) async fn gateway_api(cluster: &Cluster) -> Result<GatewayApi, Failure> {
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    Ok(match crds.get_opt(GATEWAY_CRD).await? {
        None => GatewayApi::Absent,
        Some(crd) => match crd.annotations().get("linkerd.io/created-by") {
            Some(by) if by.contains("linkerd") => GatewayApi::Ours,
            _ => GatewayApi::Foreign,
        },
    })
}

/// Whether our custom resources are there.
pub(super) async fn has_crds(cluster: &Cluster, command: &str) -> Result<(), Failure> {
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    match crds.get_opt(OUR_CRD).await? {
        Some(_) => Ok(()),
        None => Err(Failure::new(format!("Linkerd CRDs must be installed first. Run linkerd {command} with the --crds flag."))
            .remedy(format!("homarus {command} --crds | kubectl apply -f -"))),
    }
}

/// Whether the control plane can be installed and isn't yet.
pub(super) async fn ready_for_the_control_plane(cluster: &Cluster) -> Result<(), Failure> {
    has_crds(cluster, "install").await?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    match maps.get_opt("linkerd-config").await? {
        None => Ok(()),
        Some(_) => Err(Failure::new(format!(
            "Can't install the Linkerd control plane in the '{}' namespace. Reason: ConfigMap/linkerd-config already exists.",
            cluster.control_plane_ns
        ))
        .remedy("If this is expected, use --ignore-cluster; to change what is there, run `homarus upgrade`.")),
    }
}

/// The ports of the API server, in front of its Service and behind: control-plane pods reach it past their proxies.
pub(super) async fn api_server_ports(cluster: &Cluster) -> Result<Option<String>, Failure> {
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let Some(spec) = services.get_opt("kubernetes").await?.and_then(|service| service.spec) else { return Ok(None) };
    let mut ports = BTreeSet::new();
    for port in spec.ports.into_iter().flatten() {
        ports.insert(port.port);
        if let Some(IntOrString::Int(target)) = port.target_port {
            ports.insert(target);
        }
    }
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    Ok((!ports.is_empty()).then(|| ports.join(",")))
}

/// Whether extensions or injected pods would be left without their control plane.
pub(super) async fn nothing_depends_on_us(cluster: &Cluster) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let extensions = namespaces.list(&ListParams::default().labels("linkerd.io/extension")).await?;
    let names: Vec<String> =
        extensions.iter().filter_map(|namespace| namespace.labels().get("linkerd.io/extension").cloned()).collect();
    if !names.is_empty() {
        let what = "Please uninstall the following extensions before uninstalling the control-plane:";
        return Err(Failure::new(format!("{what}\n\t* {}", names.join("\n\t* "))));
    }
    let pods: Vec<String> =
        injected(cluster).await?.iter().map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect();
    if !pods.is_empty() {
        let what = "Please uninject the following pods before uninstalling the control-plane:";
        return Err(
            Failure::new(format!("{what}\n\t* {}", pods.join("\n\t* "))).remedy("Or use --force: they keep running, unmanaged.")
        );
    }
    Ok(())
}

/// What the chart rendered of identity as long as the values held it.
const HANDED_OVER: [(&str, &str); 2] = [("ConfigMap", "linkerd-identity-trust-roots"), ("Secret", "linkerd-identity-issuer")];
/// `kubectl apply --prune` deletes only what it made itself, and knows that by this.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An installation that stops giving certificates hands anchors and issuer over to the identity controller. They have to outlast
/// that: without the anchors no running proxy would believe a new one.
pub(super) async fn nothing_is_pruned_that_the_mesh_stands_on(
    cluster: &Cluster,
    before: &Values,
    user: &Values,
) -> Result<(), Failure> {
    if is_managed(before) || !is_managed(user) {
        return Ok(());
    }
    let namespace = &cluster.control_plane_ns;
    let (maps, secrets): (Api<ConfigMap>, Api<Secret>) =
        (Api::namespaced(cluster.client.clone(), namespace), Api::namespaced(cluster.client.clone(), namespace));
    let [(_, roots), (_, issuer)] = HANDED_OVER;
    let found = [
        maps.get_metadata_opt(roots).await?.map(|object| object.metadata),
        secrets.get_metadata_opt(issuer).await?.map(|object| object.metadata),
    ];
    let applied = |metadata: &Option<ObjectMeta>| {
        metadata.as_ref().and_then(|it| it.annotations.as_ref()).is_some_and(|it| it.contains_key(LAST_APPLIED))
    };
    let names: Vec<String> =
        HANDED_OVER.iter().zip(&found).filter(|(_, it)| applied(it)).map(|((kind, name), _)| format!("{kind}/{name}")).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(" ").to_lowercase();
    Err(Failure::new(format!(
        "without certificates in the values, {names} of namespace {namespace} pass to the identity controller, but `kubectl apply --prune` \
         would delete them, and the mesh would fall apart"
    ))
    .remedy(format!("First take them out of its sight: kubectl -n {namespace} annotate {names} {LAST_APPLIED}-")))
}

/// Whether the mesh makes its own certificates with these values.
fn is_managed(values: &Values) -> bool {
    let values = Json::Object(values.clone());
    let said = |pointer: &str| values.pointer(pointer).and_then(Json::as_str).is_some_and(|text| !text.trim().is_empty());
    let external =
        values.pointer("/identity/issuer/scheme").and_then(Json::as_str).is_some_and(|scheme| scheme != "linkerd.io/tls")
            || values.pointer("/identity/externalCA").and_then(Json::as_bool) == Some(true);
    !external && !said("/identityTrustAnchorsPEM") && !said("/identity/issuer/tls/crtPEM")
}

/// Whether somebody has made a route of the Gateway API, in whichever version the cluster serves it.
pub(super) async fn gateway_api_is_used(cluster: &Cluster) -> Result<bool, Failure> {
    let group = match discovery::group(&cluster.client, "gateway.networking.k8s.io").await {
        Ok(group) => group,
        Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let routes = group.resources_by_stability().into_iter().map(|(resource, _)| resource);
    for resource in routes.filter(|resource| resource.kind.ends_with("Route")) {
        let routes: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource);
        match routes.list_metadata(&ListParams::default().limit(1)).await {
            Ok(list) if !list.items.is_empty() => return Ok(true),
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Where something else provides the issuer, it has to be there: identity would not start, nor anything after it. Its Secret tells
/// the roots as well, unless something provides those too.
pub(super) async fn external_issuer(cluster: &Cluster, user: &mut Values) -> Result<(), Failure> {
    let values = Json::Object(user.clone());
    if values.pointer("/identity/issuer/scheme").and_then(Json::as_str) != Some("kubernetes.io/tls") {
        return Ok(());
    }
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let remedy = "Let cert-manager (or whatever you use) make it first: type kubernetes.io/tls, with tls.crt, tls.key and ca.crt.";
    let missing = |what: &str| Failure::new(format!("Secret linkerd-identity-issuer {what}")).remedy(remedy);
    let secret = secrets.get_opt("linkerd-identity-issuer").await?.ok_or_else(|| {
        missing(&format!(
            "is not in namespace {}, but identity.issuer.scheme says that something provides it",
            cluster.control_plane_ns
        ))
    })?;
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    let (Some(certificate), Some(key)) = (text("tls.crt"), text("tls.key")) else {
        return Err(missing("lacks tls.crt or tls.key"));
    };
    let external_roots = values.pointer("/identity/externalCA").and_then(Json::as_bool) == Some(true);
    let given = values.pointer("/identityTrustAnchorsPEM").and_then(Json::as_str).filter(|pem| !pem.trim().is_empty());
    let anchors = match given {
        _ if external_roots => return Ok(()),
        Some(given) => given.to_owned(),
        None => text("ca.crt").ok_or_else(|| missing("lacks ca.crt, and identityTrustAnchorsPEM isn't given either"))?,
    };
    let now = std::time::SystemTime::now();
    let issuer = TrustAnchors::from_pem(&anchors).map_err(|error| error.to_string()).and_then(|anchors| {
        Issuer::from_pem(&certificate, &key, &anchors, Validity::default(), now).map_err(|error| error.to_string())
    });
    issuer.map_err(|error| missing(&format!("can't be used: {error}")))?;
    user.insert("identityTrustAnchorsPEM".to_owned(), anchors.into());
    Ok(())
}

/// Docker lets no ordinary user change a pod's network.
pub(super) async fn runtimes_fit(cluster: &Cluster, user: &Values) -> Result<(), Failure> {
    let as_root = user.get("proxyInit").and_then(|init| init["runAsRoot"].as_bool()) == Some(true);
    let plugin = user.get("cniEnabled").and_then(Json::as_bool) == Some(true);
    if as_root || plugin {
        return Ok(());
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let docker = |node: &Node| {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        info.is_some_and(|info| info.container_runtime_version.starts_with("docker:"))
    };
    match nodes.list(&ListParams::default()).await?.iter().find(|node| docker(node)) {
        None => Ok(()),
        Some(node) => {
            Err(Failure::new(format!("node {} runs containers with Docker, where redirection needs root", node.name_any()))
                .remedy("Add --set proxyInit.runAsRoot=true, or use the CNI plugin (--linkerd-cni-enabled)."))
        }
    }
}

/// Injected pods that are not the control plane's own.
async fn injected(cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    let all = pods.list(&ListParams::default().labels(CONTROL_PLANE_NS)).await?;
    let ours = |pod: &Pod| pod.labels().contains_key("linkerd.io/control-plane-component");
    Ok(all.into_iter().filter(|pod| !ours(pod)).collect())
}

/// Whether every proxy that runs trusts the issuer of the values.
pub(super) async fn trusted_by_all(cluster: &Cluster, values: &Values) -> Result<(), Failure> {
    let tls = |key: &str| {
        values.get("identity").and_then(|identity| identity.pointer(&format!("/issuer/tls/{key}"))).and_then(Json::as_str)
    };
    let (Some(certificate), Some(key)) = (tls("crtPEM"), tls("keyPEM")) else { return Ok(()) };
    let now = std::time::SystemTime::now();
    let trusts = |pem: &str| {
        TrustAnchors::from_pem(pem)
            .is_ok_and(|anchors| Issuer::from_pem(certificate, key, &anchors, Validity::default(), now).is_ok())
    };
    let pods = injected(cluster).await?;
    let doubting: Vec<String> = pods
        .iter()
        .filter(|pod| trusted_roots(pod).is_some_and(|pem| !trusts(&pem)))
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    if doubting.is_empty() {
        return Ok(());
    }
    let what =
        "You are attempting to use an issuer certificate which does not validate against the trust anchors of the following pods:";
    Err(Failure::new(format!("{what}\n\t* {}", doubting.join("\n\t* ")))
        .remedy("These pods do not have the current trust bundle and must be restarted. Use the --force flag to proceed anyway."))
}

/// The roots that a pod was injected with.
fn trusted_roots(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut env =
        containers.filter(|container| container.name == "linkerd-proxy").flat_map(|container| container.env.iter().flatten());
    env.find(|variable| variable.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS")?.value.clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_are_given_by_the_user_the_cluster_or_nobody() {
        let managed = |values: Json| is_managed(values.as_object().unwrap());
        assert!(managed(serde_json::json!({})));
        assert!(managed(
            serde_json::json!({ "identityTrustAnchorsPEM": "\n", "identity": { "issuer": { "scheme": "linkerd.io/tls" } } })
        ));
        assert!(!managed(serde_json::json!({ "identityTrustAnchorsPEM": "PEM" })));
        assert!(!managed(serde_json::json!({ "identity": { "issuer": { "scheme": "kubernetes.io/tls" } } })));
        assert!(!managed(serde_json::json!({ "identity": { "externalCA": true } })));
    }

    #[test]
    fn the_gateway_api_is_installed_where_nobody_else_did() {
        for (found, wanted, installs) in [
            (GatewayApi::Absent, None, Some(true)),
            (GatewayApi::Absent, Some(true), Some(true)),
            (GatewayApi::Absent, Some(false), None),
            (GatewayApi::Ours, None, Some(true)),
            (GatewayApi::Ours, Some(false), None),
            (GatewayApi::Foreign, None, Some(false)),
            (GatewayApi::Foreign, Some(false), Some(false)),
            (GatewayApi::Foreign, Some(true), None),
        ] {
            assert_eq!(found.installs(wanted).ok(), installs, "{found:?} {wanted:?}");
        }
    }
}
