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
            Stage::Firm if self.expires.is_some_and(|at| left(at).is_zero()) => self.lose("its certificate has ended"),
            Stage::Lost(since) if since + GRACE <= net::now() => self.enter(Stage::Gone),
            _ => {}
        }
    }

    fn judge(&self, anchors: &TrustAnchors) {
        if !self.is_lost()
            && let Err(error) = verify(&self.chain, anchors, self.role)
        {
            self.lose(&format!("{error}; was its root dropped from the trust anchors?"));
        }
    }

    fn lose(&self, why: &str) {
        let peer = self.chain.first().and_then(chain::peer_identity).map(|id| id.to_string()).unwrap_or_default();
        let seats = self.seats.borrow();
        let connections = seats.wakers.len() - seats.free.len();
        drop(seats);
        tracing::info!(%peer, role = ?self.role, connections, why, "peer is no longer believed; its connections end");
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

/// What this worker's connections stand on.
pub struct Trust {
    keyring: Keyring,
    known: [RefCell<HashMap<Chain, Weak<Standing>, ahash::RandomState>>; 2],
    /// The anchors are not those of the start: a handshake that was just completed may have been judged by older ones.
    moved: Cell<bool>,
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
        let (known, moved, sooner) = (Default::default(), Cell::new(false), Notify::new());
        let this = Rc::new(Self { keyring, known, moved, sooner, handshakes });
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
        let mut known = self.known[side].borrow_mut();
        if let Some(standing) = known.get(chain).and_then(Weak::upgrade) {
            return Some(standing);
        }
        let standing = Standing::new(chain.into(), role, peer.expires);
        known.insert(standing.chain.clone(), Rc::downgrade(&standing));
        drop(known);
        if self.moved.get()
            && let Some(keys) = self.keyring.current()
        {
            standing.judge(&keys.material().anchors);
        }
        self.sooner.notify_one();
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
                    self.each(|standing| standing.judge(&now));
                }
                anchors = Some(now);
            }
            self.each(Standing::advance);
            let next = self.next();
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
        let mut next = None;
        self.each(|standing| next = [next, standing.due()].into_iter().flatten().min());
        next
    }

    fn each(&self, mut act: impl FnMut(&Standing)) {
        let known: Vec<_> =
            self.known.iter().flat_map(|k| k.borrow().values().filter_map(Weak::upgrade).collect::<Vec<_>>()).collect();
        known.iter().for_each(|standing| act(standing));
    }
}

/// Resolves when a server that was believed no longer is, because the anchors have changed.
pub async fn distrusted(chain: Vec<CertificateDer<'static>>, mut anchors: watch::Receiver<TrustAnchors>) {
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
    use super::*;
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

    #[test]
    fn seats_are_given_again() {
        let standing = Standing::new(Rc::from([]), Role::Client, None);
        for _ in 0..100 {
            let seats = [standing.seat(), standing.seat()];
            assert!(seats.iter().all(|seat| seat.number < 2));
        }
    }
}
