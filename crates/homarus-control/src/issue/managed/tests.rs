//! The plan, played on a cluster that exists only here: its objects, its proxies and its clock.
//!
//! After every step the one law is checked: any two proxies believe each other. And at any point the leader may die, which
//! here means that nothing but what is stored and said is known at the next step, as the plan has no memory.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_identity::authority::Pair;
use homarus_identity::issuer::Validity;
use homarus_identity::{Certificate, Credential, Issuer, Key, TrustAnchors, csr};
use proptest::prelude::*;

use super::plan::{Bundle, Chain, Follows, Lifetimes, Member, Observed, Roots, SPREAD, Step, Waiting, next};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const LIFETIMES: Lifetimes = Lifetimes {
    root: Duration::from_secs(3650 * 24 * 3600),
    issuer: Duration::from_secs(365 * 24 * 3600),
    leaf: Duration::from_secs(24 * 3600),
    spread: SPREAD,
    settle: Duration::from_secs(150),
};
const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

/// A proxy: whether it follows, whom it believes, what it shows.
struct Proxy {
    follows: bool,
    /// It runs, but its stream is down: it hears nothing and says nothing.
    deaf: bool,
    started: SystemTime,
    anchors: TrustAnchors,
    credential: Credential,
    expiry: SystemTime,
}

struct Cluster {
    now: SystemTime,
    roots: Option<Roots>,
    bundle: Option<Bundle>,
    issuer: Option<(Pair, Vec<Certificate>)>,
    asked: String,
    proxies: Vec<Proxy>,
    key: Key,
    /// Issuers, how much their leaves carry, and bundles that were found to go together.
    verified: HashSet<(String, usize, String)>,
}

impl Proxy {
    fn carried(&self) -> usize {
        self.credential.certified_key().cert.len()
    }
}

