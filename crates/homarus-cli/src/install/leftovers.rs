//! What a cluster has of the mesh: every object with the label of its control plane.

use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{ApiResource, Discovery, Scope};
use serde_json::{Value as Json, json};

use crate::cluster::Cluster;
use crate::failure::Failure;

/// Why somebody asks: it says which kinds matter, in which order they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// What an upgrade may have left.
    Prune,
    /// What isn't gone with its namespace.
    Uninstall,
}

impl Of {
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Uninstall => &[
                "ClusterRole",
                "ClusterRoleBinding",
                "Role",
                "RoleBinding",
                "CustomResourceDefinition",
                "APIService",
                "MutatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
                "Namespace",
            ],
            Self::Prune => &[
                "ConfigMap",
                "CronJob",
                "DaemonSet",
                "Deployment",
                "Job",
                "MeshTLSAuthentication",
                "NetworkAuthentication",
                "ReplicationController",
                "Secret",
                "Service",
                "ServiceProfile",
                "StatefulSet",
                "Role",
                "RoleBinding",
                "ServiceAccount",
                "PodDisruptionBudget",
                "Server",
                "ServerAuthorization",
                "AuthorizationPolicy",
                "Link",
                "HTTPRoute",
                "ClusterRole",
                "ClusterRoleBinding",
                "APIService",
                "MutatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
                "CustomResourceDefinition",
            ],
        }
    }
}

/// All of it, each with nothing but what names it.
pub(super) async fn all(cluster: &Cluster, of: Of) -> Result<Vec<Json>, Failure> {
    let discovery = Discovery::new(cluster.client.clone()).run().await?;
    let known: Vec<ApiResource> = discovery
        .groups()
        .flat_map(|group| group.recommended_resources())
        .filter(|(_, capabilities)| matches!(capabilities.scope, Scope::Cluster | Scope::Namespaced))
        .map(|(resource, _)| resource)
        .collect();
    let mut found = Vec::new();
    for kind in of.kinds() {
        for resource in known.iter().filter(|resource| resource.kind == *kind) {
            found.extend(labelled(cluster, resource).await?);
        }
    }
    Ok(found)
}

async fn labelled(cluster: &Cluster, resource: &ApiResource) -> Result<Vec<Json>, Failure> {
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), resource);
    let list = match api.list(&ListParams::default().labels("linkerd.io/control-plane-ns")).await {
        Ok(list) => list,
        // A kind that is announced, but can't be listed, holds nothing of ours.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(list.items.iter().map(|object| named(resource, object)).collect())
}

fn named(resource: &ApiResource, object: &DynamicObject) -> Json {
    let mut metadata = json!({ "name": object.metadata.name });
    if let (Some(namespace), Some(fields)) = (&object.metadata.namespace, metadata.as_object_mut()) {
        fields.insert("namespace".to_owned(), namespace.clone().into());
    }
    json!({ "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata })
}

/// What controllers make while they run, and no chart renders: certificates, keys and what trusts them.
const MADE_AT_RUN_TIME: [(&str, &str); 6] = [
    ("Secret", "linkerd-identity-root"),
    ("Secret", "linkerd-identity-issuer"),
    ("ConfigMap", "linkerd-identity-trust-roots"),
    ("Secret", "linkerd-proxy-injector-k8s-tls"),
    ("Secret", "linkerd-sp-validator-k8s-tls"),
    ("Secret", "linkerd-policy-validator-k8s-tls"),
];

/// Whether an object is one that controllers make; without it they would begin anew, and nobody would trust anybody.
pub(super) fn made_at_run_time(object: &Json) -> bool {
    MADE_AT_RUN_TIME.iter().any(|(kind, name)| object["kind"] == *kind && object["metadata"]["name"] == *name)
}

/// Whether an object is a custom resource of the Gateway API.
pub(super) fn is_of_gateway_api(object: &Json) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    object["kind"] == "CustomResourceDefinition" && name.ends_with(".gateway.networking.k8s.io")
}

/// Whether two objects are one: group, kind, name and namespace; versions of a group are views of the same.
pub(super) fn same(left: &Json, right: &Json) -> bool {
    let group = |object: &Json| {
        object["apiVersion"].as_str().and_then(|version| version.split_once('/')).map(|(group, _)| group.to_owned())
    };
    group(left) == group(right)
        && left["kind"] == right["kind"]
        && left["metadata"]["name"] == right["metadata"]["name"]
        && left["metadata"]["namespace"] == right["metadata"]["namespace"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controllers_made_and_what_others_own_is_known() {
        let object = |kind: &str, name: &str| json!({ "kind": kind, "metadata": { "name": name, "namespace": "linkerd" } });
        assert!(made_at_run_time(&object("Secret", "linkerd-identity-root")));
        assert!(!made_at_run_time(&object("ConfigMap", "linkerd-identity-root")));
        assert!(!made_at_run_time(&object("Secret", "linkerd-config-overrides")));
        assert!(is_of_gateway_api(&object("CustomResourceDefinition", "httproutes.gateway.networking.k8s.io")));
        assert!(!is_of_gateway_api(&object("CustomResourceDefinition", "httproutes.policy.linkerd.io")));
    }

    #[test]
    fn objects_are_told_apart_by_group_kind_name_and_namespace() {
        let object = |version: &str, name: &str, namespace: Option<&str>| json!({ "apiVersion": version, "kind": "K", "metadata": { "name": name, "namespace": namespace } });
        assert!(same(&object("g/v1", "a", Some("n")), &object("g/v2", "a", Some("n"))));
        assert!(same(&object("v1", "a", None), &object("v1", "a", None)));
        for other in [
            object("h/v1", "a", Some("n")),
            object("v1", "a", Some("n")),
            object("g/v1", "b", Some("n")),
            object("g/v1", "a", None),
        ] {
            assert!(!same(&object("g/v1", "a", Some("n")), &other));
        }
    }
}
