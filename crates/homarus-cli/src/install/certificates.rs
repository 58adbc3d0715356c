//! The certificates that flags name: read, and found good, before anything is printed.

use std::time::SystemTime;

use homarus_identity::anchors::TrustAnchors;
use homarus_identity::issuer::{Issuer, Validity};
use homarus_identity::key::Algorithm;
use homarus_identity::{Certificate, Key, pem};
use rustls::sign::CertifiedKey;
use serde_json::Value as Json;

use crate::chart::Values;
use crate::command_line::ControlFlags;
use crate::failure::Failure;
use crate::terminal;

use super::flags::Flags;

/// Reads the files into values. All three or none; on an upgrade the anchors may come alone.
pub(super) fn read(flags: &ControlFlags, external_issuer: bool, into: &mut Flags) -> Result<(), Failure> {
    let anchors = flags.identity_trust_anchors_file.as_deref();
    let certificate = flags.identity_issuer_certificate_file.as_deref();
    let key = flags.identity_issuer_key_file.as_deref();
    if external_issuer && (certificate.is_some() || key.is_some()) {
        return Err(Failure::new("cannot update issuer certificates if you are using external cert management solution")
            .remedy("Put the new issuer into Secret linkerd-identity-issuer, by whatever provides it."));
    }
    let needed = |what: &str| Failure::new(format!("a {what} file must be specified if other credentials are provided"));
    match (anchors, certificate, key) {
        (_, None, Some(_)) => return Err(needed("certificate")),
        (_, Some(_), None) => return Err(needed("private key")),
        (None, Some(_), Some(_)) => return Err(needed("trust anchors")),
        _ => {}
    }
    let [anchors, certificate, key] = [anchors, certificate, key].map(|file| file.map(text_of).transpose());
    into.put("identityTrustAnchorsPEM", anchors?);
    into.put("identity.issuer.tls.crtPEM", certificate?);
    into.put("identity.issuer.tls.keyPEM", key?);
    Ok(())
}

fn text_of(file: &str) -> Result<String, Failure> {
    let remedy = "Name a file with certificates or a key in PEM.";
    super::read_file(file).map_err(|error| Failure::new(format!("cannot read {file}: {error}")).remedy(remedy))
}

/// Whether what the values hold can be used now, wherever it came from: flags, files or what was stored.
pub(super) fn check(values: &Json, namespace: &str, now: SystemTime) -> Result<(), Failure> {
    identity(values, now)?;
    for (key, service) in WEBHOOKS {
        let pem = |field: &str| said(values, &format!("/{key}/{field}"));
        if let (Some(certificate), Some(private)) = (pem("crtPEM"), pem("keyPEM")) {
            let name = format!("{service}.{namespace}.svc");
            webhook(certificate, private, pem("caBundle").unwrap_or(certificate), &name, now).map_err(|what| {
                Failure::new(format!("{key}: {what}")).remedy(format!(
                    "Give {key}.crtPEM and {key}.keyPEM of a certificate for {name} that is valid now, and its CA as {key}.caBundle; or none \
                     of them, then the mesh makes it."
                ))
            })?;
        }
    }
    Ok(())
}

/// Webhooks by their key in the values, and their Services.
const WEBHOOKS: [(&str, &str); 3] = [
    ("proxyInjector", "linkerd-proxy-injector"),
    ("profileValidator", "linkerd-sp-validator"),
    ("policyValidator", "linkerd-policy-validator"),
];

/// A text that isn't empty.
fn said<'a>(values: &'a Json, pointer: &str) -> Option<&'a str> {
    values.pointer(pointer).and_then(Json::as_str).filter(|text| !text.trim().is_empty())
}

fn identity(values: &Json, now: SystemTime) -> Result<(), Failure> {
    let Some(anchors) = said(values, "/identityTrustAnchorsPEM") else { return Ok(()) };
    let invalid = |what: &str, error: &dyn std::fmt::Display, remedy: &str| {
        Err(Failure::new(format!("failed to validate {what} credentials: {error}")).remedy(remedy))
    };
    let fit = "Make sure that the files belong together, and are valid now: `openssl verify -CAfile ANCHORS ISSUER`.";
    let anchors = match TrustAnchors::from_pem(anchors) {
        Ok(anchors) => anchors,
        Err(error) => return invalid("trust anchor", &error, "Give roots in PEM, valid now, with ECDSA or RSA keys."),
    };
    if !anchors.certificates().iter().any(|root| root.is_current(now)) {
        return invalid("trust anchor", &"no root is valid now", "Make a new root, and an issuer under it.");
    }
    let tls = |key: &str| said(values, &format!("/identity/issuer/tls/{key}"));
    let (Some(certificate), Some(key)) = (tls("crtPEM"), tls("keyPEM")) else { return Ok(()) };
    match Key::from_pem(key) {
        Ok(key) if key.algorithm() == Algorithm::Rsa => {
            let remedy = "Make an issuer with an ECDSA P-256 key; the roots above it may be RSA.";
            return invalid("issuer", &"its key is RSA, which proxies don't accept of an issuer", remedy);
        }
        Ok(_) => {}
        Err(error) => return invalid("issuer", &error, "Give the issuer's own key in PEM: ECDSA P-256."),
    }
    let issuer = Issuer::from_pem(certificate, key, &anchors, Validity::default(), now);
    match issuer.and_then(|issuer| issuer.verify_current(now)) {
        Ok(()) => Ok(()),
        Err(error) => invalid("issuer", &error, fit),
    }
}