impl Cluster {
    fn new() -> Self {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_262_400);
        let key = Key::generate().unwrap();
        let (roots, bundle, issuer, asked, proxies, verified) = Default::default();
        Self { now, roots, bundle, issuer, asked, proxies, key, verified }
    }

    /// One that is at rest, with proxies of either kind.
    fn with(following: usize, silent: usize) -> Self {
        let mut cluster = Self::new();
        cluster.run_to_rest();
        for follows in std::iter::repeat_n(true, following).chain(std::iter::repeat_n(false, silent)) {
            cluster.start(follows);
        }
        cluster
    }

    fn leaf(&self, anchors: &TrustAnchors) -> (Credential, SystemTime) {
        let (issuer, above) = self.issuer.as_ref().unwrap();
        let chain: String = std::iter::once(&issuer.certificate).chain(above).map(Certificate::to_pem).collect();
        let validity = Validity { lifetime: LIFETIMES.leaf, skew: Duration::ZERO };
        let bundle = &self.bundle.as_ref().unwrap().anchors;
        let issuer = Issuer::from_pem(&chain, &issuer.key_pem(), bundle, validity, self.now).unwrap();
        let name = NAME.parse().unwrap();
        let request = csr::make(&name, &self.key).unwrap();
        let leaf = issuer.issue(&csr::Request::parse(&request).unwrap(), NAME, self.now).unwrap();
        let above = issuer.intermediates().map(|der| der.to_vec()).collect();
        // As a proxy does: what it wouldn't believe itself it doesn't take.
        let credential = Credential::verified(&name, &self.key, leaf.der().to_vec(), above, anchors, self.now).unwrap();
        (credential, leaf.not_after)
    }

    fn start(&mut self, follows: bool) {
        let anchors = self.bundle.as_ref().unwrap().anchors.clone();
        self.start_with(follows, anchors);
    }

    fn start_with(&mut self, follows: bool, anchors: TrustAnchors) {
        let (credential, expiry) = self.leaf(&anchors);
        self.proxies.push(Proxy { follows, deaf: false, started: self.now, anchors, credential, expiry });
    }

    fn observe(&self) -> Observed {
        let member = |(i, proxy): (usize, &Proxy)| Member {
            name: format!("shop/{i}"),
            started: proxy.started,
            follows: match proxy.follows && !proxy.deaf {
                true => Follows::Says { bundle: proxy.anchors.fingerprint(), issuer: proxy.credential.issuer().unwrap() },
                false => Follows::Silent(Some(proxy.anchors.certificates().iter().map(Certificate::fingerprint).collect())),
            },
            refused: String::new(),
        };
        let chain =
            |(own, above): &(Pair, Vec<Certificate>)| Chain { own: own.certificate.clone(), carries_more: !above.is_empty() };
        Observed {
            roots: self.roots.clone(),
            bundle: self.bundle.clone(),
            issuer: self.issuer.as_ref().map(chain),
            asked: self.asked.clone(),
            fleet: Some(self.proxies.iter().enumerate().map(member).collect()),
        }
    }

    /// Does a step, as the keeper does.
    fn perform(&mut self, step: &Step) {
        let root = |now| Pair::root(&format!("root {now:?}"), LIFETIMES.root, now).unwrap();
        match step {
            Step::MakeRoot => {
                self.roots = Some(Roots { current: root(self.now), next: None, answered: self.asked.clone() });
            }
            Step::Publish(roots) => {
                let pem: String = roots.iter().map(Certificate::to_pem).collect();
                self.bundle = Some(Bundle { anchors: TrustAnchors::from_pem(&pem).unwrap(), since: self.now });
            }
            Step::MakeIssuer { vouched } => {
                let roots = self.roots.as_ref().unwrap();
                let target = roots.target();
                let above = vouched.then(|| roots.current.cross_sign(&target.certificate, self.now).unwrap());
                self.issuer = Some((target.issuer("issuer", LIFETIMES.issuer, self.now).unwrap(), above.into_iter().collect()));
            }
            Step::Begin => {
                let roots = self.roots.as_mut().unwrap();
                (roots.next, roots.answered) = (Some(root(self.now)), self.asked.clone());
            }
            Step::Promote => {
                let roots = self.roots.as_mut().unwrap();
                roots.current = roots.next.take().unwrap();
            }
            Step::Trim => self.issuer.as_mut().unwrap().1.clear(),
            Step::Wait(..) | Step::Rest => {}
            Step::Survey => panic!("everybody was looked at"),
        }
    }

    fn step(&mut self) -> Step {
        let step = next(&self.observe(), &LIFETIMES, self.now);
        self.perform(&step);
        self.check();
        step
    }

    fn run_to_rest(&mut self) {
        for _ in 0..10 {
            if matches!(self.step(), Step::Rest) {
                return;
            }
        }
        panic!("no rest");
    }

    /// A proxy hears what is told, and gets a leaf if it has to; one that can't follow renews when it is time.
    fn hear(&mut self, i: usize) {
        self.listen(i);
        self.check();
    }

    fn listen(&mut self, i: usize) {
        let bundle = self.bundle.as_ref().unwrap().anchors.clone();
        let signer = self.issuer.as_ref().unwrap().0.certificate.fingerprint();
        let proxy = &mut self.proxies[i];
        let listens = proxy.follows && !proxy.deaf;
        if listens && proxy.credential.is_covered(&bundle, self.now).is_ok() {
            proxy.anchors = bundle;
        }
        let (due, other) = (self.now + LIFETIMES.leaf / 3 > proxy.expiry, proxy.credential.issuer() != Some(signer));
        if due || (listens && other) {
            let anchors = proxy.anchors.clone();
            let (credential, expiry) = self.leaf(&anchors);
            (self.proxies[i].credential, self.proxies[i].expiry) = (credential, expiry);
        }
    }

    fn all_hear(&mut self) {
        (0..self.proxies.len()).for_each(|i| self.hear(i));
    }

    /// Time passes, in which proxies renew what is due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += DAY / 4;
            self.all_hear();
        }
    }

    /// Months pass, in which proxies renew; at the end of each the leader does what is due. (Of all leaves only the last is made.)
    fn leap(&mut self, months: u32) {
        for _ in 0..months {
            self.now += 30 * DAY;
            (0..self.proxies.len()).for_each(|i| self.listen(i));
            let waits = |step: &Step| matches!(step, Step::Wait(..) | Step::Rest);
            let waiting = (0..10).map(|_| self.step()).any(|step| waits(&step));
            assert!(waiting, "steps without end");
            self.all_hear();
        }
    }

    /// The issuer's Secret is deleted, as people are told to do when it can't be read.
    fn lose_issuer(&mut self) -> Step {
        self.issuer = None;
        for _ in 0..3 {
            let step = self.step();
            if self.issuer.is_some() {
                return step;
            }
        }
        panic!("no issuer");
    }

    /// The law.
    fn check(&mut self) {
        for i in 0..self.proxies.len() {
            assert!(self.now <= self.proxies[i].expiry, "the leaf of {i} has ended");
            for j in 0..self.proxies.len() {
                let (one, other) = (&self.proxies[i], &self.proxies[j]);
                // Verified once: most have the same chain and the same roots.
                let pair = (one.credential.issuer().unwrap(), one.carried(), other.anchors.fingerprint());
                if !self.verified.contains(&pair) {
                    let believed = one.credential.is_covered(&other.anchors, self.now);
                    assert!(believed.is_ok(), "{j} doesn't believe {i}: {believed:?}");
                    self.verified.insert(pair);
                }
            }
        }
    }

    fn waits(&mut self) -> Option<(Waiting, Vec<String>)> {
        match self.step() {
            Step::Wait(waiting, names) => Some((waiting, names)),
            _ => None,
        }
    }

    fn ask(&mut self) {
        self.asked.push('!');
    }
}

