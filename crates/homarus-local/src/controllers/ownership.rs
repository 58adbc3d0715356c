//! Who owns whom: an object has at most one controller, which it names; an object without one may be adopted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

/// What to do about an object that a controller comes across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours.
    Ours,
    /// It has no controller and we want it.
    Adopt,
    /// It is ours by name, but we no longer want it.
    Release,
    /// It is no business of ours.
    Ignore,
}

/// Whether `selector` selects these labels. An empty selector selects nothing, and so does one that can't be read.
pub(super) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    match Selector::try_from(selector.clone()) {
        Ok(selector) => !selector.selects_all() && selector.matches(labels),
        Err(_) => false,
    }
}

/// The owner that acts for this object.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object of this uid acts for the one of `meta`.
pub(super) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// How `owner` is named in the objects that it controls.
pub(super) fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What `owner` with this `selector` does about an object.
pub(super) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let no_labels = BTreeMap::new();
    let wanted = selects(selector, object.labels.as_ref().unwrap_or(&no_labels));
    let owner_ends = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) == owner.uid.as_ref() => match wanted || owner_ends {
            true => Claim::Ours,
            false => Claim::Release,
        },
        Some(_) => Claim::Ignore,
        None if wanted && !owner_ends && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// The merge patch that makes `owner` the controller of `object`.
pub(super) fn adoption(owner: OwnerReference, object: &ObjectMeta) -> Value {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.push(owner);
    json!({ "metadata": { "ownerReferences": owners } })
}

/// The merge patch that makes the owner of this uid no owner of `object`.
pub(super) fn release(uid: &str, object: &ObjectMeta) -> Value {
    let left: Vec<_> = object.owner_references.iter().flatten().filter(|owner| owner.uid != uid).collect();
    json!({ "metadata": { "ownerReferences": if left.is_empty() { Value::Null } else { json!(left) } } })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::super::cluster::time;
    use super::*;

    fn meta(uid: &str, labels: &[(&str, &str)], controller: Option<&str>) -> ObjectMeta {
        let owner = |uid: &str| OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() };
        ObjectMeta {
            uid: Some(uid.into()),
            labels: Some(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
            owner_references: controller.map(|uid| vec![owner(uid)]),
            ..Default::default()
        }
    }

    fn app(value: &str) -> LabelSelector {
        LabelSelector { match_labels: Some([("app".to_owned(), value.to_owned())].into()), match_expressions: None }
    }

    #[test]
    fn claims_depend_on_selector_and_controller() {
        let owner = meta("me", &[], None);
        for (labels, controller, expected) in [
            ([("app", "web")], Some("me"), Claim::Ours),
            ([("app", "web")], None, Claim::Adopt),
            ([("app", "web")], Some("other"), Claim::Ignore),
            ([("app", "db")], Some("me"), Claim::Release),
            ([("app", "db")], None, Claim::Ignore),
            ([("app", "db")], Some("other"), Claim::Ignore),
        ] {
            assert_eq!(claim(&owner, &app("web"), &meta("it", &labels, controller)), expected, "{labels:?} {controller:?}");
        }
    }

    #[test]
    fn whoever_ends_adopts_nothing_and_nothing_that_ends_is_adopted() {
        let ending = Some(time(Timestamp::UNIX_EPOCH));
        let mut owner = meta("me", &[], None);
        let mut object = meta("it", &[("app", "web")], None);
        object.deletion_timestamp = ending.clone();
        assert_eq!(claim(&owner, &app("web"), &object), Claim::Ignore);
        owner.deletion_timestamp = ending;
        assert_eq!(claim(&owner, &app("web"), &meta("it", &[("app", "web")], None)), Claim::Ignore);
        assert_eq!(claim(&owner, &app("web"), &meta("it", &[("app", "db")], Some("me"))), Claim::Ours);
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!selects(&LabelSelector::default(), &BTreeMap::new()));
        assert!(!selects(&LabelSelector::default(), &[("app".to_owned(), "web".to_owned())].into()));
        assert!(selects(&app("web"), &[("app".to_owned(), "web".to_owned())].into()));
    }

    #[test]
    fn other_owners_stay() {
        let mut object = meta("it", &[], Some("other"));
        let adopted = adoption(OwnerReference { uid: "me".into(), ..Default::default() }, &object);
        assert_eq!(adopted["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(2));
        assert_eq!(release("other", &object)["metadata"]["ownerReferences"], Value::Null);
        object.owner_references.iter_mut().flatten().for_each(|owner| owner.controller = None);
        assert_eq!(release("me", &object)["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    }
}
