//! A ServiceProfile as it is written, strictly: a field that nobody knows is a mistake of whoever wrote it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Profile {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    pub(super) spec: Option<Spec>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) routes: Option<Vec<Option<Route>>>,
    pub(super) retry_budget: Option<RetryBudget>,
    #[serde(rename = "dstOverrides")]
    _dst_overrides: Option<Vec<Option<Override>>>,
    pub(super) opaque_ports: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Route {
    pub(super) name: Option<String>,
    pub(super) condition: Option<RequestMatch>,
    pub(super) response_classes: Option<Vec<Option<ResponseClass>>>,
    #[serde(rename = "isRetryable")]
    _is_retryable: Option<bool>,
    pub(super) timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RequestMatch {
    pub(super) all: Option<Vec<Option<RequestMatch>>>,
    pub(super) any: Option<Vec<Option<RequestMatch>>>,
    pub(super) not: Option<Box<RequestMatch>>,
    pub(super) path_regex: Option<String>,
    pub(super) method: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ResponseClass {
    pub(super) condition: Option<ResponseMatch>,
    #[serde(rename = "isFailure")]
    _is_failure: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ResponseMatch {
    pub(super) all: Option<Vec<Option<ResponseMatch>>>,
    pub(super) any: Option<Vec<Option<ResponseMatch>>>,
    pub(super) not: Option<Box<ResponseMatch>>,
    pub(super) status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) min: Option<u32>,
    pub(super) max: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RetryBudget {
    pub(super) retry_ratio: Option<f32>,
    #[serde(rename = "minRetriesPerSecond")]
    _min_retries_per_second: Option<u32>,
    pub(super) ttl: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Override {
    #[serde(rename = "authority")]
    _authority: Option<String>,
    /// A number, or one with a unit: what it may look like is the schema's matter.
    #[serde(rename = "weight")]
    _weight: Option<IgnoredAny>,
}
