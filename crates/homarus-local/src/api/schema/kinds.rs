//! The kinds that are served: built-in ones from one table, custom ones as their definitions come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Shape;
use super::custom::Custom;

/// A kind in one version, as clients name it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group, empty for the core one.
    pub group: String,
    /// Version.
    pub version: String,
    /// `Pod`.
    pub kind: String,
    /// `PodList`.
    pub list_kind: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`, for `kubectl get all`.
    pub categories: Vec<String>,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// `status` is written separately.
    pub status: bool,
    /// Where replicas are, when it can be scaled.
    pub scale: Option<Scale>,
    /// Only answered, never stored (reviews).
    pub review: bool,
    /// Whether `metadata.generation` counts changes of what is asked for.
    pub generation: bool,
    /// Where objects of this kind are kept; two versions or groups of one kind share it.
    pub bucket: Arc<str>,
    /// What it looks like.
    pub shape: Shape,
    /// What a custom resource's definition says besides.
    pub custom: Option<Arc<Custom>>,
}

/// The paths that the `scale` subresource reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// `.spec.replicas`
    pub spec: String,
    /// `.status.replicas`
    pub status: String,
    /// `.status.selector`, a text; built-in kinds compute it from `spec.selector`.
    pub selector: Option<String>,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        join_version(&self.group, &self.version)
    }

    /// `deployments.apps` or `pods`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// `v1` or `apps/v1`.
pub fn join_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `apps/v1` into group and version.
pub fn split_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Rules of a row of [`TABLE`].
const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const SCALE: u8 = 4;
const REVIEW: u8 = 8;
const GENERATION: u8 = 16;

type Row = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static str, u8);

/// Group, version, kind, plural, short names, type, rules.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", &["ns"], "core.v1.Namespace", STATUS),
    ("", "v1", "Node", "nodes", &["no"], "core.v1.Node", STATUS),
    ("", "v1", "Event", "events", &["ev"], "core.v1.Event", NAMESPACED),
    ("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], "core.v1.ServiceAccount", NAMESPACED),
    ("", "v1", "ConfigMap", "configmaps", &["cm"], "core.v1.ConfigMap", NAMESPACED),
    ("", "v1", "Secret", "secrets", &[], "core.v1.Secret", NAMESPACED),
    ("", "v1", "Service", "services", &["svc"], "core.v1.Service", NAMESPACED | STATUS),
    ("", "v1", "Endpoints", "endpoints", &["ep"], "core.v1.Endpoints", NAMESPACED),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], "core.v1.PersistentVolumeClaim", NAMESPACED | STATUS),
    ("", "v1", "Pod", "pods", &["po"], "core.v1.Pod", NAMESPACED | STATUS | GENERATION),
    ("apps", "v1", "Deployment", "deployments", &["deploy"], "apps.v1.Deployment", NAMESPACED | STATUS | SCALE | GENERATION),
    ("apps", "v1", "ReplicaSet", "replicasets", &["rs"], "apps.v1.ReplicaSet", NAMESPACED | STATUS | SCALE | GENERATION),
    ("apps", "v1", "StatefulSet", "statefulsets", &["sts"], "apps.v1.StatefulSet", NAMESPACED | STATUS | SCALE | GENERATION),
    ("apps", "v1", "DaemonSet", "daemonsets", &["ds"], "apps.v1.DaemonSet", NAMESPACED | STATUS | GENERATION),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", &[], "apps.v1.ControllerRevision", NAMESPACED),
    ("batch", "v1", "CronJob", "cronjobs", &["cj"], "batch.v1.CronJob", NAMESPACED | STATUS | GENERATION),
    ("batch", "v1", "Job", "jobs", &[], "batch.v1.Job", NAMESPACED | STATUS | GENERATION),
    ("events.k8s.io", "v1", "Event", "events", &["ev"], "events.v1.Event", NAMESPACED),
    ("coordination.k8s.io", "v1", "Lease", "leases", &[], "coordination.v1.Lease", NAMESPACED),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], "discovery.v1.EndpointSlice", NAMESPACED | GENERATION),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", &[], "rbac.v1.Role", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", &[], "rbac.v1.RoleBinding", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", &[], "rbac.v1.ClusterRole", 0),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", &[], "rbac.v1.ClusterRoleBinding", 0),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", &[],
        "admissionregistration.v1.MutatingWebhookConfiguration", GENERATION),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[],
        "admissionregistration.v1.ValidatingWebhookConfiguration", GENERATION),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"],
        "apiextensions.v1.CustomResourceDefinition", STATUS | GENERATION),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", &[], "authentication.v1.TokenReview", REVIEW),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", &[], "authentication.v1.SelfSubjectReview", REVIEW),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", &[],
        "authorization.v1.SubjectAccessReview", REVIEW),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[],
        "authorization.v1.SelfSubjectAccessReview", REVIEW),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", &[],
        "authorization.v1.LocalSubjectAccessReview", REVIEW | NAMESPACED),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[],
        "authorization.v1.SelfSubjectRulesReview", REVIEW),
];

/// What `kubectl get all` shows.
const ALL: &[&str] = &["pods", "services", "daemonsets", "deployments", "replicasets", "statefulsets", "cronjobs", "jobs"];
/// What `kubectl get api-extensions` shows.
const EXTENSIONS: &[&str] = &["mutatingwebhookconfigurations", "validatingwebhookconfigurations", "customresourcedefinitions"];

fn builtin(row: &Row) -> Kind {
    let &(group, version, kind, plural, short, shape, rules) = row;
    let bucket = if plural == "events" { "/events".into() } else { format!("{group}/{plural}") };
    let categories: &[&str] = match plural {
        p if ALL.contains(&p) => &["all"],
        p if EXTENSIONS.contains(&p) => &["api-extensions"],
        _ => &[],
    };
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: short.iter().map(|s| (*s).into()).collect(),
        categories: categories.iter().map(|s| (*s).into()).collect(),
        namespaced: rules & NAMESPACED != 0,
        status: rules & STATUS != 0,
        scale: (rules & SCALE != 0).then(|| Scale {
            spec: ".spec.replicas".into(),
            status: ".status.replicas".into(),
            selector: None,
        }),
        review: rules & REVIEW != 0,
        generation: rules & GENERATION != 0,
        bucket: bucket.into(),
        shape: Shape::Named(shape),
        custom: None,
    }
}

/// Every kind served now, by group, version and plural.
#[derive(Debug, Clone)]
pub struct Kinds {
    by_name: BTreeMap<(String, String, String), Arc<Kind>>,
    /// Versions of each group, the preferred one first.
    groups: Vec<(String, Vec<String>)>,
}

impl Default for Kinds {
    fn default() -> Self {
        Kinds::with_custom(std::iter::empty())
    }
}

impl Kinds {
    /// The built-in kinds and those of these definitions.
    pub fn with_custom<'a>(definitions: impl Iterator<Item = &'a Value>) -> Kinds {
        let mut kinds = Kinds { by_name: BTreeMap::new(), groups: Vec::new() };
        TABLE.iter().for_each(|row| kinds.add(builtin(row)));
        for definition in definitions {
            super::custom::kinds(definition).into_iter().for_each(|kind| kinds.add(kind));
        }
        kinds.groups.iter_mut().for_each(|(_, versions)| versions.sort_by_key(|v| version_rank(v)));
        kinds
    }

    fn add(&mut self, kind: Kind) {
        match self.groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version.clone()),
            None => self.groups.push((kind.group.clone(), vec![kind.version.clone()])),
        }
        let name = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        self.by_name.insert(name, Arc::new(kind));
    }

    /// The kind behind a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.by_name.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// The kind an object says it is.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let (group, version) = split_version(api_version);
        self.in_version(group, version).find(|k| k.kind == kind)
    }

    /// All kinds of one group and version.
    pub fn in_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = Arc<Kind>> + 'a {
        self.by_name.values().filter(move |k| k.group == group && k.version == version).cloned()
    }

    /// Groups with their versions, the preferred one first; the core group is the empty name.
    pub fn groups(&self) -> &[(String, Vec<String>)] {
        &self.groups
    }

    /// Every kind.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_name.values()
    }

    /// One kind per bucket: what walks over all stored objects.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        let mut seen = std::collections::BTreeSet::new();
        self.by_name.values().filter(move |k| !k.review && seen.insert(k.bucket.clone()))
    }
}

/// Sorts versions as Kubernetes does: stable before beta before alpha, newer first, others last by name.
fn version_rank(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>, String) {
    let other = (3, std::cmp::Reverse(0), std::cmp::Reverse(0), version.to_owned());
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..digits].parse() else { return other };
    let (stage, minor) = match &rest[digits..] {
        "" => (0, "0"),
        r if r.starts_with("beta") => (1, &r[4..]),
        r if r.starts_with("alpha") => (2, &r[5..]),
        _ => return other,
    };
    let Ok(minor) = minor.parse() else { return other };
    (stage, std::cmp::Reverse(major), std::cmp::Reverse(minor), String::new())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_sort_as_in_kubernetes() {
        let mut versions = vec!["foo1", "v1alpha1", "v1beta2", "v10", "v2", "v1beta3", "v1"];
        versions.sort_by_key(|v| version_rank(v));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta3", "v1beta2", "v1alpha1", "foo1"]);
    }

    #[test]
    fn both_event_groups_share_their_objects() {
        let kinds = Kinds::default();
        let core = kinds.find("", "v1", "events").unwrap();
        let new = kinds.of("events.k8s.io/v1", "Event").unwrap();
        assert_eq!(core.bucket, new.bucket);
        assert_eq!(kinds.stored().filter(|k| k.plural == "events").count(), 1);
    }
}
