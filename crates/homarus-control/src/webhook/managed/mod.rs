//! A webhook's certificate where nobody else makes it: a Secret that the first replica creates, and the `caBundle` of the
//! configuration, which is the one field of it that is ours (server-side apply under a field manager of our own). So whoever
//! applies the configuration again, with whatever tool, changes nothing.
//!
//! Replicas race by creating and by resourceVersion; what each of them does follows from what it sees ([`step`]). The Secret is
//! read from the API server and not from a mount, which would be a minute late.

mod step;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use homarus_daemon::Gate;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::serving::ServingCertificate;
use super::{Hook, Kind};
use step::{Held, Step};

/// How often to look at Secret and configuration.
const LOOK: Duration = Duration::from_secs(10);
/// How often while something is to be done, and at the start while it can't be.
const SOON: Duration = Duration::from_millis(500);
/// How long the start is: whatever is missing then is probably being applied.
const START: Duration = Duration::from_secs(60);
/// How long a look may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Says on what was made at run time who made it, so that nobody takes it for a leftover.
const MADE_BY: &str = "homarus.io/made-by";
/// What Helm writes on the objects of a release; without them, it takes no object into one.
const RELEASE: [&str; 2] = ["meta.helm.sh/release-name", "meta.helm.sh/release-namespace"];
const RELEASED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "Helm");

/// Who keeps a webhook's certificate.
pub(super) struct Managed {
    hook: &'static Hook,
    namespace: String,
    /// The name by which an API server asks.
    host: String,
    secrets: Api<Secret>,
    configurations: Api<DynamicObject>,
    serving: ServingCertificate,
    not_after: Gauge,
}

/// What an API server knows of the webhook.
struct Told {
    /// Whom it believes.
    bundle: String,
    release: Release,
}

/// The Helm release that a configuration belongs to, as labels and annotations; both empty without one.
///
/// A Secret that was made for it belongs there as well. No chart of ours has that Secret, but Linkerd's has: going back to it, Helm
/// would refuse what isn't its own.
#[derive(Debug, Default, PartialEq, Eq)]
struct Release {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Release {
    fn of(configuration: &DynamicObject) -> Self {
        let label = configuration.labels().get_key_value(RELEASED_BY.0).filter(|(_, value)| *value == RELEASED_BY.1);
        let annotations = configuration.annotations().iter().filter(|(key, _)| RELEASE.contains(&key.as_str()));
        let annotations: BTreeMap<_, _> = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
        match label {
            Some((key, value)) if annotations.len() == RELEASE.len() => {
                Self { labels: BTreeMap::from([(key.clone(), value.clone())]), annotations }
            }
            _ => Self::default(),
        }
    }

    /// Puts a Secret into this release, or out of any. Whether that changed something.
    fn claim(&self, secret: &mut Secret) -> bool {
        let before = (secret.labels().clone(), secret.annotations().clone());
        let labels = secret.labels_mut();
        labels.retain(|key, value| (key.as_str(), value.as_str()) != RELEASED_BY);
        labels.extend(self.labels.clone());
        let annotations = secret.annotations_mut();
        annotations.retain(|key, _| !RELEASE.contains(&key.as_str()));
        annotations.extend(self.annotations.clone());
        before != (secret.labels().clone(), secret.annotations().clone())
    }
}

/// What a look has found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// All is well.
    Settled,
    /// Something was done, look at what it did.
    Worked,
    /// There is no configuration to tell anything.
    Unknown,
}