#[test]
fn a_new_mesh_is_whole_after_three_steps() {
    let mut cluster = Cluster::new();
    let steps: Vec<Step> = (0..4).map(|_| cluster.step()).collect();
    assert!(
        matches!(&steps[..], [Step::MakeRoot, Step::Publish(roots), Step::MakeIssuer { vouched: false }, Step::Rest] if roots.len() == 1),
        "{steps:?}"
    );
}

#[test]
fn a_rotation_goes_through_in_order() {
    let mut cluster = Cluster::with(3, 0);
    let first = cluster.roots.as_ref().unwrap().current.certificate.clone();
    cluster.ask();
    assert!(matches!(cluster.step(), Step::Begin));
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 2));
    // Old and new everywhere, counted ...
    cluster.now += SPREAD;
    assert_eq!(cluster.waits(), Some((Waiting::Belief, vec!["shop/0".into(), "shop/1".into(), "shop/2".into()])));
    cluster.hear(0);
    cluster.hear(2);
    assert_eq!(cluster.waits(), Some((Waiting::Belief, vec!["shop/1".into()])));
    cluster.hear(1);
    // ... then the new issuer, ...
    assert!(matches!(cluster.step(), Step::MakeIssuer { vouched: true }));
    assert_eq!(cluster.waits().unwrap().1.len(), 3);
    cluster.hear(0);
    cluster.hear(1);
    // ... all leaves, ...
    assert_eq!(cluster.waits(), Some((Waiting::Leaves, vec!["shop/2".into()])));
    cluster.hear(2);
    assert_eq!(cluster.waits(), Some((Waiting::Leaves, vec![])), "pods may still be made with the old bundle");
    cluster.now += LIFETIMES.settle;
    // ... and the old is dropped.
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 1 && roots[0].der() != first.der()));
    assert!(matches!(cluster.step(), Step::Promote));
    assert!(matches!(cluster.step(), Step::Trim));
    assert!(matches!(cluster.step(), Step::Rest), "asked once, done once");
    cluster.all_hear();
    assert!(cluster.proxies.iter().all(|proxy| proxy.anchors.certificates().len() == 1));
}

#[test]
fn proxies_that_can_not_follow_are_named_and_keep_the_old_root() {
    let mut cluster = Cluster::with(1, 2);
    cluster.ask();
    (0..200).for_each(|_| {
        cluster.now += 30 * SECOND;
        cluster.step();
        cluster.all_hear();
    });
    let restarts = || Some((Waiting::Restarts, vec!["shop/1".to_owned(), "shop/2".to_owned()]));
    assert_eq!(cluster.waits(), restarts(), "the rest of the way was gone without them");
    assert_eq!(cluster.bundle.as_ref().unwrap().anchors.certificates().len(), 2);
    // Days later nothing has become worse.
    cluster.pass(3 * DAY);
    assert_eq!(cluster.waits(), restarts());
    for _ in 0..2 {
        cluster.proxies.remove(1);
        cluster.start(false);
    }
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 1));
    cluster.run_to_rest();
}

#[test]
fn whoever_starts_in_the_middle_with_the_old_root_alone_is_believed() {
    let mut cluster = Cluster::with(2, 0);
    let old = cluster.bundle.as_ref().unwrap().anchors.clone();
    cluster.ask();
    while !matches!(cluster.step(), Step::MakeIssuer { .. }) {
        cluster.now += SPREAD;
        cluster.all_hear();
    }
    cluster.start_with(true, old.clone());
    cluster.start_with(false, old);
    cluster.check();
    cluster.now += LIFETIMES.settle;
    cluster.all_hear();
    assert_eq!(cluster.waits(), Some((Waiting::Restarts, vec!["shop/3".into()])));
}

