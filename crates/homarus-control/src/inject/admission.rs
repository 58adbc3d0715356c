//! AdmissionReview, `admission.k8s.io/v1` and `v1beta1`: the same but for their names.

use std::collections::BTreeMap;

use base64::Engine;
use homarus_kube::injection::patch::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

/// The largest review that is read.
pub(super) const MAX_REVIEW_BYTES: usize = 10 * 1024 * 1024;

/// A body that is no review: HTTP 400.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReview {
    #[error("the body is no AdmissionReview: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the AdmissionReview has no request.uid")]
    NoUid,
}

/// What an API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    pub(super) request: Question,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Question {
    uid: String,
    kind: Kind,
    pub(super) namespace: String,
    pub(super) dry_run: Option<bool>,
    pub(super) object: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kind {
    group: String,
    kind: String,
}

/// The verdict on an object.
#[derive(Debug)]
pub(super) enum Verdict {
    Allowed(Patch),
    Denied(String),
}

impl Review {
    pub(super) fn parse(body: &[u8]) -> Result<Self, BadReview> {
        let review: Self = serde_json::from_slice(body)?;
        if review.request.uid.is_empty() {
            return Err(BadReview::NoUid);
        }
        Ok(review)
    }

    /// The answer, in the version in which was asked.
    pub(super) fn answer(&self, verdict: &Verdict) -> Value {
        let mut response = match verdict {
            Verdict::Allowed(_) => json!({ "uid": self.request.uid, "allowed": true }),
            Verdict::Denied(reason) => json!({
                "uid": self.request.uid,
                "allowed": false,
                "status": { "message": reason },
            }),
        };
        if let Verdict::Allowed(patch) = verdict
            && !patch.is_empty()
        {
            let patch = serde_json::to_vec(patch).unwrap_or_default();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = base64::engine::general_purpose::STANDARD.encode(patch).into();
        }
        json!({ "apiVersion": self.api_version, "kind": self.kind, "response": response })
    }
}

impl Question {
    /// The kind of the object, if it is one that the mesh looks at.
    pub(super) fn kind(&self) -> Option<&str> {
        let Kind { group, kind } = &self.kind;
        (group.is_empty() && matches!(kind.as_str(), "Pod" | "Service")).then_some(kind)
    }

    /// The object's owners as (kind, name, uid).
    pub(super) fn owners(&self) -> Vec<OwnerReference> {
        let list = self.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        list.filter_map(|owner| serde_json::from_value(owner.clone()).ok()).collect()
    }

    pub(super) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(super) fn object_annotations(&self) -> BTreeMap<String, String> {
        let map = self.object["metadata"]["annotations"].as_object().into_iter().flatten();
        map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    }
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(super) struct OwnerReference {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}