impl Managed {
    pub(super) fn new(
        hook: &'static Hook,
        client: &Client,
        namespace: String,
        serving: ServingCertificate,
        metrics: &Metrics,
    ) -> Self {
        let kind = match hook.kind {
            Kind::Mutating => "MutatingWebhookConfiguration",
            Kind::Validating => "ValidatingWebhookConfiguration",
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
        let not_after: Gauge = Gauge::default();
        metrics.register(|registry| {
            let help = "When the serving certificate of the webhook ends, in seconds since the epoch";
            registry.register("webhook_certificate_not_after_timestamp_seconds", help, not_after.clone());
        });
        Self {
            hook,
            host: format!("{}.{namespace}.svc", hook.service),
            secrets: Api::namespaced(client.clone(), &namespace),
            configurations: Api::all_with(client.clone(), &resource),
            namespace,
            serving,
            not_after,
        }
    }

    /// Makes the certificate, tells the API server, renews it. The gate opens when an API server can ask, or after the hook's
    /// patience.
    pub(super) async fn keep(self, gate: Gate, mut drain: Drain) {
        let began = Instant::now();
        let mut said = String::new();
        loop {
            let looked = tokio::time::timeout(TIMEOUT, self.look()).await.context("the API server is slow").flatten();
            let trouble = match &looked {
                Ok(Look::Settled | Look::Worked) => String::new(),
                Ok(Look::Unknown) => format!("there is no {}: apply the chart", self.configuration()),
                Err(error) => format!("{error:#}; check the controller's roles"),
            };
            if trouble != said && !trouble.is_empty() {
                warn!(webhook = self.hook.service, %trouble, "the certificate is not in place");
            }
            said = trouble;
            let impatient = self.hook.patience.is_some_and(|patience| began.elapsed() >= patience);
            if matches!(looked, Ok(Look::Settled)) || impatient {
                gate.open();
            }
            let pause = match looked {
                Ok(Look::Worked) => SOON,
                Ok(Look::Unknown) | Err(_) if began.elapsed() < START => SOON,
                _ => LOOK,
            };
            tokio::select! {
                () = drain.signaled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at both, does one thing about it, and answers with what API servers believe.
    async fn look(&self) -> anyhow::Result<Look> {
        let now = SystemTime::now();
        let name = self.secret();
        let secret = self.secrets.get_opt(&name).await.with_context(|| format!("reading Secret {name}"))?;
        let held = secret.as_ref().map(held);
        let told = self.told().await?;
        let bundle = told.as_ref().map(|told| told.bundle.as_str());
        if let Some(held) = &held {
            self.take(held, bundle, now);
        }
        match step::next(held.as_ref(), bundle, &self.host, now)? {
            Step::Rest => match (told, secret) {
                (Some(told), Some(secret)) => self.release(secret, &told.release).await,
                _ => Ok(Look::Unknown),
            },
            Step::Tell(bundle) => self.tell(&bundle).await.map(|()| Look::Worked),
            Step::Write(held, why) => self.make(secret, told.map(|told| told.release), &held, why).await.map(|()| Look::Worked),
        }
    }

    /// Puts what the Secret holds into use: once the API server believes it, or if there is nothing else.
    fn take(&self, held: &Held, told: Option<&str>, now: SystemTime) {
        let believed = told.is_some_and(|told| held.believed(told, &self.host, now));
        if !believed && !self.serving.is_empty() {
            return;
        }
        // What can't be used is no news: the step that follows makes another.
        if self.serving.put(held.pair.crt.as_bytes(), held.pair.key.as_bytes()).is_ok()
            && let Some(end) = held.not_after()
        {
            self.not_after.set(end.duration_since(UNIX_EPOCH).map_or(0, |end| end.as_secs().try_into().unwrap_or(i64::MAX)));
        }
    }

    fn secret(&self) -> String {
        format!("{}-k8s-tls", self.hook.service)
    }

    fn configuration(&self) -> String {
        format!("{}-webhook-config", self.hook.service)
    }

    /// What the API server was told; none if it doesn't know of the webhook.
    async fn told(&self) -> anyhow::Result<Option<Told>> {
        let name = self.configuration();
        let found = self.configurations.get_opt(&name).await.with_context(|| format!("reading {name}"))?;
        Ok(found.map(|configuration| {
            let encoded = configuration.data["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default();
            let bundle = String::from_utf8_lossy(&STANDARD.decode(encoded).unwrap_or_default()).into_owned();
            Told { bundle, release: Release::of(&configuration) }
        }))
    }

    async fn tell(&self, bundle: &str) -> anyhow::Result<()> {
        let name = self.configuration();
        let kind = match self.hook.kind {
            Kind::Mutating => "MutatingWebhookConfiguration",
            Kind::Validating => "ValidatingWebhookConfiguration",
        };
        let ours = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": name },
            "webhooks": [{
                "name": format!("{}.linkerd.io", self.hook.service),
                "clientConfig": { "caBundle": STANDARD.encode(bundle) },
            }],
        });
        // By force: whoever else wrote a bundle here wrote it for a certificate that nobody answers with any more.
        let params = PatchParams::apply(&format!("{}-certificate", self.hook.service)).force();
        self.configurations.patch(&name, &params, &Patch::Apply(ours)).await.with_context(|| format!("patching {name}"))?;
        info!(configuration = name, "told the API server what to believe");
        Ok(())
    }

    /// Writes a certificate; whose release the Secret is stays if that isn't known.
    async fn make(&self, secret: Option<Secret>, release: Option<Release>, held: &Held, why: &str) -> anyhow::Result<()> {
        let data = held.write().into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect();
        let mut secret = match secret {
            Some(secret) => secret,
            None => serde_json::from_value(self.empty_secret(&self.secret()))?,
        };
        secret.data = Some(data);
        if let Some(release) = release {
            release.claim(&mut secret);
        }
        if self.write(&secret).await? {
            info!(secret = self.secret(), why, "made a serving certificate");
        }
        Ok(())
    }

    /// Has the Secret belong where the configuration does. It may have been made before there was one, or for another release.
    async fn release(&self, mut secret: Secret, release: &Release) -> anyhow::Result<Look> {
        if !release.claim(&mut secret) {
            return Ok(Look::Settled);
        }
        if self.write(&secret).await? {
            info!(secret = self.secret(), release = ?release.annotations.values(), "changed whose release the certificate is");
        }
        Ok(Look::Worked)
    }

    /// Creates the Secret, or writes it on the version that was read. Whether another replica wasn't faster: the next look finds
    /// what it wrote.
    async fn write(&self, secret: &Secret) -> anyhow::Result<bool> {
        let name = self.secret();
        let params = PostParams { field_manager: Some(format!("{}-certificate", self.hook.service)), ..PostParams::default() };
        let written = match secret.metadata.resource_version {
            Some(_) => self.secrets.replace(&name, &params, secret).await,
            None => self.secrets.create(&params, secret).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error).with_context(|| format!("writing Secret {name}")),
        }
    }

    fn empty_secret(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {
                    "linkerd.io/control-plane-ns": self.namespace,
                    "linkerd.io/control-plane-component": self.hook.component,
                },
                "annotations": { MADE_BY: self.hook.service },
            },
        })
    }
}

