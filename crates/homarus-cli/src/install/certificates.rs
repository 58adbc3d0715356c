//! The certificates that flags name: read, and found good, before anything is printed.

use std::time::SystemTime;

use homarus_identity::anchors::TrustAnchors;
use homarus_identity::issuer::{Issuer, Validity};

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
        return Err(Failure::new("cannot update issuer certificates if you are using external cert management solution"));
    }
    match (certificate, key) {
        (None, Some(_)) => return Err(Failure::new("a certificate file must be specified if other credentials are provided")),
        (Some(_), None) => return Err(Failure::new("a private key file must be specified if other credentials are provided")),
        _ => {}
    }
    let [anchors, certificate, key] = [anchors, certificate, key].map(|file| file.map(text_of).transpose());
    let (anchors, certificate, key) = (anchors?, certificate?, key?);
    validate(anchors.as_deref(), certificate.as_deref(), key.as_deref())?;
    into.put("identityTrustAnchorsPEM", anchors);
    into.put("identity.issuer.tls.crtPEM", certificate);
    into.put("identity.issuer.tls.keyPEM", key);
    Ok(())
}

fn text_of(file: &str) -> Result<String, Failure> {
    super::read_file(file).map_err(|error| Failure::new(format!("cannot read {file}: {error}")))
}

fn validate(anchors: Option<&str>, certificate: Option<&str>, key: Option<&str>) -> Result<(), Failure> {
    let Some(anchors) = anchors else {
        return match certificate {
            Some(_) => Err(Failure::new("a trust anchors file must be specified if other credentials are provided")),
            None => Ok(()),
        };
    };
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new(format!("failed to validate issuer credentials: {error}"))
            .remedy("Make sure that the files belong together, and are valid now: `openssl verify -CAfile ANCHORS ISSUER`.")
    };
    let anchors = TrustAnchors::from_pem(anchors).map_err(|error| invalid(&error))?;
    if let (Some(certificate), Some(key)) = (certificate, key) {
        let now = SystemTime::now();
        let issuer = Issuer::from_pem(certificate, key, &anchors, Validity::default(), now).map_err(|error| invalid(&error))?;
        issuer.verify_current(now).map_err(|error| invalid(&error))?;
    }
    Ok(())
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
