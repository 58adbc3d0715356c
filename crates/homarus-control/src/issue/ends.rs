//! Certificates that end soon, told long before they do.
//!
//! What this controller makes it replaces in time, so that nothing is told unless something keeps it from that; what somebody
//! else provides may have been forgotten.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use homarus_daemon::drain::Drain;
use homarus_identity::{Certificate, renewal};
use tokio::time::Instant;

use super::material::{Current, InForce};
use super::service::Log;

/// How often is looked.
const LOOK: Duration = Duration::from_secs(600);
/// How often the same certificate is told of.
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What to say about a certificate of this kind; none while there is time.
pub(super) fn warning(what: &str, certificate: &Certificate, now: SystemTime) -> Option<String> {
    if now < renewal::overdue(certificate) {
        return None;
    }
    let hours = renewal::left(certificate, now).as_secs() / 3600;
    let left = match hours {
        0 => "in less than an hour, or has ended".to_owned(),
        1..48 => format!("in {hours} hours"),
        _ => format!("in {} days", hours / 24),
    };
    Some(format!("{what} {} ends {left}: replace it", certificate.subject))
}

/// Looks until the program drains.
pub(super) async fn watch(mut current: Current, log: Log, mut drain: Drain) {
    let mut told: HashMap<String, Instant> = HashMap::new();
    loop {
        let InForce { issuer, anchors } = current.borrow_and_update().clone();
        let own = [("the identity issuer", issuer.certificate())];
        let all = own.into_iter().chain(anchors.certificates().iter().map(|root| ("the trust anchor", root)));
        told.retain(|_, at| at.elapsed() < AGAIN);
        for (what, certificate) in all {
            let Some(message) = warning(what, certificate, SystemTime::now()) else { continue };
            if told.insert(certificate.fingerprint(), Instant::now()).is_none() {
                log.warning("CertificateEndsSoon", message);
            }
        }
        tokio::select! {
            () = drain.signaled() => return,
            () = tokio::time::sleep(LOOK) => {}
            changed = current.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;

    #[test]
    fn ends_are_told_long_before() {
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let root = Pair::root("root", 360 * day, now).unwrap().certificate;
        let at = |days: u32| warning("the trust anchor", &root, now + days * day);
        assert_eq!(at(299), None);
        assert!(at(301).unwrap().contains("CN=root ends in 5"), "{:?}", at(301));
        assert!(at(359).unwrap().contains(" hours"));
        assert!(at(361).unwrap().contains("has ended"));
    }
}
