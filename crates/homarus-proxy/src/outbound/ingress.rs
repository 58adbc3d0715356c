//! Ingress mode: each request may say by name where it goes (proxy-wire §7.4).
//!
//! Only names are taken, and only the control plane says where one leads: nothing is resolved, so that whoever may write the
//! header reaches the Services of the cluster and nothing else. What can't be read as one name is refused, and never sent
//! where the connection was going.

use super::destination::Destination;
use crate::{fault::Cause, http::headers, net::Instant, worker::Worker};
use homarus_model::{Authority, name::Host};
use http::HeaderMap;
use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

/// Names that the requests of one worker choose at once, at most.
const MAX_NAMES: usize = 4096;
/// How long a name is remembered that leads nowhere. Names may be made up by whoever sends requests, and each is asked about.
const REMEMBER_UNKNOWN: Duration = Duration::from_secs(1);
/// The port of a name that has none.
const DEFAULT_PORT: u16 = 80;

/// The destinations of one worker by the names that requests chose lately, as they wrote them.
pub struct Names {
    worker: Rc<Worker>,
    known: RefCell<HashMap<Box<[u8]>, Rc<Destination>, ahash::RandomState>>,
}

impl Names {
    /// None yet.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { worker, known: RefCell::default() }
    }

    /// The destination that a request chooses; none: it goes where its connection was going. The header stays here.
    pub fn chosen(&self, fields: &mut HeaderMap, now: Instant) -> Option<Result<Rc<Destination>, Cause>> {
        let several = fields.get_all(&headers::DST_OVERRIDE).iter().nth(1).is_some();
        let value = fields.remove(&headers::DST_OVERRIDE)?;
        Some(match several {
            true => Err(Cause::Refused("l5d-dst-override is there more than once".into())),
            false => self.destination(value.as_bytes(), now),
        })
    }

    fn destination(&self, name: &[u8], now: Instant) -> Result<Rc<Destination>, Cause> {
        if let Some(known) = self.known.borrow().get(name) {
            known.used(now);
            return Ok(known.clone());
        }
        let authority = parse(name)?;
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_NAMES {
            return Err(Cause::LoadShed);
        }
        let made = Destination::new(&self.worker, authority);
        known.insert(name.into(), made.clone());
        Ok(made)
    }

    /// Forgets names that no request has chosen for the idle time.
    pub fn forget_idle(&self, now: Instant, idle: Duration) {
        let limit = |destination: &Destination| if destination.leads_nowhere() { idle.min(REMEMBER_UNKNOWN) } else { idle };
        self.known.borrow_mut().retain(|_, destination| destination.is_held(now, limit(destination)));
    }
}

/// `name[:port]`. An address would be a way around what the control plane allows.
fn parse(name: &[u8]) -> Result<Authority, Cause> {
    let refused = |problem: &str| {
        let text = String::from_utf8_lossy(name);
        Cause::Refused(format!(
            "l5d-dst-override {text:?}: {problem}; it takes <service>.<namespace>.svc.<cluster domain>[:<port>]"
        ))
    };
    let text = std::str::from_utf8(name).map_err(|_| refused("not ASCII"))?;
    let authority = Authority::parse(text, DEFAULT_PORT).map_err(|error| refused(&error.to_string()))?;
    match authority.host {
        Host::Name(_) => Ok(authority),
        Host::Ip(_) => Err(refused("an address is no name")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_nothing_else() {
        for (text, name) in [
            ("web.shop.svc.cluster.local", "web.shop.svc.cluster.local:80"),
            ("Web.shop.svc.cluster.local.:8080", "web.shop.svc.cluster.local:8080"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().to_string(), name);
        }
        for bad in ["", "10.0.0.1:80", "[::1]:80", "web:0", "web:x", "http://web", "a b", "a@b", "a,b", "web\u{e9}"] {
            assert!(matches!(parse(bad.as_bytes()), Err(Cause::Refused(why)) if why.contains("<service>")), "{bad:?}");
        }
        assert!(parse(b"web\xff").is_err());
    }
}
