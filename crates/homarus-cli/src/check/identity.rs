//! The certificates that identities rest on.

use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use homarus_identity::issuer::Validity;
use homarus_identity::{Certificate, Issuer, TrustAnchors, renewal};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Api, Client, ResourceExt};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::reach::{Admin, proxy_admin_port};

/// How long certificates should still live: time enough to plan their end.
pub(super) const LASTING: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// What a proxy counts that follows the trust anchors of the identity controller.
const FOLLOWER: &str = "homarus_identity_trust_updates";
/// How many proxies are asked at once.
const AT_ONCE: usize = 16;

/// What the control plane signs with, as it is stored.
struct Material {
    anchors: TrustAnchors,
    issuer: Certificate,
    issuer_pem: String,
    key: String,
}

fn text(data: Option<&std::collections::BTreeMap<String, k8s_openapi::ByteString>>, names: [&str; 2]) -> Option<String> {
    let data = data?;
    let bytes = names.iter().find_map(|name| data.get(*name))?;
    String::from_utf8(bytes.0.clone()).ok()
}

async fn anchors_pem(facts: &Facts) -> Result<String, Problem> {
    let maps: Api<ConfigMap> = facts.of_control_plane()?;
    let roots = maps.get("linkerd-identity-trust-roots").await?;
    let pem = roots.data.and_then(|mut data| data.remove("ca-bundle.crt"));
    pem.ok_or_else(|| Problem("ConfigMap linkerd-identity-trust-roots has no ca-bundle.crt".to_owned()))
}

async fn material(facts: &Facts) -> Result<Material, Problem> {
    let anchors = TrustAnchors::from_pem(&anchors_pem(facts).await?).map_err(|error| Problem(error.to_string()))?;
    let secrets: Api<Secret> = facts.of_control_plane()?;
    let secret = secrets.get("linkerd-identity-issuer").await?;
    let lacking = |what: &str| Problem(format!("Secret linkerd-identity-issuer has no {what}"));
    let issuer_pem = text(secret.data.as_ref(), ["crt.pem", "tls.crt"]).ok_or_else(|| lacking("crt.pem or tls.crt"))?;
    let key = text(secret.data.as_ref(), ["key.pem", "tls.key"]).ok_or_else(|| lacking("key.pem or tls.key"))?;
    let issuer = first_certificate(&issuer_pem)?;
    Ok(Material { anchors, issuer, issuer_pem, key })
}

/// The first certificate of a PEM text.
pub(super) fn first_certificate(pem: &str) -> Result<Certificate, Problem> {
    let certificates = homarus_identity::pem::certificates(pem).map_err(|error| Problem(error.to_string()))?;
    let first = certificates.into_iter().next().ok_or_else(|| Problem("there is no certificate".to_owned()))?;
    Certificate::parse(first).map_err(|error| Problem(error.to_string()))
}

pub(super) async fn config(facts: &Facts) -> Answer {
    let material = material(facts).await?;
    homarus_identity::Key::from_pem(&material.key).map_err(|error| Problem(format!("issuer key: {error}")))?;
    Ok(Pass::Yes)
}

/// `* serial CN`: how certificates are named in lists.
fn named(certificate: &Certificate) -> String {
    let serial = X509Certificate::from_der(certificate.der()).map(|(_, cert)| cert.tbs_certificate.raw_serial_as_string());
    let name = certificate.subject.strip_prefix("CN=").unwrap_or(&certificate.subject);
    format!("{} {name}", serial.unwrap_or_default())
}

