//! What connections with a peer stand on: its leaf's time, and the root that its chain ends in.
//!
//! **No connection outlives either** (design §4), whoever made it and whatever it carries: when a leaf ends or its root is
//! dropped from the bundle, connections are asked to end ([`Standing::lost`]): opaque ones do at once, HTTP after what is
//! under way. What is still there after [`GRACE`] is cut: its socket can't be used any more.
//!
//! A peer shows the same chain for a day, so all connections of a worker with it share one [`Standing`], and a bundle that
//! changes costs one verification for each peer, not for each connection.

use super::{Keyring, Peer, Session, TlsStream};
use crate::{
    net::{self, Instant},
    observe::{
        Counter, Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use homarus_identity::{
    TrustAnchors,
    chain::{self, ChainError, Role},
};
use rustls_pki_types::CertificateDer;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    task::{Context, Waker},
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, watch};

/// How long what is under way may take once its peer is no longer believed.
pub const GRACE: Duration = Duration::from_secs(10);

static HANDSHAKES: Family = Family {
    name: "homarus_tls_handshakes",
    help: "TLS sessions with peers, by who began them and whether they were resumed",
    kind: Kind::Counter,
    half: Half::Open,
};

/// The certificates that a peer showed, its leaf first.
type Chain = Rc<[CertificateDer<'static>]>;

/// Where a peer's connections are on their way to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The peer is believed.
    Firm,
    /// It isn't any more, since then.
    Lost(Instant),
    /// What was under way has had its time.
    Gone,
}

/// What all connections of this worker with one peer stand on.
pub struct Standing {
    chain: Chain,
    role: Role,
    expires: Option<SystemTime>,
    stage: Cell<Stage>,
    changed: Notify,
    seats: RefCell<Seats>,
}

/// Who has to be woken: one seat for each connection.
#[derive(Default)]
struct Seats {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One connection's hold on what it stands on.
pub struct Seat {
    standing: Rc<Standing>,
    number: usize,
}

impl Standing {
    fn new(chain: Chain, role: Role, expires: Option<SystemTime>) -> Rc<Self> {
        let (stage, changed, seats) = (Cell::new(Stage::Firm), Notify::new(), RefCell::default());
        Rc::new(Self { chain, role, expires, stage, changed, seats })
    }

    /// Whether connections have to end.
    pub fn is_lost(&self) -> bool {
        self.stage.get() != Stage::Firm
    }

    /// Resolves when connections have to end.
    pub async fn lost(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_lost() {
                return;
            }
            changed.await;
        }
    }

    /// A seat for one more connection.
    pub fn seat(self: &Rc<Self>) -> Seat {
        let mut seats = self.seats.borrow_mut();
        let number = seats.free.pop().unwrap_or(seats.wakers.len());
        if number == seats.wakers.len() {
            seats.wakers.push(None);
        }
        Seat { standing: self.clone(), number }
    }

    /// When something has to happen next; none: nothing is known to come.
    fn due(&self) -> Option<Duration> {
        match self.stage.get() {
            Stage::Firm => self.expires.map(left),
            Stage::Lost(since) => Some((since + GRACE).saturating_duration_since(net::now())),
            Stage::Gone => None,
        }
    }

    /// Does what is due.
    fn advance(&self) {
        match self.stage.get() {
            Stage::Firm if self.has_expired() => self.lose("its certificate has ended"),
            Stage::Lost(since) if since + GRACE <= net::now() => self.enter(Stage::Gone),
            _ => {}
        }
    }

    /// Believes the peer or doesn't, by these anchors. One that was lost by mistake is believed again; one that is gone stays
    /// so: its connections were cut.
    fn judge(&self, anchors: &TrustAnchors) {
        match (self.stage.get(), verify(&self.chain, anchors, self.role)) {
            (Stage::Firm, Err(error)) => self.lose(&format!("{error}; was its root dropped from the trust anchors?")),
            (Stage::Lost(_), Ok(())) if !self.has_expired() => {
                tracing::info!(peer = %self.peer(), role = ?self.role, "peer is believed again");
                self.stage.set(Stage::Firm);
            }
            _ => {}
        }
    }

    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|at| left(at).is_zero())
    }

    fn peer(&self) -> String {
        self.chain.first().and_then(chain::peer_identity).map(|id| id.to_string()).unwrap_or_default()
    }

    fn lose(&self, why: &str) {
        let seats = self.seats.borrow();
        let connections = seats.wakers.len() - seats.free.len();
        drop(seats);
        tracing::info!(peer = %self.peer(), role = ?self.role, connections, why, "peer is no longer believed; its connections end");
        self.enter(Stage::Lost(net::now()));
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        self.changed.notify_waiters();
        // Woken one by one: whoever is woken may give its seat back at once.
        let wakers: Vec<Waker> = self.seats.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn left(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or_default()
}

fn verify(chain: &[CertificateDer<'_>], anchors: &TrustAnchors, role: Role) -> Result<(), ChainError> {
    match chain.split_first() {
        Some((leaf, intermediates)) => chain::verify_chain(leaf, intermediates, anchors, role, SystemTime::now()),
        None => Ok(()),
    }
}

impl Seat {
    /// What the connection stands on.
    pub fn standing(&self) -> &Rc<Standing> {
        &self.standing
    }

    /// Whether the connection may still be used. Whoever polls is woken when that changes, or when it has to end.
    pub fn holds(&self, cx: &Context<'_>) -> bool {
        if self.standing.stage.get() == Stage::Gone {
            return false;
        }
        if let Some(waker) = self.standing.seats.borrow_mut().wakers.get_mut(self.number)
            && !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.standing.seats.borrow_mut();
        if let Some(waker) = seats.wakers.get_mut(self.number) {
            *waker = None;
        }
        seats.free.push(self.number);
    }
}

/// Peers that are judged by new anchors before others have their turn: each costs some 150 µs.
const JUDGED_AT_ONCE: usize = 32;

/// The peers of one side.
type Known = HashMap<Chain, Weak<Standing>, ahash::RandomState>;

/// What this worker's connections stand on.
pub struct Trust {
    keyring: Keyring,
    known: [RefCell<Known>; 2],
    /// The anchors are not those of the start: a handshake that was just completed may have been judged by older ones.
    moved: Cell<bool>,
    /// When [`Self::follow`] looks again by itself; none: not yet known, or never.
    armed: Cell<Option<Instant>>,
    /// Something has to happen before that.
    sooner: Notify,
    handshakes: [[Counter; 2]; 2],
}

impl Trust {
    /// Begins to watch over connections.
    pub fn start(keyring: Keyring, registry: &Registry) -> Rc<Self> {
        let handshakes = ["inbound", "outbound"].map(|direction| {
            ["full", "resumed"]
                .map(|kind| registry.counter(&HANDSHAKES, Labels::new().with("direction", direction).with("kind", kind)))
        });
        let (known, moved, armed, sooner) = Default::default();
        let this = Rc::new(Self { keyring, known, moved, armed, sooner, handshakes });
        tokio::task::spawn_local(this.clone().follow());
        this
    }

    /// What a connection whose handshake is complete stands on; none if the peer showed nothing.
    pub fn standing(&self, tls: &TlsStream, peer: &Peer) -> Option<Rc<Standing>> {
        let (role, side) = match tls.session() {
            Session::Server(_) => (Role::Client, 0),
            Session::Client(_) => (Role::Server, 1),
        };
        self.handshakes[side][usize::from(peer.resumed)].inc();
        let chain = tls.session().peer_chain();
        if chain.is_empty() {
            return None;
        }
        let keys = self.keyring.current().filter(|_| self.moved.get());
        let judge = |standing: &Standing| keys.iter().for_each(|keys| standing.judge(&keys.material().anchors));
        let mut known = self.known[side].borrow_mut();
        if let Some(standing) = known.get(chain).and_then(Weak::upgrade) {
            if standing.is_lost() {
                judge(&standing);
            }
            if standing.stage.get() != Stage::Gone {
                return Some(standing);
            }
        }
        let standing = Standing::new(chain.into(), role, peer.expires);
        make_room(&mut known);
        known.insert(standing.chain.clone(), Rc::downgrade(&standing));
        drop(known);
        judge(&standing);
        let due = standing.due().map(|due| net::now() + due);
        if due.is_some_and(|due| self.armed.get().is_none_or(|armed| due < armed)) {
            self.armed.set(due);
            self.sooner.notify_one();
        }
        Some(standing)
    }

    /// Judges peers when the anchors change, and ends their time when it has come.
    async fn follow(self: Rc<Self>) {
        let mut keyring = self.keyring.clone();
        let mut anchors: Option<TrustAnchors> = None;
        loop {
            let now = keyring.current().map(|keys| keys.material().anchors.clone());
            if let Some(now) = now.filter(|now| anchors.as_ref().is_none_or(|before| before.pem() != now.pem())) {
                if anchors.is_some() {
                    self.moved.set(true);
                    judge_all(self.all(), &now).await;
                }
                anchors = Some(now);
            }
            self.all().iter().for_each(|standing| standing.advance());
            let next = self.next();
            self.armed.set(next.map(|next| net::now() + next));
            tokio::select! {
                changed = keyring.changed() => if !changed { return },
                () = self.sooner.notified() => {}
                () = async { match next { Some(next) => net::sleep(next).await, None => std::future::pending().await } } => {}
            }
        }
    }

    /// The time until something is due. Peers that nobody is connected with are forgotten on the way.
    fn next(&self) -> Option<Duration> {
        self.known.iter().for_each(|known| known.borrow_mut().retain(|_, standing| standing.strong_count() > 0));
        self.all().iter().filter_map(|standing| standing.due()).min()
    }

    fn all(&self) -> Vec<Rc<Standing>> {
        self.known.iter().flat_map(|k| k.borrow().values().filter_map(Weak::upgrade).collect::<Vec<_>>()).collect()
    }
}

/// Judges many peers, and lets others have their turn meanwhile.
async fn judge_all(standings: Vec<Rc<Standing>>, anchors: &TrustAnchors) {
    for some in standings.chunks(JUDGED_AT_ONCE) {
        some.iter().for_each(|standing| standing.judge(anchors));
        tokio::task::yield_now().await;
    }
}

/// Before a map grows, peers that nobody is connected with are forgotten. It doubles at least, so that this costs each peer
/// the same however many there are.
fn make_room(known: &mut Known) {
    if known.len() == known.capacity() {
        known.retain(|_, standing| standing.strong_count() > 0);
        known.reserve(known.len() + 1);
    }
}

/// Resolves when a server that was believed no longer is; says why: its leaf has ended, or the anchors have changed.
pub async fn distrusted(chain: Vec<CertificateDer<'static>>, mut anchors: watch::Receiver<TrustAnchors>) -> &'static str {
    let expires = chain.first().and_then(|leaf| chain::expiry(leaf).ok());
    let ended = async {
        match expires {
            Some(at) => net::sleep(left(at)).await,
            None => std::future::pending().await,
        }
    };
    let dropped = async {
        loop {
            // A handshake may have been judged by the anchors before these.
            let now = anchors.borrow_and_update().clone();
            if verify(&chain, &now, Role::Server).is_err() {
                return;
            }
            if anchors.changed().await.is_err() {
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        biased;
        () = ended => "its server's certificate has ended",
        () = dropped => "the trust anchors have changed, and its server is no longer believed",
    }
}

impl Session {
    /// The certificates that the peer showed, its leaf first.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        let shown = match self {
            Self::Client(conn) => conn.peer_certificates(),
            Self::Server(conn) => conn.peer_certificates(),
        };
        shown.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::{
        Issuer, Key,
        authority::Pair,
        csr::{self, Request},
        issuer::Validity,
    };
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_asked_to_end_and_then_cut() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        let standing = Standing::new(Rc::from([]), Role::Server, None);
        let (seat, quiet) = (standing.seat(), standing.seat());
        assert!(seat.holds(&cx) && !standing.is_lost() && standing.due().is_none());

        standing.lose("a test says so");
        assert_eq!((woken.0.load(Relaxed), standing.due()), (1, Some(GRACE)));
        standing.lost().await;
        assert!(seat.holds(&cx) && quiet.holds(&cx), "what is under way has its time");
        standing.advance();
        assert!(seat.holds(&cx));

        tokio::time::advance(GRACE).await;
        standing.advance();
        assert_eq!((woken.0.load(Relaxed), standing.due()), (3, None));
        assert!(!seat.holds(&cx) && !quiet.holds(&cx));
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_end() {
        let ended = Standing::new(Rc::from([]), Role::Client, Some(SystemTime::now() - Duration::from_secs(1)));
        let later = Standing::new(Rc::from([]), Role::Client, Some(SystemTime::now() + Duration::from_secs(60)));
        for standing in [&ended, &later] {
            standing.advance();
        }
        assert!(ended.is_lost() && !later.is_lost());
        assert!(later.due().is_some_and(|left| left > Duration::from_secs(50)));
    }

    const WEB: &str = "web.test.serviceaccount.identity.linkerd.cluster.local";

    /// A root, and a leaf of it that lives so long.
    fn rooted(lifetime: Duration) -> (TrustAnchors, Vec<CertificateDer<'static>>) {
        let now = SystemTime::now();
        let root = Pair::root("root.linkerd.cluster.local", Duration::from_secs(86_400), now).unwrap();
        let pem = root.certificate.to_pem();
        let anchors = TrustAnchors::from_pem(&pem).unwrap();
        let validity = Validity { lifetime, skew: Duration::ZERO };
        let issuer = Issuer::from_pem(&pem, &root.key_pem(), &anchors, validity, now).unwrap();
        let request = csr::make(&WEB.parse().unwrap(), &Key::generate().unwrap()).unwrap();
        let leaf = issuer.issue(&Request::parse(&request).unwrap(), WEB, now).unwrap();
        (anchors, vec![leaf.der().clone()])
    }

    #[tokio::test(start_paused = true)]
    async fn roots_that_were_dropped_by_mistake_may_come_back() {
        let ((ours, chain), (others, _)) = (rooted(Duration::from_secs(3600)), rooted(Duration::from_secs(3600)));
        let standing = Standing::new(chain.into(), Role::Client, None);
        judge_all(vec![standing.clone()], &others).await;
        assert!(standing.is_lost());
        judge_all(vec![standing.clone()], &ours).await;
        assert!(!standing.is_lost() && standing.due().is_none(), "in time: nothing has happened");

        standing.judge(&others);
        tokio::time::advance(GRACE).await;
        standing.advance();
        standing.judge(&ours);
        assert_eq!(standing.stage.get(), Stage::Gone, "too late: its connections were cut");

        let ended = Standing::new(standing.chain.clone(), Role::Client, Some(SystemTime::now()));
        ended.advance();
        ended.judge(&ours);
        assert!(ended.is_lost(), "a leaf that has ended stays so");
    }

    #[tokio::test]
    async fn servers_are_distrusted_for_either_reason() {
        let ((ours, chain), (others, _)) = (rooted(Duration::from_secs(3600)), rooted(Duration::from_secs(3600)));
        let (change, anchors) = watch::channel(ours);
        let mut told = std::pin::pin!(distrusted(chain, anchors));
        assert!(futures::poll!(&mut told).is_pending());
        change.send_replace(others);
        assert!(told.await.contains("trust anchors"));

        let (ours, chain) = rooted(Duration::from_secs(1));
        let (_change, anchors) = watch::channel(ours);
        let told = tokio::time::timeout(Duration::from_secs(5), distrusted(chain, anchors)).await;
        assert!(told.unwrap().contains("certificate has ended"));
    }

    #[test]
    fn peers_that_have_gone_make_room() {
        let mut known = Known::default();
        let kept = Standing::new(Rc::from([]), Role::Client, None);
        for i in 0..10_000u32 {
            make_room(&mut known);
            let chain: Chain = Rc::from([CertificateDer::from(i.to_be_bytes().to_vec())]);
            let standing = if i % 1000 == 0 { Rc::downgrade(&kept) } else { Weak::new() };
            known.insert(chain, standing);
        }
        assert!(known.capacity() < 100, "{}", known.capacity());
        assert_eq!(known.values().filter(|standing| standing.strong_count() > 0).count(), 10);
    }

    #[test]
    fn seats_are_given_again() {
        let standing = Standing::new(Rc::from([]), Role::Client, None);
        for _ in 0..100 {
            let seats = [standing.seat(), standing.seat()];
            assert!(seats.iter().all(|seat| seat.number < 2));
        }
    }
}
