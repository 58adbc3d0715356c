//! What must hold before an installation.

use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::chart::{self, Capabilities, Chart, Release, Values};
use crate::failure::Failure;

/// How old the last sign of life of a node may look.
const ALLOWED_SKEW: Duration = Duration::from_secs(5 * 60 + 10);

pub(super) async fn namespace_is_free(facts: &Facts) -> Answer {
    let namespaces: Api<Namespace> = Api::all(facts.client()?);
    match namespaces.get_opt(&facts.control_plane_ns).await? {
        None => Ok(Pass::Yes),
        Some(_) => Err(Problem(format!("The {:?} namespace already exists", facts.control_plane_ns))),
    }
}

async fn allowed(facts: &Facts, verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Answer {
    let attributes = ResourceAttributes {
        verb: Some(verb.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        ..Default::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(facts.client()?);
    let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
    match status.allowed {
        true => Ok(Pass::Yes),
        false => Err(Problem(match status.reason.filter(|reason| !reason.is_empty()) {
            Some(reason) => format!("not authorized to access {resource}: {reason}"),
            None => format!("not authorized to {verb} {resource}"),
        })),
    }
}

pub(super) async fn can_create(facts: &Facts, group: &str, resource: &str) -> Answer {
    allowed(facts, "create", group, resource, Some(&facts.control_plane_ns), None).await
}

/// How many objects are tried at once.
const AT_ONCE: usize = 8;

/// Has everything that has no namespace made for show: the API server then says what it would say to the real thing.
pub(super) async fn can_create_cluster_wide(facts: &Facts) -> Answer {
    let client = facts.client()?;
    let objects = cluster_wide(&facts.control_plane_ns).map_err(Problem)?;
    let number = objects.len();
    let tried = stream::iter(objects).map(|object| try_to_create(client.clone(), object)).buffered(AT_ONCE);
    let refused: Vec<String> = tried.filter_map(std::future::ready).collect().await;
    match refused.is_empty() {
        true => Ok(Pass::As(format!("{number} objects, for show"))),
        false => unless_empty("the API server refuses to create:", &refused),
    }
}

/// Why an object can't be created; none if it can, or is there already.
async fn try_to_create(client: Client, object: DynamicObject) -> Option<String> {
    let types = object.types.clone().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types.clone()).ok()?);
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let for_show = PostParams { dry_run: true, field_manager: None };
    match api.create(&for_show, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if status.code == 409 => None,
        Err(error) => Some(format!("{} {}: {}", types.kind, object.name_any(), Failure::from(error))),
    }
}

/// What an installation has outside of namespaces, with everything at its default.
fn cluster_wide(control_plane_ns: &str) -> Result<Vec<DynamicObject>, String> {
    let mut objects = Vec::new();
    for name in [chart::Name::Crds, chart::Name::ControlPlane] {
        let chart = Chart::embedded(name).map_err(|error| error.to_string())?;
        let values = chart.accept(Values::new()).map_err(|error| error.to_string())?;
        let (release, service) = ("homarus".to_owned(), "CLI".to_owned());
        let release = Release { name: release, namespace: control_plane_ns.to_owned(), service, upgrades: false };
        let manifests = chart::render(&chart, &values, &release, &Capabilities::default()).map_err(|error| error.to_string())?;
        objects.extend(manifests.into_iter().map(|manifest| manifest.object));
    }
    let alone = objects.into_iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        CLUSTER_WIDE.contains(&kind)
    });
    alone.map(|object| serde_json::from_value(object).map_err(|error| error.to_string())).collect()
}

/// The kinds without a namespace that an installation has.
const CLUSTER_WIDE: [&str; 6] = [
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

pub(super) async fn can_read_secrets(facts: &Facts) -> Answer {
    allowed(facts, "get", "", "secrets", Some(&facts.control_plane_ns), None).await
}

pub(super) async fn can_read_authentication(facts: &Facts) -> Answer {
    allowed(facts, "get", "", "configmaps", Some("kube-system"), Some("extension-apiserver-authentication")).await
}

/// Nodes tell when they were last alive, by their own clocks.
pub(super) async fn clock_skew(facts: &Facts) -> Answer {
    let nodes: Api<Node> = Api::all(facts.client()?);
    let now = Timestamp::now();
    let skewed = nodes.list(&ListParams::default()).await?.items.into_iter().filter_map(|node| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
        let beat = ready.last_heartbeat_time.as_ref()?.0;
        let apart = now.duration_since(beat).unsigned_abs();
        (apart > ALLOWED_SKEW).then(|| node.name_any())
    });
    unless_empty("clock skew detected for node(s):", &skewed.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn everything_without_a_namespace_is_tried() {
        let objects = cluster_wide("mesh").unwrap();
        let has = |kind: &str, name: &str| objects.iter().any(|o| o.types.as_ref().unwrap().kind == kind && o.name_any() == name);
        assert!(has("Namespace", "mesh"));
        assert!(has("ClusterRole", "linkerd-mesh-identity"));
        assert!(has("CustomResourceDefinition", "servers.policy.linkerd.io"));
        assert!(has("MutatingWebhookConfiguration", "linkerd-proxy-injector-webhook-config"));
        assert!(objects.iter().all(|object| object.namespace().is_none()));
    }
}
