//! Serving certificates of webhooks: a leaf under a CA of its own, whose key is forgotten at once, so that the bundle that an
//! API server is given can vouch for nothing else.
//!
//! A renewal makes a new CA. Replicas take up the new leaf one after another, and the API server learns the bundle in its own
//! time, so the bundle holds both until the old CA has ended ([`bundle`]).

use std::time::{Duration, SystemTime};

use crate::authority::{MakeError, Pair};
use crate::certificate::Certificate;
use crate::pem;

/// How long serving certificates live. A third of it is left when they are renewed, which is far more than the 60 days from
/// which on `check` warns.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most CAs that a bundle keeps: the new one and those that renewals in quick succession left behind.
pub const MAX_AUTHORITIES: usize = 4;

/// A serving certificate, and who vouches for it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The CA.
    pub authority: Certificate,
    /// The leaf and its key.
    pub leaf: Pair,
}

impl Serving {
    /// A new certificate for a Service's name (`name.namespace.svc`), with a new CA.
    pub fn make(name: &str, lifetime: Duration, now: SystemTime) -> Result<Self, MakeError> {
        let authority = Pair::root(&format!("CA of {name}"), lifetime, now)?;
        let leaf = authority.server_under(&[name], lifetime, now)?;
        Ok(Self { authority: authority.certificate, leaf })
    }
}

/// The bundle that an API server should have: the CA of the certificate in use first, then those of `before` that are still
/// valid. What can't be read in `before` is dropped: whoever wrote it gave us this field.
pub fn bundle(authority: &Certificate, before: &str, now: SystemTime) -> String {
    let old = pem::certificates(before).unwrap_or_default().into_iter().filter_map(|der| Certificate::parse(der).ok());
    let old = old.filter(|old| old.der() != authority.der() && old.is_ca && old.is_current(now));
    std::iter::once(authority.clone()).chain(old).take(MAX_AUTHORITIES).map(|ca| ca.to_pem()).collect()
}

/// Whether a bundle vouches for a leaf now, as an API server would ask it.
pub fn vouches(bundle: &str, leaf: &Certificate, name: &str, now: SystemTime) -> bool {
    let Ok((anchors, _)) = crate::TrustAnchors::from_pem_lossy(bundle) else { return false };
    leaf.names.iter().any(|own| own == name)
        && crate::chain::verify_chain(leaf.der(), &[], &anchors, crate::chain::Role::Server, now).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::renewal;

    const NAME: &str = "linkerd-proxy-injector.linkerd.svc";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_bundle_vouches_for_the_old_and_the_new_until_the_old_ends() {
        let now = SystemTime::now();
        let old = Serving::make(NAME, 90 * DAY, now).unwrap();
        let first = bundle(&old.authority, "", now);
        assert!(vouches(&first, &old.leaf.certificate, NAME, now));
        assert!(!vouches(&first, &old.leaf.certificate, "other.linkerd.svc", now));
        let later = renewal::due(&old.leaf.certificate);
        let new = Serving::make(NAME, LIFETIME, later).unwrap();
        assert!(!vouches(&first, &new.leaf.certificate, NAME, later), "nobody knows the new CA yet");
        let both = bundle(&new.authority, &first, later);
        for leaf in [&old.leaf, &new.leaf] {
            assert!(vouches(&both, &leaf.certificate, NAME, later));
        }
        assert_eq!(bundle(&new.authority, &both, later), both, "saying it twice changes nothing");
        let after = later + 91 * DAY;
        assert_eq!(bundle(&new.authority, &both, after), new.authority.to_pem());
    }

    #[test]
    fn renewals_leave_time_to_mend_what_stops_them() {
        let now = SystemTime::now();
        let serving = Serving::make(NAME, LIFETIME, now).unwrap();
        let leaf = &serving.leaf.certificate;
        assert!(renewal::left(leaf, renewal::due(leaf)) > 120 * DAY);
        assert!(renewal::left(leaf, renewal::overdue(leaf)) > 60 * DAY);
        assert_eq!(renewal::left(leaf, now + 366 * DAY), Duration::ZERO);
    }

    #[test]
    fn bundles_stay_small_and_drop_what_is_no_ca() {
        let now = SystemTime::now();
        let mut text = "nonsense".to_owned();
        for _ in 0..10 {
            text = bundle(&Serving::make(NAME, LIFETIME, now).unwrap().authority, &text, now);
        }
        assert_eq!(pem::certificates(&text).unwrap().len(), MAX_AUTHORITIES);
        let serving = Serving::make(NAME, LIFETIME, now).unwrap();
        let leaf = serving.leaf.certificate.to_pem();
        assert_eq!(bundle(&serving.authority, &leaf, now), serving.authority.to_pem());
    }
}