#[test]
fn roots_of_somebody_else_are_kept_until_everybody_knows_ours() {
    // A mesh whose root's key was never here, as after an installation with certificates of one's own.
    let mut cluster = Cluster::new();
    let foreign = Pair::root("foreign", LIFETIMES.root, cluster.now).unwrap();
    let issuer = foreign.issuer("issuer", LIFETIMES.issuer, cluster.now).unwrap();
    let anchors = TrustAnchors::from_pem(&foreign.certificate.to_pem()).unwrap();
    cluster.bundle = Some(Bundle { anchors, since: cluster.now });
    cluster.issuer = Some((issuer, Vec::new()));
    cluster.start(true);
    cluster.start(false);
    assert!(matches!(cluster.step(), Step::MakeRoot));
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 2));
    cluster.now += DAY;
    cluster.all_hear();
    assert_eq!(cluster.waits(), Some((Waiting::Belief, vec!["shop/1".into()])), "nobody can vouch for our root to it");
    cluster.proxies.remove(1);
    cluster.start(false);
    assert!(matches!(cluster.step(), Step::MakeIssuer { vouched: false }));
    cluster.now += LIFETIMES.settle;
    cluster.all_hear();
    assert_eq!(cluster.waits(), Some((Waiting::Leaves, vec!["shop/1".into()])), "its leaf can't be seen");
    cluster.pass(LIFETIMES.leaf);
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 1));
    cluster.run_to_rest();
}

#[test]
fn certificates_are_replaced_long_before_they_end() {
    let mut cluster = Cluster::with(0, 0);
    let (mut issuers, mut rotations, end) = (0, 0, cluster.now + LIFETIMES.root * 2);
    while cluster.now < end {
        cluster.now += 5 * DAY;
        match cluster.step() {
            Step::MakeIssuer { vouched: false } => issuers += 1,
            Step::Begin => rotations += 1,
            _ => {}
        }
        let issuer = &cluster.issuer.as_ref().unwrap().0.certificate;
        assert!(issuer.not_after > cluster.now + 60 * DAY, "check would warn");
    }
    assert_eq!(rotations, 2);
    assert!(issuers > 20, "{issuers}");
}

#[test]
fn a_lost_issuer_is_made_again_and_an_expired_root_is_not_told() {
    let mut cluster = Cluster::with(2, 0);
    assert!(matches!(cluster.lose_issuer(), Step::MakeIssuer { vouched: false }));
    cluster.run_to_rest();
    // In mid-rotation it has to be believed by those who know the old root alone.
    let mut cluster = Cluster::with(1, 1);
    cluster.ask();
    assert!(matches!(cluster.step(), Step::Begin));
    for seconds in [0, 200, 200] {
        cluster.now += seconds * SECOND;
        assert!(matches!(cluster.lose_issuer(), Step::MakeIssuer { vouched: true }));
        cluster.start(false);
        cluster.now += DAY;
        (0..cluster.proxies.len()).for_each(|i| cluster.listen(i));
        cluster.check();
    }
    // A root that ended while nobody led: nobody believes it, so nobody needs it.
    let mut cluster = Cluster::with(0, 0);
    cluster.now += LIFETIMES.root + DAY;
    assert!(matches!(cluster.step(), Step::Begin));
    assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 1));
    cluster.now += SPREAD;
    assert!(matches!(cluster.step(), Step::MakeIssuer { vouched: false }));
}

#[test]
fn the_issuer_is_renewed_however_long_a_rotation_waits() {
    // Before the new root is believed, as one that follows refuses it; and after, as one that can't follow is never restarted.
    for believed in [false, true] {
        let mut cluster = Cluster::with(2, 1);
        cluster.ask();
        assert!(matches!(cluster.step(), Step::Begin));
        assert!(matches!(cluster.step(), Step::Publish(roots) if roots.len() == 2));
        let old = cluster.issuer.as_ref().unwrap().0.certificate.not_after;
        let stubborn = |cluster: &mut Cluster| {
            let waits = cluster.waits();
            assert!(waits.as_ref().is_none_or(|(waiting, _)| *waiting == Waiting::Belief || believed), "{waits:?}");
        };
        let began = cluster.now;
        while cluster.now < began + 400 * DAY {
            cluster.now += 10 * DAY;
            // First a leaf, then the bundle: nobody takes one that the own leaf doesn't stand on.
            let first = usize::from(!believed);
            (first..3).chain(first..3).for_each(|i| cluster.listen(i));
            if !believed {
                // It renews, and goes on saying that it stands on the old root alone.
                let anchors = cluster.proxies[0].anchors.clone();
                (cluster.proxies[0].credential, cluster.proxies[0].expiry) = cluster.leaf(&anchors);
            }
            match cluster.now < began + 200 * DAY {
                true => stubborn(&mut cluster),
                false => drop(cluster.step()),
            }
            let issuer = &cluster.issuer.as_ref().unwrap().0.certificate;
            assert!(issuer.not_after > cluster.now + 100 * DAY, "it is renewed in time");
        }
        assert!(cluster.issuer.as_ref().unwrap().0.certificate.not_after > old);
        assert_eq!(cluster.bundle.as_ref().unwrap().anchors.certificates().len(), 2, "the old root is still needed");
    }
}

