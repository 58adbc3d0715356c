//! What is to be done next about the mesh's certificates: a pure function of what is stored, of who follows, and of the time.
//!
//! It is asked again after each step, by whichever replica leads, so that nothing is lost when one dies in between. Of all that
//! can be the case, the first row that holds counts; "the root" is the next one while there is one:
//!
//! | What is the case | Step |
//! |---|---|
//! | there is no root | [`Step::MakeRoot`] |
//! | the root isn't in the bundle | [`Step::Publish`]: it, beside those that are there |
//! | there is no issuer | [`Step::MakeIssuer`]: nobody could have a leaf |
//! | the issuer isn't under the root, and has ended; or is due, and the old root vouches for the new one | [`Step::MakeIssuer`] |
//! | the issuer isn't under the root, and not everyone believes in the root | [`Step::Wait`] for [`Waiting::Belief`] |
//! | the issuer isn't under the root | [`Step::MakeIssuer`] |
//! | other roots are in the bundle, and the issuer is due | [`Step::MakeIssuer`]: waiting may take longer than it lives |
//! | other roots are in the bundle, and it or the issuer is new | [`Step::Wait`] for [`Waiting::Leaves`]: many have just begun |
//! | other roots are in the bundle, and somebody believes in them alone | [`Step::Wait`] for [`Waiting::Restarts`] |
//! | other roots are in the bundle, and not everyone has a leaf of the issuer | [`Step::Wait`] for [`Waiting::Leaves`] |
//! | other roots are in the bundle | [`Step::Publish`]: the root alone |
//! | the root is a next one | [`Step::Promote`] |
//! | the issuer carries more than itself | [`Step::Trim`] |
//! | the root is due, or its rotation was asked for | [`Step::Begin`] |
//! | the issuer is due | [`Step::MakeIssuer`] |
//! | else | [`Step::Rest`] |
//!
//! While the old root's key is at hand, the new issuer carries the new root as the old one vouches for it. So a pod that starts
//! in the middle with the old root alone, and a proxy that can't follow, believe the new leaves until the old root is dropped;
//! that is why only the drop waits for restarts. Without that key (roots that somebody else made) belief waits for them.

use std::time::{Duration, SystemTime};

use homarus_identity::authority::Pair;
use homarus_identity::{Certificate, TrustAnchors, chain, renewal};

/// The least time that a bundle is out before anything is made that depends on it: proxies report within seconds, and those
/// that haven't yet are not to be taken for ones that can't.
pub(super) const SPREAD: Duration = Duration::from_secs(10);
/// How long certificates live that are made here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    pub(super) root: Duration,
    pub(super) issuer: Duration,
    /// Leaves, with what clocks may be apart.
    pub(super) leaf: Duration,
    /// See [`SPREAD`].
    pub(super) spread: Duration,
    /// The least time that an issuer is out before the other roots are dropped: pods are still made with the bundle of before
    /// until the injector has the new one, for which kubelets take up to two minutes.
    pub(super) settle: Duration,
}

/// The root and, while roots change, the next one.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub(super) current: Pair,
    pub(super) next: Option<Pair>,
    /// The last rotation that was asked for and begun.
    pub(super) answered: String,
}

impl Roots {
    /// The root that there will be.
    pub(super) fn target(&self) -> &Pair {
        self.next.as_ref().unwrap_or(&self.current)
    }
}

/// The roots to believe.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub(super) anchors: TrustAnchors,
    /// When it last changed.
    pub(super) since: SystemTime,
}

/// The issuer's certificate and what is above it.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) own: Certificate,
    /// Whether more than its own certificate is sent along with leaves.
    pub(super) carries_more: bool,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// `namespace/pod`.
    pub(super) name: String,
    pub(super) started: SystemTime,
    pub(super) follows: Follows,
    /// Why it refuses the bundle that it was told last; empty: it doesn't.
    pub(super) refused: String,
}

/// What a proxy stands on, as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// It said so.
    Says {
        /// The fingerprint of its bundle.
        bundle: String,
        /// The fingerprint of its leaf's signer.
        issuer: String,
    },
    /// It says nothing, so its environment counts: the fingerprints of the roots there. None: those of its start.
    Silent(Option<Vec<String>>),
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) roots: Option<Roots>,
    pub(super) bundle: Option<Bundle>,
    pub(super) issuer: Option<Chain>,
    /// The rotation that was asked for last; empty: none.
    pub(super) asked: String,
    /// None: nobody looked yet.
    pub(super) fleet: Option<Vec<Member>>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// That proxies believe in the root.
    Belief,
    /// That proxies have a leaf of the issuer.
    Leaves,
    /// That proxies that can't follow are restarted.
    Restarts,
}

