//! What to do next about a webhook's certificate: pure, so that any replica that looks at the same Secret does the same.
//!
//! A renewal takes three steps, so that no API server meets a certificate that it can't verify: the next certificate is put
//! beside the one in use, and its CA into the bundle; the API server is told the bundle; only then, and not before every API server
//! of the cluster has had time to hear of it ([`HEARD`]), the next takes the place.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use homarus_identity::authority::{BACKDATED, MakeError};
use homarus_identity::webhook::{LIFETIME, Serving, bundle, vouches};
use homarus_identity::{Certificate, pem, renewal};

use super::super::serving::certified;

const CRT: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";
const NEXT_CRT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// How long after a successor was made every API server knows its CA: they follow configurations by watches. It isn't urgent.
const HEARD: Duration = Duration::from_secs(5 * 60);

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) crt: String,
    pub(super) key: String,
}

impl Pair {
    fn of(serving: &Serving) -> Self {
        Self { crt: serving.leaf.certificate.to_pem(), key: serving.leaf.key_pem() }
    }

    /// The leaf, if it is one, has this key, and the bundle vouches for it by this name.
    fn good(&self, bundle: &str, name: &str, now: SystemTime) -> Option<Certificate> {
        certified(self.crt.as_bytes(), self.key.as_bytes()).ok()?;
        let leaf = leaf(&self.crt)?;
        vouches(bundle, &leaf, name, now).then_some(leaf)
    }
}

fn leaf(crt: &str) -> Option<Certificate> {
    Certificate::parse(pem::certificates(crt).ok()?.into_iter().next()?).ok()
}

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) pair: Pair,
    /// What the API server is to believe.
    pub(super) bundle: String,
    /// What takes the place of the pair once the API server believes it.
    pub(super) next: Option<Pair>,
}

impl Held {
    pub(super) fn read(data: &BTreeMap<String, Vec<u8>>) -> Self {
        let text = |name: &str| data.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let pair = |crt, key| Some(Pair { crt: text(crt)?, key: text(key)? });
        Self {
            pair: pair(CRT, KEY).unwrap_or(Pair { crt: String::new(), key: String::new() }),
            bundle: text(BUNDLE).unwrap_or_default(),
            next: pair(NEXT_CRT, NEXT_KEY),
        }
    }

    pub(super) fn write(&self) -> BTreeMap<String, Vec<u8>> {
        let mut data = vec![(CRT, &self.pair.crt), (KEY, &self.pair.key), (BUNDLE, &self.bundle)];
        if let Some(next) = &self.next {
            data.extend([(NEXT_CRT, &next.crt), (NEXT_KEY, &next.key)]);
        }
        data.into_iter().map(|(name, text)| (name.to_owned(), text.clone().into_bytes())).collect()
    }

    /// When the certificate in use ends.
    pub(super) fn not_after(&self) -> Option<SystemTime> {
        Some(leaf(&self.pair.crt)?.not_after)
    }

    /// Whether the API server, which was told this bundle, would believe the certificate in use.
    pub(super) fn believed(&self, told: &str, name: &str, now: SystemTime) -> bool {
        self.pair.good(told, name, now).is_some()
    }

    fn fresh(told: &str, name: &str, now: SystemTime) -> Result<Self, MakeError> {
        let serving = Serving::make(name, LIFETIME, now)?;
        // What was believed before stays: another replica may still answer with it.
        let bundle = bundle(&serving.authority, told, now);
        Ok(Self { pair: Pair::of(&serving), bundle, next: None })
    }