#[test]
fn an_issuer_of_somebody_else_that_has_ended_is_waited_for_no_longer() {
    let mut cluster = Cluster::new();
    let foreign = Pair::root("foreign", LIFETIMES.root, cluster.now).unwrap();
    let anchors = TrustAnchors::from_pem(&foreign.certificate.to_pem()).unwrap();
    cluster.bundle = Some(Bundle { anchors, since: cluster.now });
    cluster.issuer = Some((foreign.issuer("issuer", 30 * DAY, cluster.now).unwrap(), Vec::new()));
    cluster.start(false);
    (0..2).for_each(|_| drop(cluster.step()));
    cluster.pass(29 * DAY);
    assert_eq!(cluster.waits(), Some((Waiting::Belief, vec!["shop/0".into()])));
    // Nobody has a leaf any more: those who follow are helped, whoever can't is lost either way.
    cluster.proxies.clear();
    cluster.now += 2 * DAY;
    assert!(matches!(cluster.step(), Step::MakeIssuer { vouched: false }));
}

/// What happens in a cluster, in any order.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Step,
    Hear(usize),
    Deaf(usize, bool),
    Restart(usize),
    Start(bool),
    Time(u64),
    /// Months.
    Long(u32),
    Ask,
    LoseIssuer,
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        6 => Just(Happens::Step),
        6 => (0..6_usize).prop_map(Happens::Hear),
        1 => (0..6_usize, any::<bool>()).prop_map(|(i, deaf)| Happens::Deaf(i, deaf)),
        2 => (0..6_usize).prop_map(Happens::Restart),
        1 => any::<bool>().prop_map(Happens::Start),
        3 => (0..200_u64).prop_map(Happens::Time),
        1 => (1..14_u32).prop_map(Happens::Long),
        1 => Just(Happens::Ask),
        1 => Just(Happens::LoseIssuer),
    ];
    proptest::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order, any two proxies believe each other; and once it is quiet, all comes to rest.
    #[test]
    fn nobody_is_ever_shut_out(happenings in happenings()) {
        let mut cluster = Cluster::with(2, 1);
        let begun = cluster.now;
        for happens in happenings {
            let at = |i: usize| i % cluster.proxies.len();
            match happens {
                Happens::Step => drop(cluster.step()),
                Happens::Hear(i) => cluster.hear(at(i)),
                Happens::Deaf(i, deaf) => { let i = at(i); cluster.proxies[i].deaf = deaf }
                Happens::Restart(i) => {
                    if cluster.issuer.is_none() { continue }
                    let follows = { let i = at(i); cluster.proxies.remove(i).follows };
                    cluster.start(follows);
                }
                Happens::Start(follows) => if cluster.proxies.len() < 6 && cluster.issuer.is_some() { cluster.start(follows) },
                Happens::Time(seconds) => cluster.now += Duration::from_secs(seconds),
                // A rotation that waits until the old root itself ends is another matter.
                Happens::Long(months) => if cluster.now < begun + 1000 * DAY { cluster.leap(months) },
                Happens::Ask => cluster.ask(),
                Happens::LoseIssuer => drop(cluster.lose_issuer()),
            }
        }
        for proxy in &mut cluster.proxies {
            proxy.deaf = false;
        }
        cluster.proxies.retain(|proxy| proxy.follows);
        for _ in 0..40 {
            cluster.now += 60 * SECOND;
            cluster.step();
            cluster.all_hear();
        }
        prop_assert!(matches!(cluster.step(), Step::Rest));
        prop_assert_eq!(cluster.roots.unwrap().answered, cluster.asked);
    }
}