fn held(secret: &Secret) -> Held {
    let data = secret.data.iter().flatten().map(|(name, bytes)| (name.clone(), bytes.0.clone())).collect();
    Held::read(&data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use parking_lot::Mutex;

    use super::*;

    fn configuration(metadata: &Value) -> DynamicObject {
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "X", "metadata": metadata })).unwrap()
    }

    #[test]
    fn what_is_made_for_a_release_of_helm_belongs_to_it() {
        let release = Release::of(&configuration(&json!({
            "name": "x",
            "labels": { "app.kubernetes.io/managed-by": "Helm", "linkerd.io/control-plane-ns": "linkerd" },
            "annotations": { "meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "linkerd", "other": "y" },
        })));
        assert_eq!(release.labels.into_iter().collect::<Vec<_>>(), [("app.kubernetes.io/managed-by".into(), "Helm".into())]);
        let expected = [("meta.helm.sh/release-name", "mesh"), ("meta.helm.sh/release-namespace", "linkerd")];
        assert_eq!(release.annotations.into_iter().collect::<Vec<_>>(), expected.map(|(key, value)| (key.into(), value.into())));
    }

    #[test]
    fn a_secret_follows_its_configuration_from_release_to_release() {
        let release = |name: Option<&str>| match name {
            None => Release::default(),
            Some(name) => Release::of(&configuration(&json!({
                "name": "x",
                "labels": { "app.kubernetes.io/managed-by": "Helm" },
                "annotations": { "meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": "linkerd" },
            }))),
        };
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": "x", "labels": { "mine": "1" }, "annotations": { MADE_BY: "x" } },
        }))
        .unwrap();
        for (to, changes) in [(None, false), (Some("a"), true), (Some("a"), false), (Some("b"), true), (None, true), (None, false)]
        {
            assert_eq!(release(to).claim(&mut secret), changes, "{to:?}");
            assert_eq!(secret.annotations().get("meta.helm.sh/release-name").map(String::as_str), to);
            assert_eq!(secret.labels().contains_key("app.kubernetes.io/managed-by"), to.is_some());
            assert_eq!((&*secret.labels()["mine"], &*secret.annotations()[MADE_BY]), ("1", "x"));
        }
        secret.labels_mut().insert(RELEASED_BY.0.into(), "somebody".into());
        assert!(!release(None).claim(&mut secret), "nobody else's word is taken away");
    }

    #[test]
    fn without_a_release_nothing_claims_to_be_of_one() {
        for metadata in [
            json!({ "name": "x" }),
            json!({ "name": "x", "labels": { "app.kubernetes.io/managed-by": "Helm" } }),
            json!({ "name": "x", "annotations": { "meta.helm.sh/release-name": "a", "meta.helm.sh/release-namespace": "b" } }),
            json!({
                "name": "x",
                "labels": { "app.kubernetes.io/managed-by": "flux" },
                "annotations": { "meta.helm.sh/release-name": "a", "meta.helm.sh/release-namespace": "b" },
            }),
        ] {
            assert_eq!(Release::of(&configuration(&metadata)), Release::default(), "{metadata}");
        }
    }

    /// An API server with a configuration and a Secret, which take whatever is written.
    fn api_server(configuration: Value) -> (Client, Arc<Mutex<[Value; 2]>>) {
        let objects = Arc::new(Mutex::new([Value::Null, configuration]));
        let kept = objects.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let kept = kept.clone();
            async move {
                let of = usize::from(!request.uri().path().contains("/secrets"));
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut kept = kept.lock();
                if let Ok(mut written) = serde_json::from_slice::<Value>(&body) {
                    match method == http::Method::PATCH {
                        true => kept[of]["webhooks"] = written["webhooks"].take(),
                        false => kept[of] = written,
                    }
                    kept[of]["metadata"]["resourceVersion"] = "1".into();
                }
                let missing = json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404 });
                let (code, answer) = if kept[of].is_null() { (404, &missing) } else { (200, &kept[of]) };
                let body = kube::client::Body::from(answer.to_string().into_bytes());
                http::Response::builder().status(code).body(body).map_err(std::io::Error::other)
            }
        });
        (Client::new(service, "linkerd"), objects)
    }

    #[tokio::test]
    async fn a_secret_that_was_made_before_its_release_joins_it_without_a_new_certificate() {
        let metadata = json!({ "name": "linkerd-proxy-injector-webhook-config" });
        let (client, objects) = api_server(json!({ "apiVersion": "v1", "kind": "X", "metadata": metadata }));
        let serving = ServingCertificate::default();
        let managed = Managed::new(&crate::webhook::INJECTOR, &client, "linkerd".into(), serving, &Metrics::new());
        let settle = async || {
            for _ in 0..5 {
                if managed.look().await.unwrap() == Look::Settled {
                    return objects.lock()[0].clone();
                }
            }
            panic!("it never settles");
        };
        let before = settle().await;
        assert_eq!(before["metadata"]["annotations"], json!({ MADE_BY: "linkerd-proxy-injector" }));
        let release = json!({ "meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "linkerd" });
        objects.lock()[1]["metadata"]["labels"] = json!({ "app.kubernetes.io/managed-by": "Helm" });
        objects.lock()[1]["metadata"]["annotations"] = release;
        let after = settle().await;
        assert_eq!(after["metadata"]["annotations"]["meta.helm.sh/release-name"], "mesh", "{}", after["metadata"]);
        assert_eq!(after["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm");
        assert_eq!(
            (&after["data"], &after["metadata"]["annotations"][MADE_BY]),
            (&before["data"], &"linkerd-proxy-injector".into())
        );
    }
}