    fn staged(&self, name: &str, now: SystemTime) -> Result<Self, MakeError> {
        let serving = Serving::make(name, LIFETIME, now)?;
        let bundle = bundle(&serving.authority, &self.bundle, now);
        Ok(Self { pair: self.pair.clone(), bundle, next: Some(Pair::of(&serving)) })
    }
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write this into the Secret, because of this.
    Write(Box<Held>, &'static str),
    /// Tell the API server this bundle.
    Tell(String),
    /// Look again later.
    Rest,
}

/// What to do, given what the Secret holds and what the API server was told (nothing, if there is no configuration yet).
pub(super) fn next(held: Option<&Held>, told: Option<&str>, name: &str, now: SystemTime) -> Result<Step, MakeError> {
    let write = |held: Held, why| Ok(Step::Write(Box::new(held), why));
    let before = told.unwrap_or_default();
    let Some(held) = held else { return write(Held::fresh(before, name, now)?, "there is none") };
    let Some(leaf) = held.pair.good(&held.bundle, name, now) else {
        return write(Held::fresh(before, name, now)?, "what is there can't be used");
    };
    match told {
        None => return Ok(Step::Rest),
        Some(told) if told != held.bundle => return Ok(Step::Tell(held.bundle.clone())),
        Some(_) => {}
    }
    let successor = held.next.as_ref().and_then(|next| Some((next, next.good(&held.bundle, name, now)?)));
    match successor {
        Some((_, leaf)) if now < leaf.not_before + BACKDATED + HEARD => Ok(Step::Rest),
        Some((next, _)) => {
            write(Held { pair: next.clone(), bundle: held.bundle.clone(), next: None }, "the next one is believed by now")
        }
        _ if now >= renewal::due(&leaf) => write(held.staged(name, now)?, "the one in use is due"),
        _ => Ok(Step::Rest),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NAME: &str = "linkerd-sp-validator.linkerd.svc";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn written(step: Step) -> Held {
        match step {
            Step::Write(held, _) => Held::read(&held.write()),
            other => panic!("nothing is written: {other:?}"),
        }
    }

    #[test]
    fn the_first_is_made_told_and_left_alone() {
        let now = SystemTime::now();
        let held = written(next(None, None, NAME, now).unwrap());
        assert_eq!(next(Some(&held), None, NAME, now).unwrap(), Step::Rest, "without a configuration nobody can be told");
        assert_eq!(next(Some(&held), Some(""), NAME, now).unwrap(), Step::Tell(held.bundle.clone()));
        assert_eq!(next(Some(&held), Some(&held.bundle), NAME, now).unwrap(), Step::Rest);
        assert!(held.believed(&held.bundle, NAME, now) && !held.believed("", NAME, now));
    }

    #[test]
    fn a_renewal_is_never_unbelieved() {
        let now = SystemTime::now();
        let first = written(next(None, None, NAME, now).unwrap());
        let due = now + 250 * DAY;
        let staged = written(next(Some(&first), Some(&first.bundle), NAME, due).unwrap());
        assert_eq!(staged.pair, first.pair, "the one in use stays until its successor is believed");
        assert!(staged.next.is_some());
        assert_eq!(next(Some(&staged), Some(&first.bundle), NAME, due).unwrap(), Step::Tell(staged.bundle.clone()));
        let early = due + HEARD - Duration::from_secs(2);
        assert_eq!(next(Some(&staged), Some(&staged.bundle), NAME, early).unwrap(), Step::Rest, "somebody may not have heard");
        let renewed = written(next(Some(&staged), Some(&staged.bundle), NAME, due + HEARD).unwrap());
        assert_eq!((Some(&renewed.pair), &renewed.next), (staged.next.as_ref(), &None));
        for believed in [&first, &renewed] {
            assert!(believed.believed(&staged.bundle, NAME, due), "a replica that is late is still believed");
        }
        assert_eq!(next(Some(&renewed), Some(&staged.bundle), NAME, due).unwrap(), Step::Rest);
    }

    #[test]
    fn what_cannot_be_used_is_made_again() {
        let now = SystemTime::now();
        let good = written(next(None, None, NAME, now).unwrap());
        let other = written(next(None, None, NAME, now).unwrap());
        let broken = [
            Held { pair: Pair { crt: good.pair.crt.clone(), key: other.pair.key.clone() }, ..good.clone() },
            Held { bundle: other.bundle.clone(), ..good.clone() },
            Held::read(&BTreeMap::new()),
            written(next(None, None, "other.linkerd.svc", now).unwrap()),
        ];
        for held in broken {
            let made = written(next(Some(&held), Some(&good.bundle), NAME, now).unwrap());
            assert!(made.believed(&made.bundle, NAME, now));
            assert!(good.believed(&made.bundle, NAME, now), "what was believed before stays for late replicas");
        }
        let expired = next(Some(&good), Some(&good.bundle), NAME, now + 400 * DAY).unwrap();
        assert!(matches!(expired, Step::Write(_, "what is there can't be used")));
    }

    #[test]
    fn a_successor_that_cannot_be_used_is_made_again() {
        let now = SystemTime::now();
        let first = written(next(None, None, NAME, now).unwrap());
        let bad = Held { next: Some(Pair { crt: "x".into(), key: "y".into() }), ..first.clone() };
        assert_eq!(next(Some(&bad), Some(&bad.bundle), NAME, now).unwrap(), Step::Rest);
        let staged = written(next(Some(&bad), Some(&bad.bundle), NAME, now + 250 * DAY).unwrap());
        assert!(staged.next.unwrap().good(&staged.bundle, NAME, now + 250 * DAY).is_some());
    }
}
