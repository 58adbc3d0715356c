//! AdmissionReview, `admission.k8s.io/v1` and `v1beta1`: the same but for their names.

use std::collections::BTreeMap;

use base64::Engine;
use homarus_kube::injection::patch::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

/// The largest review that is read.
pub(crate) const MAX_REVIEW_BYTES: usize = 10 * 1024 * 1024;

/// A body that is no review: HTTP 400.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadReview {
    #[error("the body is no AdmissionReview: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the AdmissionReview has no request.uid")]
    NoUid,
}

/// What an API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    pub(crate) request: Question,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Question {
    uid: String,
    kind: Kind,
    name: String,
    pub(crate) namespace: String,
    pub(crate) dry_run: Option<bool>,
    pub(crate) object: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kind {
    group: String,
    kind: String,
}

/// The verdict on an object.
#[derive(Debug)]
pub(crate) enum Verdict {
    Allowed(Patch),
    /// Allowed, and whoever asked is told something.
    Warned(Vec<String>),
    Denied(String),
}

/// The most warnings of an answer, and the most bytes of each: what API servers pass on without cutting it.
const MAX_WARNINGS: usize = 8;
const MAX_WARNING_BYTES: usize = 256;

impl Review {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BadReview> {
        let review: Self = serde_json::from_slice(body)?;
        if review.request.uid.is_empty() {
            return Err(BadReview::NoUid);
        }
        Ok(review)
    }

    /// The answer, in the version in which was asked.
    pub(crate) fn answer(&self, verdict: &Verdict) -> Value {
        let mut response = match verdict {
            Verdict::Allowed(_) | Verdict::Warned(_) => json!({ "uid": self.request.uid, "allowed": true }),
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
        if let Verdict::Warned(warnings) = verdict
            && !warnings.is_empty()
        {
            let short = |text: &String| text.chars().take(MAX_WARNING_BYTES / 4).collect::<String>();
            let fits = |text: &String| if text.len() > MAX_WARNING_BYTES { short(text) } else { text.clone() };
            response["warnings"] = warnings.iter().take(MAX_WARNINGS).map(fits).collect();
        }
        json!({ "apiVersion": self.api_version, "kind": self.kind, "response": response })
    }
}

impl Question {
    /// The group and the kind of the object.
    pub(crate) fn kind(&self) -> (&str, &str) {
        (&self.kind.group, &self.kind.kind)
    }

    /// The object's owners as (kind, name, uid).
    pub(crate) fn owners(&self) -> Vec<OwnerReference> {
        let list = self.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        list.filter_map(|owner| serde_json::from_value(owner.clone()).ok()).collect()
    }

    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or(&self.name)
    }

    pub(crate) fn object_annotations(&self) -> BTreeMap<String, String> {
        let map = self.object["metadata"]["annotations"].as_object().into_iter().flatten();
        map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    }
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(crate) struct OwnerReference {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}
