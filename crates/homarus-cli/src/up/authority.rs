//! The certificates of a mesh on this machine: kept with its state, renewed long before they end.

use std::time::{Duration, SystemTime};

use homarus_identity::authority::{MakeError, Pair};
use homarus_identity::{Certificate, Key, pem};
use homarus_local::up::State;
use serde_json::{Value, json};

use crate::failure::Failure;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFETIME: Duration = DAY.saturating_mul(3650);
const ISSUER_LIFETIME: Duration = DAY.saturating_mul(365);
/// What must be left of a certificate that is kept. More than `check` asks for.
const LEFT: Duration = DAY.saturating_mul(90);

const ROOT_NAME: &str = "root.linkerd.cluster.local";
const ISSUER_NAME: &str = "identity.linkerd.cluster.local";

/// The root and issuer that were kept, or new ones, as values of the chart.
pub(super) fn values(state: Option<&State>, now: SystemTime) -> Result<Value, Failure> {
    let (root, issuer) = match state.and_then(|state| kept(state, now)) {
        Some(kept) => kept,
        None => made(state, now)?,
    };
    Ok(json!({
        "identityTrustAnchorsPEM": root.certificate.to_pem(),
        "identity": { "issuer": { "tls": { "crtPEM": issuer.certificate.to_pem(), "keyPEM": issuer.key_pem() } } },
    }))
}

fn failed(error: MakeError) -> Failure {
    Failure::new(format!("cannot make the certificates of the mesh: {error}"))
}

fn kept(state: &State, now: SystemTime) -> Option<(Pair, Pair)> {
    let read = |name: &str| {
        let text = |what: &str| std::fs::read_to_string(state.path(&format!("{name}.{what}"))).ok();
        let der = pem::certificates(&text("crt")?).ok()?.into_iter().next()?;
        let pair = Pair { certificate: Certificate::parse(der).ok()?, key: Key::from_pem(&text("key")?).ok()? };
        (pair.certificate.not_after > now + LEFT).then_some(pair)
    };
    Some((read("root")?, read("issuer")?))
}

fn made(state: Option<&State>, now: SystemTime) -> Result<(Pair, Pair), Failure> {
    let root = Pair::root(ROOT_NAME, ROOT_LIFETIME, now).map_err(failed)?;
    let issuer = root.issuer(ISSUER_NAME, ISSUER_LIFETIME, now).map_err(failed)?;
    if let Some(state) = state {
        for (name, pair) in [("root", &root), ("issuer", &issuer)] {
            state.write_secret(&format!("{name}.key"), &pair.key_pem()).map_err(Failure::new)?;
            state.write_secret(&format!("{name}.crt"), &pair.certificate.to_pem()).map_err(Failure::new)?;
        }
    }
    Ok((root, issuer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_are_kept_until_they_grow_old() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::take(&folder.path().join("state")).unwrap();
        let now = SystemTime::now();
        let at = |now| values(Some(&state), now).unwrap();
        let first = at(now);
        assert_eq!(first, at(now));
        assert_eq!(first, at(now + DAY));
        let roots = |values: &Value| values["identityTrustAnchorsPEM"].clone();
        assert_ne!(roots(&first), roots(&at(now + DAY * 300)), "an issuer that ends soon is replaced with its root");
        assert_ne!(roots(&values(None, now).unwrap()), roots(&values(None, now).unwrap()));
    }
}
