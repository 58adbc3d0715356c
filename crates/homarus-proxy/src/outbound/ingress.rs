//! Ingress mode: each request may say by name where it goes (proxy-wire §7.4).
//!
//! Only names are taken, and only the control plane says where one leads: nothing is resolved, so that whoever may write the
//! header reaches the Services of the cluster and nothing else. What can't be read as one name is refused, and never sent
//! where the connection was going.

use super::destination::{Destination, Standing};
use crate::{fault::Cause, http::headers, net::Instant, worker::Worker};
use homarus_model::{Authority, name::Host};
use http::HeaderMap;
use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

/// Names that lead somewhere and that the requests of one worker choose at once, at most.
const MAX_KNOWN: usize = 2048;
/// Names that lead nowhere, or that nothing was heard of, at most. Names may be made up by whoever sends requests, and each is
/// asked about on two streams: so they have few places, and none that a true name would need.
const MAX_UNKNOWN: usize = 128;
/// How long a name is remembered that leads nowhere.
const REMEMBER_UNKNOWN: Duration = Duration::from_secs(1);
/// The port of a name that has none.
const DEFAULT_PORT: u16 = 80;

/// The destinations of one worker by the names that requests chose lately.
pub struct Names {
    worker: Rc<Worker>,
    table: RefCell<Table<Destination>>,
}

/// What is behind a name.
trait Named {
    fn standing(&self) -> Standing;
    fn last_used(&self) -> Instant;
}

impl Named for Destination {
    fn standing(&self) -> Standing {
        Destination::standing(self)
    }

    fn last_used(&self) -> Instant {
        Destination::last_used(self)
    }
}

/// Names, in two parts: those that are made up can't push out those that lead somewhere.
struct Table<T> {
    known: HashMap<Authority, Rc<T>, ahash::RandomState>,
    unknown: HashMap<Authority, Rc<T>, ahash::RandomState>,
}

impl<T: Named> Table<T> {
    fn new() -> Self {
        Self { known: HashMap::default(), unknown: HashMap::default() }
    }

    fn get(&self, name: &Authority) -> Option<&Rc<T>> {
        self.known.get(name).or_else(|| self.unknown.get(name))
    }

    /// Whether there is room for one more name.
    fn make_room(&mut self) -> bool {
        if self.unknown.len() >= MAX_UNKNOWN {
            self.promote();
            self.unknown.retain(|_, named| named.standing() != Standing::Nowhere);
        }
        self.unknown.len() < MAX_UNKNOWN
    }

    /// Moves what has been heard of to where it stays; what was used longest ago makes way.
    fn promote(&mut self) {
        for (name, named) in self.unknown.extract_if(|_, named| named.standing() == Standing::Somewhere) {
            if self.known.len() >= MAX_KNOWN {
                let oldest = self.known.iter().min_by_key(|(_, named)| named.last_used()).map(|(name, _)| name.clone());
                oldest.map(|name| self.known.remove(&name));
            }
            self.known.insert(name, named);
        }
    }
}

impl Names {
    /// None yet.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { worker, table: RefCell::new(Table::new()) }
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
        // One name has many spellings, and one place.
        let authority = parse(name)?;
        let mut table = self.table.borrow_mut();
        if let Some(known) = table.get(&authority) {
            known.used(now);
            return Ok(known.clone());
        }
        if !table.make_room() {
            return Err(Cause::LoadShed);
        }
        let made = Destination::new(&self.worker, authority.clone());
        table.unknown.insert(authority, made.clone());
        Ok(made)
    }

    /// Forgets names that no request has chosen for the idle time.
    pub fn forget_idle(&self, now: Instant, idle: Duration) {
        let limit = |destination: &Destination| match destination.standing() {
            Standing::Somewhere => idle,
            Standing::Nowhere | Standing::Asked => idle.min(REMEMBER_UNKNOWN),
        };
        let table = &mut *self.table.borrow_mut();
        table.promote();
        for part in [&mut table.known, &mut table.unknown] {
            part.retain(|_, destination| destination.is_held(now, limit(destination)));
        }
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
    use crate::net;

    struct Fake(Standing, Instant);

    impl Named for Fake {
        fn standing(&self) -> Standing {
            self.0
        }

        fn last_used(&self) -> Instant {
            self.1
        }
    }

    fn name(kind: &str, n: usize) -> Authority {
        parse(format!("{kind}{n}.shop.svc.cluster.local").as_bytes()).unwrap()
    }

    #[test]
    fn made_up_names_take_no_place_of_true_ones() {
        let mut table = Table::new();
        let mut put = |name: Authority, standing, age| {
            let room = table.make_room();
            if room {
                table.unknown.insert(name, Rc::new(Fake(standing, net::now() - Duration::from_secs(age))));
            }
            (room, table.known.len(), table.unknown.len())
        };
        for n in 0..3 * MAX_UNKNOWN {
            assert!(put(name("made-up", n), Standing::Nowhere, 0).0, "{n}");
        }
        for n in 0..MAX_KNOWN + 2 * MAX_UNKNOWN {
            let (room, known, unknown) = put(name("true", n), Standing::Somewhere, if n == 7 { 9 } else { 1 });
            assert!(room && known <= MAX_KNOWN && unknown <= MAX_UNKNOWN, "{n}: {known} {unknown}");
        }
        // While nobody answers, there is an end to it.
        let asked = (0..2 * MAX_UNKNOWN).filter(|n| put(name("asked", *n), Standing::Asked, 0).0).count();
        assert_eq!(asked, MAX_UNKNOWN);
        assert!(table.get(&name("true", 7)).is_none(), "what was used longest ago makes way");
        assert_eq!(table.known.len(), MAX_KNOWN);
    }

    #[test]
    fn spellings_of_a_name_are_one() {
        let spelled = |text: &str| parse(text.as_bytes()).unwrap();
        for text in ["WEB.shop.svc.cluster.local", "web.shop.svc.cluster.local.", "web.shop.svc.cluster.local:80"] {
            assert_eq!(spelled(text), spelled("web.shop.svc.cluster.local"), "{text}");
        }
    }

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
