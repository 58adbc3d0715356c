//! What must hold before an installation.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};

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

pub(super) async fn can_create_cluster_wide(facts: &Facts) -> Answer {
    let kinds = [
        ("", "namespaces"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ];
    for (group, resource) in kinds {
        allowed(facts, "create", group, resource, None, None).await?;
    }
    Ok(Pass::Yes)
}

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
