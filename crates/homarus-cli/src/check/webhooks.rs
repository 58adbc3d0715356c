//! The certificates of webhooks: without good ones, the API server calls no one.

use std::time::SystemTime;

use homarus_identity::TrustAnchors;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls_pki_types::{ServerName, UnixTime};

use super::facts::{Answer, Facts, Pass, Problem};
use super::identity::{ends, first_certificate, lasting_problem};

/// A webhook of the control plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Webhook {
    name: &'static str,
    mutating: bool,
}

pub(super) const INJECTOR: Webhook = Webhook { name: "proxy-injector", mutating: true };
pub(super) const SP_VALIDATOR: Webhook = Webhook { name: "sp-validator", mutating: false };
pub(super) const POLICY_VALIDATOR: Webhook = Webhook { name: "policy-validator", mutating: false };

impl Webhook {
    /// What API servers verify it with; none if there is no such webhook.
    async fn bundle(self, facts: &Facts) -> Result<Option<ByteString>, Problem> {
        let name = format!("linkerd-{}-webhook-config", self.name);
        let client = facts.client()?;
        let clients: Vec<_> = if self.mutating {
            let found = Api::<MutatingWebhookConfiguration>::all(client).get_opt(&name).await?;
            found.and_then(|found| found.webhooks).into_iter().flatten().map(|hook| hook.client_config).collect()
        } else {
            let found = Api::<ValidatingWebhookConfiguration>::all(client).get_opt(&name).await?;
            found.and_then(|found| found.webhooks).into_iter().flatten().map(|hook| hook.client_config).collect()
        };
        let Some(first) = clients.into_iter().next() else { return Ok(None) };
        first.ca_bundle.map(Some).ok_or_else(|| Problem(format!("{name} has no caBundle")))
    }

    /// Its certificate and key, PEM.
    async fn pair(self, facts: &Facts) -> Result<(String, String), Problem> {
        let secrets: Api<Secret> = facts.of_control_plane()?;
        let names = [format!("linkerd-{}-k8s-tls", self.name), format!("linkerd-{}-tls", self.name)];
        let mut data = None;
        for name in &names {
            data = secrets.get_opt(name).await?.and_then(|secret| secret.data);
            if data.is_some() {
                break;
            }
        }
        let data = data.ok_or_else(|| Problem(format!("there is no Secret {}", names[0])))?;
        let text = |keys: [&str; 2]| {
            let bytes = keys.iter().find_map(|key| data.get(*key)).map(|bytes| bytes.0.clone()).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        Ok((text(["tls.crt", "crt.pem"]), text(["tls.key", "key.pem"])))
    }
}

pub(super) async fn valid(facts: &Facts, webhook: Webhook) -> Answer {
    let Some(bundle) = webhook.bundle(facts).await? else { return Ok(Pass::Skip) };
    let (certificate, key) = webhook.pair(facts).await?;
    let bundle = String::from_utf8(bundle.0).map_err(|_| Problem("its caBundle is not text".to_owned()))?;
    let name = format!("linkerd-{}.{}.svc", webhook.name, facts.control_plane_ns);
    verify(&bundle, &certificate, &key, &name, SystemTime::now()).map_err(Problem)?;
    Ok(Pass::Yes)
}

pub(super) async fn lasting(facts: &Facts, webhook: Webhook) -> Answer {
    if webhook.bundle(facts).await?.is_none() {
        return Ok(Pass::Skip);
    }
    let certificate = first_certificate(&webhook.pair(facts).await?.0)?;
    lasting_problem(&certificate, SystemTime::now())
        .map_or(Ok(ends([&certificate].into_iter())), |problem| Err(Problem(format!("certificate {problem}"))))
}

/// Verifies a server's certificate as an API server does.
fn verify(bundle: &str, certificates: &str, key: &str, name: &str, now: SystemTime) -> Result<(), String> {
    let ders = homarus_identity::pem::certificates(certificates).map_err(|error| error.to_string())?;
    let anchors = homarus_identity::pem::certificates(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let key = homarus_identity::Key::from_pem(key).map_err(|error| error.to_string())?;
    let (first, above) = ders.split_first().ok_or("there is no certificate")?;
    let leaf = webpki::EndEntityCert::try_from(first).map_err(|error| error.to_string())?;
    if leaf.subject_public_key_info().as_ref() != key.public().as_ref() {
        return Err("certificate and key don't belong together".to_owned());
    }
    let server = ServerName::try_from(name).map_err(|error| error.to_string())?;
    leaf.verify_is_valid_for_subject_name(&server).map_err(|_| format!("the certificate is not for {name}"))?;
    // A self-signed certificate is its own authority; as such, a CA certificate may even be a server's.
    if anchors.contains(first) {
        let certificate = first_certificate(certificates).map_err(|problem| problem.0)?;
        return if certificate.is_current(now) { Ok(()) } else { Err("the certificate is not valid now".to_owned()) };
    }
    let anchors = TrustAnchors::from_pem(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let elapsed = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        anchors.anchors(),
        above,
        UnixTime::since_unix_epoch(elapsed),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|error| format!("the certificate doesn't chain to the caBundle: {error}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;
    use std::time::Duration;

    const NAME: &str = "linkerd-proxy-injector.linkerd.svc";

    #[test]
    fn servers_of_webhooks() {
        let now = SystemTime::now();
        let server = |names: &[&str]| Pair::server(names, Duration::from_secs(3600), now).unwrap();
        let (good, other) = (server(&[NAME]), server(&["x.linkerd.svc"]));
        let check = |bundle: &Pair, leaf: &Pair, key: &Pair, at| {
            verify(&bundle.certificate.to_pem(), &leaf.certificate.to_pem(), &key.key_pem(), NAME, at)
        };
        assert_eq!(check(&good, &good, &good, now), Ok(()));
        assert!(check(&good, &good, &good, now + Duration::from_secs(7200)).unwrap_err().contains("not valid now"));
        assert!(check(&good, &good, &other, now).unwrap_err().contains("don't belong together"));
        assert!(check(&other, &other, &other, now).unwrap_err().contains("not for"));
        assert!(check(&other, &good, &good, now).is_err());
    }
}