fn date(at: SystemTime) -> String {
    Timestamp::try_from(at).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// Why a certificate's key is of a kind that proxies can't use; none if they can.
fn crypto_problem(certificate: &Certificate) -> Option<String> {
    use x509_parser::public_key::PublicKey;
    let Ok((_, parsed)) = X509Certificate::from_der(certificate.der()) else {
        return Some("the certificate can't be read".to_owned());
    };
    match parsed.public_key().parsed() {
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => None,
        Ok(PublicKey::EC(point)) => {
            Some(format!("must use P-256 or P-384 for public key, instead a curve of {} bits was used", point.key_size()))
        }
        Ok(PublicKey::RSA(key)) if (2048..=8192).contains(&key.key_size()) => None,
        Ok(PublicKey::RSA(key)) => Some(format!("must use RSA of at least 2048 bits, instead {} bits were used", key.key_size())),
        _ => Some("must use ECDSA or RSA for public key".to_owned()),
    }
}

pub(super) async fn anchors_crypto(facts: &Facts) -> Answer {
    let material = material(facts).await?;
    let bad =
        material.anchors.certificates().iter().filter_map(|anchor| Some(format!("{} {}", named(anchor), crypto_problem(anchor)?)));
    unless_empty("Invalid trustAnchors:", &bad.collect::<Vec<_>>())
}

/// Why a certificate isn't valid now; none if it is.
fn time_problem(certificate: &Certificate, now: SystemTime) -> Option<String> {
    if now < certificate.not_before {
        Some(format!("not valid before: {}", date(certificate.not_before)))
    } else if now > certificate.not_after {
        Some(format!("not valid anymore. Expired on {}", date(certificate.not_after)))
    } else {
        None
    }
}

/// Why a certificate will not be valid for long; none if it will.
pub(super) fn lasting_problem(certificate: &Certificate, now: SystemTime) -> Option<String> {
    (now + LASTING > certificate.not_after).then(|| format!("will expire on {}", date(certificate.not_after)))
}

/// Why a certificate that the mesh renews will not be valid for long: it should have been renewed by now.
fn overdue_problem(certificate: &Certificate, now: SystemTime) -> Option<String> {
    let late = now > renewal::overdue(certificate);
    late.then(|| format!("should have been renewed by the mesh, and will expire on {}", date(certificate.not_after)))
}

/// Whether the mesh makes and renews its certificates itself: nobody gave any.
async fn is_managed(facts: &Facts) -> Result<bool, Problem> {
    let values = facts.values().await?;
    let text = |path: &[&str]| {
        let value = path.iter().try_fold(&values, |value, key| value.get(*key));
        value.and_then(serde_yaml_ng::Value::as_str).unwrap_or_default().trim().to_owned()
    };
    let given = [&["identityTrustAnchorsPEM"][..], &["identity", "issuer", "tls", "crtPEM"]].map(text);
    let ours = matches!(text(&["identity", "issuer", "scheme"]).as_str(), "" | "linkerd.io/tls");
    Ok(ours && given.iter().all(String::is_empty) && !facts.is_on(&["identity", "externalCA"]).await?)
}

/// What is wrong with how long a certificate lives, by who renews it.
async fn lasting(facts: &Facts) -> Result<fn(&Certificate, SystemTime) -> Option<String>, Problem> {
    Ok(if is_managed(facts).await? { overdue_problem } else { lasting_problem })
}

/// Until when certificates are valid.
pub(super) fn ends<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Pass {
    Pass::As(certificates.map(|found| format!("{} until {}", named(found), date(found.not_after))).collect::<Vec<_>>().join("\n"))
}

async fn anchors_with(facts: &Facts, head: &str, problem: fn(&Certificate, SystemTime) -> Option<String>) -> Answer {
    let (material, now) = (material(facts).await?, SystemTime::now());
    let anchors = material.anchors.certificates();
    let bad: Vec<_> = anchors.iter().filter_map(|anchor| Some(format!("{} {}", named(anchor), problem(anchor, now)?))).collect();
    if bad.is_empty() { Ok(ends(anchors.iter())) } else { unless_empty(head, &bad) }
}

pub(super) async fn anchors_valid(facts: &Facts) -> Answer {
    anchors_with(facts, "Invalid anchors:", time_problem).await
}

pub(super) async fn anchors_lasting(facts: &Facts) -> Answer {
    anchors_with(facts, "Anchors expiring soon:", lasting(facts).await?).await
}

async fn issuer_with(facts: &Facts, problem: impl Fn(&Certificate) -> Option<String>) -> Answer {
    let material = material(facts).await?;
    problem(&material.issuer)
        .map_or(Ok(ends([&material.issuer].into_iter())), |problem| Err(Problem(format!("issuer certificate {problem}"))))
}

pub(super) async fn issuer_crypto(facts: &Facts) -> Answer {
    issuer_with(facts, crypto_problem).await
}

pub(super) async fn issuer_valid(facts: &Facts) -> Answer {
    issuer_with(facts, |issuer| time_problem(issuer, SystemTime::now())).await
}

pub(super) async fn issuer_lasting(facts: &Facts) -> Answer {
    let problem = lasting(facts).await?;
    issuer_with(facts, |issuer| problem(issuer, SystemTime::now())).await
}

pub(super) async fn issuer_chains(facts: &Facts) -> Answer {
    let material = material(facts).await?;
    let issuer = Issuer::from_pem(&material.issuer_pem, &material.key, &material.anchors, Validity::default(), SystemTime::now());
    issuer.map_err(|error| Problem(error.to_string()))?;
    Ok(Pass::Yes)
}

/// Whether a rotation of the roots waits for somebody.
pub(super) async fn rotation(facts: &Facts) -> Answer {
    let maps: Api<ConfigMap> = facts.of_control_plane()?;
    let Some(map) = maps.get_opt("linkerd-identity-rotation").await? else { return Ok(Pass::Skip) };
    let text = map.data.and_then(|mut data| data.remove("status")).unwrap_or_default();
    let unreadable = |error| Problem(format!("ConfigMap linkerd-identity-rotation can't be read: {error}"));
    waiting(&serde_json::from_str(&text).map_err(unreadable)?)
}

/// What the identity controller says of a rotation.
fn waiting(status: &serde_json::Value) -> Answer {
    let phase = status["phase"].as_str().unwrap_or_default();
    let names = status["waitingFor"].as_array().into_iter().flatten();
    let names: Vec<_> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let refusing = status["refusing"].as_object().into_iter().flatten();
    let refusing: Vec<_> = refusing.map(|(name, why)| format!("{name}: {}", why.as_str().unwrap_or_default())).collect();
    let refuse = unless_empty("these proxies refuse the trust bundle:", &refusing);
    let restart = match phase {
        "waiting for restarts" => unless_empty("these proxies have to be restarted before the old root can be dropped:", &names),
        _ => Ok(Pass::Yes),
    };
    match (refuse, restart) {
        (Ok(_), Ok(_)) => Ok(Pass::As(phase.to_owned())),
        (Err(Problem(refuse)), Err(Problem(restart))) => Err(Problem(format!("{refuse}\n{restart}"))),
        (problem @ Err(_), _) | (_, problem) => problem,
    }
}

/// Proxies that were injected before the anchors changed, and that nobody tells of the new ones.
pub(super) async fn data_plane_anchors(facts: &Facts) -> Answer {
    let (anchors, client) = (anchors_pem(facts).await?, facts.client()?);
    let pods = facts.data_plane_pods().await?;
    let others = pods.into_iter().filter(|pod| anchors_of(pod).is_some_and(|own| own.trim() != anchors.trim()));
    let asked = stream::iter(others).map(|pod| {
        let client = client.clone();
        async move { (!follows(&client, &pod).await).then(|| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())) }
    });
    let stuck: Vec<_> = asked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await;
    unless_empty("Some pods do not have the current trust bundle and must be restarted:", &stuck)
}

