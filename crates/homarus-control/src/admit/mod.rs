//! Judging what people write before it is stored: ServiceProfiles ([`profiles`]), and policies and routes (`policies`).
//!
//! A verdict follows from the object alone, never from what else the cluster has: whether the parent of a route exists is told in
//! the route's status, later. What would be stored and have no effect is let in with a warning; what can't mean anything is
//! refused, and why is said together with what to write instead.

pub(crate) mod policies;
pub mod profiles;

use homarus_daemon::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tracing::info;

use crate::webhook::Answer;
use crate::webhook::review::{BadReview, Question, Review, Verdict};

/// Warnings of what may be stored, or the reason of a refusal.
pub(crate) type Judgement = Result<Vec<String>, String>;

/// Answers reviews by a rule.
pub(crate) struct Judge {
    rule: fn(&Question) -> Judgement,
    allowed: Counter,
    denied: Counter,
}

impl Judge {
    pub(crate) fn new(rule: fn(&Question) -> Judgement, metrics: &Metrics) -> Self {
        let (allowed, denied) = (Counter::default(), Counter::default());
        metrics.register(|registry| {
            registry.register("admission_allowed", "Objects that the webhook has let in", allowed.clone());
            registry.register("admission_denied", "Objects that the webhook has refused", denied.clone());
        });
        Self { rule, allowed, denied }
    }

    fn judge(&self, question: &Question) -> Verdict {
        // What is on its way out loses its finalizers by updates: whatever it says, nobody may be in their way.
        let going = !question.object["metadata"]["deletionTimestamp"].is_null();
        match if going { Ok(Vec::new()) } else { (self.rule)(question) } {
            Ok(warnings) => {
                self.allowed.inc();
                Verdict::Warned(warnings)
            }
            Err(reason) => {
                self.denied.inc();
                let (_, kind) = question.kind();
                info!(kind, namespace = question.namespace, name = question.name(), reason, "refused");
                Verdict::Denied(reason)
            }
        }
    }
}

impl Answer for Judge {
    async fn answer(&self, body: &[u8]) -> Result<Value, BadReview> {
        let review = Review::parse(body)?;
        Ok(review.answer(&self.judge(&review.request)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_is_on_its_way_out_is_let_go() {
        let judge = Judge::new(|_| Err("nonsense".into()), &Metrics::default());
        let asked = async |metadata: Value| {
            let request = json!({ "uid": "u", "kind": { "group": "policy.linkerd.io", "kind": "Server" }, "object": { "metadata": metadata } });
            let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request });
            judge.answer(review.to_string().as_bytes()).await.unwrap()["response"]["allowed"].clone()
        };
        assert_eq!(asked(json!({ "name": "a" })).await, json!(false));
        assert_eq!(asked(json!({ "name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z" })).await, json!(true));
    }
}