/// What is to be done next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    MakeRoot,
    /// These are the roots to believe.
    Publish(Vec<Certificate>),
    /// A new issuer under the root; `vouched` if the old root has to vouch for the new one.
    MakeIssuer {
        vouched: bool,
    },
    /// A next root.
    Begin,
    /// The next root is the root.
    Promote,
    /// The issuer carries itself alone.
    Trim,
    /// Somebody has to look who follows.
    Survey,
    /// Nothing but waiting; for these, if it isn't only for time.
    Wait(Waiting, Vec<String>),
    Rest,
}

/// The next step.
pub(super) fn next(seen: &Observed, lifetimes: &Lifetimes, now: SystemTime) -> Step {
    let Some(roots) = &seen.roots else { return Step::MakeRoot };
    let target = &roots.target().certificate;
    let Some(bundle) = &seen.bundle else { return Step::Publish(vec![target.clone()]) };
    if !bundle.anchors.contains(target) {
        let old = bundle.anchors.certificates().iter().filter(|old| old.is_current(now));
        return Step::Publish(std::iter::once(target).chain(old).cloned().collect());
    }
    let vouched = roots.next.is_some() && roots.current.certificate.is_current(now);
    let Some(issuer) = &seen.issuer else { return Step::MakeIssuer { vouched } };
    if !chain::is_signed_by(&issuer.own, target) {
        let end = if vouched { renewal::due(&issuer.own) } else { issuer.own.not_after };
        return if now > end { Step::MakeIssuer { vouched } } else { believed(seen, bundle, vouched, lifetimes, now) };
    }
    if bundle.anchors.certificates().iter().any(|root| root.der() != target.der()) {
        return match is_due(issuer, target, now) {
            true => Step::MakeIssuer { vouched },
            false => renewed(seen, bundle, issuer, target, lifetimes, now),
        };
    }
    if roots.next.is_some() {
        return Step::Promote;
    }
    if issuer.carries_more {
        return Step::Trim;
    }
    if now >= renewal::due(target) || (!seen.asked.is_empty() && seen.asked != roots.answered) {
        return Step::Begin;
    }
    if is_due(issuer, target, now) { Step::MakeIssuer { vouched: false } } else { Step::Rest }
}

/// Whether the issuer should be replaced, and the next one would live longer under this root.
fn is_due(issuer: &Chain, target: &Certificate, now: SystemTime) -> bool {
    now >= renewal::due(&issuer.own) && issuer.own.not_after < target.not_after
}

/// The issuer isn't under the root yet.
fn believed(seen: &Observed, bundle: &Bundle, vouched: bool, lifetimes: &Lifetimes, now: SystemTime) -> Step {
    let Some(fleet) = &seen.fleet else { return Step::Survey };
    let told = bundle.anchors.fingerprint();
    let waits = |member: &&Member| match &member.follows {
        Follows::Says { bundle, .. } => *bundle != told,
        silent => !vouched && !knows(silent, member, bundle, seen),
    };
    let waiting: Vec<String> = fleet.iter().filter(waits).map(|member| member.name.clone()).collect();
    match waiting.is_empty() && now >= bundle.since + lifetimes.spread {
        true => Step::MakeIssuer { vouched },
        false => Step::Wait(Waiting::Belief, waiting),
    }
}

/// The issuer is under the root, and other roots are still believed.
fn renewed(seen: &Observed, bundle: &Bundle, issuer: &Chain, target: &Certificate, lifetimes: &Lifetimes, now: SystemTime) -> Step {
    let Some(fleet) = &seen.fleet else { return Step::Survey };
    let (told, signer) = (bundle.anchors.fingerprint(), issuer.own.fingerprint());
    let made = issuer.own.not_before + homarus_identity::authority::BACKDATED;
    let names = |waits: &dyn Fn(&Member) -> bool| -> Vec<String> {
        fleet.iter().filter(|member| waits(member)).map(|member| member.name.clone()).collect()
    };
    let restarts =
        names(&|member| !matches!(member.follows, Follows::Says { .. }) && !knows(&member.follows, member, bundle, seen));
    let leaves = names(&|member| match &member.follows {
        Follows::Says { bundle, issuer } => *bundle != told || *issuer != signer,
        // Its leaf can't be seen: the last one of the issuer before has ended when this one is as old as leaves become.
        Follows::Silent(_) => member.started <= made && now < made + lifetimes.leaf,
    });
    let settled = now >= made.max(bundle.since) + lifetimes.settle;
    match (settled, restarts.is_empty(), leaves.is_empty()) {
        (true, false, _) => Step::Wait(Waiting::Restarts, restarts),
        (true, true, true) => Step::Publish(vec![target.clone()]),
        _ => Step::Wait(Waiting::Leaves, leaves),
    }
}

/// Whether a silent proxy believes in the root.
fn knows(follows: &Follows, member: &Member, bundle: &Bundle, seen: &Observed) -> bool {
    let Some(roots) = &seen.roots else { return false };
    match follows {
        Follows::Silent(Some(believed)) => believed.contains(&roots.target().certificate.fingerprint()),
        Follows::Silent(None) => member.started > bundle.since,
        Follows::Says { .. } => true,
    }
}