/// What an API server would object to.
fn webhook(certificate: &str, key: &str, bundle: &str, name: &str, now: SystemTime) -> Result<(), String> {
    let certificates = pem::certificates(certificate).map_err(|error| error.to_string())?;
    let leaf = certificates.into_iter().next().ok_or("there is no certificate")?;
    let leaf = Certificate::parse(leaf).map_err(|error| error.to_string())?;
    let key = Key::from_pem(key).map_err(|error| error.to_string())?;
    if !leaf.is_current(now) {
        return Err(format!("the certificate of {} is not valid now", leaf.subject));
    }
    if !leaf.names.iter().any(|own| own == name) {
        return Err(format!("the certificate is for {:?} and not for {name}", leaf.names));
    }
    let certified = CertifiedKey::new(vec![leaf.der().clone()], key.signing_key());
    certified.keys_match().map_err(|_| "the certificate and the key don't belong together")?;
    pem::certificates(bundle).map(drop).map_err(|error| format!("caBundle: {error}"))
}

/// Says what other roots do to proxies that run.
pub(super) fn warn_of_rotation(before: &Values, after: &Values) {
    let anchors =
        |values: &Values| values.get("identityTrustAnchorsPEM").and_then(|pem| pem.as_str()).map(|pem| pem.trim().to_owned());
    if anchors(before) != anchors(after) {
        eprintln!(
            "{} Rotating the trust anchors will affect existing proxies\n    Keep the old root beside the new one until every proxy \
             knows both: docs/certificates.md",
            terminal::warning()
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;
    use serde_json::json;
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Values with what was made at a moment.
    fn values(root: &Pair, issuer: &Pair) -> Json {
        json!({
            "identityTrustAnchorsPEM": root.certificate.to_pem(),
            "identity": { "issuer": { "tls": { "crtPEM": issuer.certificate.to_pem(), "keyPEM": issuer.key_pem() } } },
        })
    }

    fn refused(values: &Json, now: SystemTime) -> String {
        check(values, "linkerd", now).unwrap_err().to_string()
    }

    #[test]
    fn what_fits_is_accepted_and_what_does_not_is_named() {
        let now = SystemTime::now();
        let root = Pair::root("root", 100 * DAY, now).unwrap();
        let issuer = root.issuer("issuer", 50 * DAY, now).unwrap();
        let good = values(&root, &issuer);
        check(&good, "linkerd", now).unwrap();
        check(&json!({}), "linkerd", now).unwrap();
        assert!(refused(&good, now + 60 * DAY).contains("expired"));
        assert!(refused(&good, now + 101 * DAY).contains("no root is valid now"));
        let other = Pair::root("other", 100 * DAY, now).unwrap();
        assert!(refused(&values(&other, &issuer), now).contains("doesn't chain to the trust anchors"));
        let mut swapped = values(&root, &issuer);
        swapped["identity"]["issuer"]["tls"]["keyPEM"] = other.key_pem().into();
        assert!(refused(&swapped, now).contains("don't belong together"));
        let leaf = root.server_under(&["a"], DAY, now).unwrap();
        assert!(refused(&values(&root, &leaf), now).contains("not a CA"));
        for nonsense in ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let text = refused(&json!({ "identityTrustAnchorsPEM": nonsense }), now);
            assert!(text.contains("trust anchor") && text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn webhooks_need_their_own_name() {
        let now = SystemTime::now();
        let of = |names: &[&str]| {
            let pair = Pair::server(names, DAY, now).unwrap();
            json!({ "profileValidator": { "crtPEM": pair.certificate.to_pem(), "keyPEM": pair.key_pem() } })
        };
        let good = of(&["linkerd-sp-validator.linkerd.svc"]);
        check(&good, "linkerd", now).unwrap();
        assert!(refused(&good, now + 2 * DAY).contains("not valid now"));
        assert!(refused(&of(&["linkerd-sp-validator.mesh.svc"]), now).contains("and not for linkerd-sp-validator.linkerd.svc"));
        let mut swapped = good;
        swapped["profileValidator"]["keyPEM"] = Pair::root("a", DAY, now).unwrap().key_pem().into();
        assert!(refused(&swapped, now).contains("don't belong together"));
    }
}
