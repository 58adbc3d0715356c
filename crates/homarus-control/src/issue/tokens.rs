//! Whose token it is: TokenReview.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

/// The audience of the tokens that injection mounts. A token for anything else is no proof.
pub(super) const AUDIENCE: &str = "identity.l5d.io";
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// What the API server says about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Review {
    pub(super) authenticated: bool,
    pub(super) username: String,
    /// For which of the audiences we asked about it is meant.
    pub(super) audiences: Vec<String>,
    /// Why it could not be reviewed.
    pub(super) error: Option<String>,
}

/// The API server can't be asked. Not the fault of the token; asking again may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token review failed: {0}")]
pub(super) struct ReviewFailed(pub(super) String);

/// Reviews tokens, always for one audience.
pub(super) trait ReviewTokens: Send + Sync + 'static {
    fn review(&self, token: &str, audience: &str) -> impl Future<Output = Result<Review, ReviewFailed>> + Send;
}

/// Asks the API server.
pub(super) struct ClusterTokens {
    api: Api<TokenReview>,
    under_way: Semaphore,
}

impl ClusterTokens {
    pub(super) fn new(client: Client, at_once: usize) -> Self {
        Self { api: Api::all(client), under_way: Semaphore::new(at_once.max(1)) }
    }
}

impl ReviewTokens for ClusterTokens {
    async fn review(&self, token: &str, audience: &str) -> Result<Review, ReviewFailed> {
        let asking = async {
            let _slot = self.under_way.acquire().await.map_err(|error| ReviewFailed(error.to_string()))?;
            let review = TokenReview {
                spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) },
                ..TokenReview::default()
            };
            self.api.create(&PostParams::default(), &review).await.map_err(|error| ReviewFailed(error.to_string()))
        };
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, asking)
            .await
            .map_err(|_| ReviewFailed(format!("no answer within {REVIEW_TIMEOUT:?}")))??;
        let status = answer.status.unwrap_or_default();
        Ok(Review {
            authenticated: status.authenticated.unwrap_or_default(),
            username: status.user.and_then(|user| user.username).unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            error: status.error.filter(|error| !error.is_empty()),
        })
    }
}

/// Fails unless this controller may review tokens: better at its start than at the first request.
pub(super) async fn require_access(client: &Client) -> anyhow::Result<()> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some("authentication.k8s.io".into()),
                version: Some("v1".into()),
                resource: Some("tokenreviews".into()),
                verb: Some("create".into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.context("failed to ask whether tokens may be reviewed")?;
    match answer.status {
        Some(status) if status.allowed => Ok(()),
        status => {
            let reason = status.and_then(|status| status.reason).unwrap_or_default();
            bail!(
                "not allowed to create tokenreviews.authentication.k8s.io {reason}; bind the identity ClusterRole to this service account"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::{convert::Infallible, sync::Arc};

    /// A client of an API server that answers any TokenReview with this status, and what it was asked.
    fn api_server(status: Value) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (heard, status) = (heard.clone(), status.clone());
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                heard.lock().push(review["spec"].clone());
                let answer = json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": review["spec"], "status": status,
                });
                Ok::<_, Infallible>(Response::new(Body::from(answer.to_string().into_bytes())))
            }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn no_token_is_reviewed_without_an_audience() {
        let user = json!({"username": "system:serviceaccount:shop:web"});
        let (client, asked) = api_server(json!({"authenticated": true, "user": user, "audiences": [AUDIENCE]}));
        let review = ClusterTokens::new(client, 0).review("t", AUDIENCE).await.unwrap();
        assert_eq!(*asked.lock(), [json!({"token": "t", "audiences": [AUDIENCE]})]);
        assert_eq!((review.authenticated, &*review.username), (true, "system:serviceaccount:shop:web"));
        assert_eq!(review.audiences, [AUDIENCE]);
    }

    #[tokio::test]
    async fn what_an_api_server_leaves_out_proves_nothing() {
        let (client, _) = api_server(json!({}));
        assert_eq!(ClusterTokens::new(client, 1).review("t", AUDIENCE).await, Ok(Review::default()));
        let (client, _) = api_server(json!({"authenticated": true, "error": ""}));
        let review = ClusterTokens::new(client, 1).review("t", AUDIENCE).await.unwrap();
        assert_eq!((review.audiences.len(), review.error), (0, None));
    }
}