/// Whether a proxy takes trust anchors from the identity controller, rather than from its environment alone. One that can't be
/// asked is taken for one that doesn't.
async fn follows(client: &Client, pod: &Pod) -> bool {
    let Some(port) = proxy_admin_port(pod) else { return false };
    Admin::new(client, pod, port).page("/metrics").await.is_ok_and(|page| page.contains(FOLLOWER))
}

fn anchors_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let proxy = containers.find(|container| container.name == "linkerd-proxy")?;
    let variable = proxy.env.as_ref()?.iter().find(|variable| variable.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS")?;
    variable.value.as_deref()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;

    #[test]
    fn rotations_wait_for_restarts() {
        let status = |phase: &str| serde_json::json!({ "phase": phase, "waitingFor": ["shop/web-0"] });
        assert_eq!(waiting(&status("at rest")), Ok(Pass::As("at rest".to_owned())));
        assert!(waiting(&status("waiting for restarts")).unwrap_err().0.ends_with("\n\t* shop/web-0"));
        let mut refusing = status("spreading the new root");
        refusing["refusing"] = serde_json::json!({ "shop/web-0": "it is empty" });
        assert!(waiting(&refusing).unwrap_err().0.ends_with("\n\t* shop/web-0: it is empty"));
        refusing["phase"] = "waiting for restarts".into();
        let both = waiting(&refusing).unwrap_err().0;
        assert!(both.contains("\n\t* shop/web-0: it is empty\nthese proxies have to be restarted"), "{both}");
        assert!(both.ends_with("\n\t* shop/web-0"), "{both}");
    }

    #[test]
    fn certificates_grow_old() {
        let now = SystemTime::now();
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let root = Pair::root("root.linkerd.cluster.local", days(61), now).unwrap().certificate;
        assert_eq!(crypto_problem(&root), None);
        assert_eq!((time_problem(&root, now), lasting_problem(&root, now)), (None, None));
        assert!(lasting_problem(&root, now + days(2)).unwrap().starts_with("will expire on 20"));
        assert!(time_problem(&root, now + days(62)).unwrap().starts_with("not valid anymore. Expired on 20"));
        assert!(time_problem(&root, now - days(1)).unwrap().starts_with("not valid before: 20"));
        assert_eq!(overdue_problem(&root, now + days(50)), None);
        assert!(overdue_problem(&root, now + days(52)).unwrap().starts_with("should have been renewed"));
        assert!(named(&root).ends_with(" root.linkerd.cluster.local"), "{}", named(&root));
        assert_eq!(first_certificate(&root.to_pem()).unwrap().fingerprint(), root.fingerprint());
        assert!(first_certificate("nonsense").is_err());
    }
}
