//! Certificates: renewal, resumption, and what a peer can't do.

use crate::{PROXY, mesh};
use homarus_testkit::{
    client::Http1,
    control::{Allow, Endpoint},
    mesh::{CLIENT_ID, Mesh, Plan, SERVER_ID},
    servers::{echo, http1, mirror, read_all},
    wait_for, wait_within,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

fn exchange(mesh: &Mesh, to: SocketAddr) {
    let mut tcp = mesh.client().connect(to).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn traffic_survives_the_end_of_leaves() {
    let lifetime = Duration::from_secs(4);
    let env = || vec![("IDENTITY_MIN_REFRESH", "1s".to_owned())];
    let mut mesh = Plan { leaf_lifetime: Some(lifetime), client_env: env(), server_env: env(), ..Plan::both(PROXY) }.start();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    let web = mesh.service_at("web", mesh.serve(mirror));
    let mut kept = Http1::new(mesh.client().connect(web).unwrap());
    let until = Instant::now() + lifetime * 2 + Duration::from_secs(1);
    while Instant::now() < until {
        exchange(&mesh, opaque);
        assert_eq!(kept.get("/").status(), 200);
        assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let metrics = mesh.client_proxy().metrics();
    let renewed = metrics.sum("control_identity_cert_refreshes_total", &[]);
    assert!(renewed >= 2.0, "{}", metrics.family("control_identity"));
}

#[test]
fn an_open_connection_does_not_outlive_its_peers_leaf() {
    let lifetime = Duration::from_secs(4);
    let mesh = Plan { leaf_lifetime: Some(lifetime), ..Plan::both(PROXY) }.start();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    let mut tcp = mesh.client().connect(opaque).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    tcp.set_read_timeout(Some(lifetime * 2)).unwrap();
    let ended = tcp.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)) && !ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
}

/// How many handshakes of a kind a side has seen.
fn handshakes(mesh: &mut Mesh, direction: &str, kind: &str) -> f64 {
    let proxy = if direction == "outbound" { mesh.client_proxy() } else { mesh.server_proxy() };
    proxy.metrics().sum("homarus_tls_handshakes_total", &[("direction", direction), ("kind", kind)])
}

/// Whether an exchange succeeds.
fn succeeds(mesh: &Mesh, to: SocketAddr) -> bool {
    let Ok(mut tcp) = mesh.client().connect(to) else { return false };
    tcp.write_all(b"hello").is_ok() && tcp.read_exact(&mut [0; 5]).is_ok()
}

#[test]
fn sessions_between_our_own_proxies_are_resumed_and_judged_all_the_same() {
    let mut mesh = mesh();
    let port = mesh.serve(echo);
    let opaque = mesh.opaque_service_at("db", port);
    (0..21).for_each(|_| exchange(&mesh, opaque));
    for direction in ["outbound", "inbound"] {
        assert_eq!((handshakes(&mut mesh, direction, "full"), handshakes(&mut mesh, direction, "resumed")), (1.0, 20.0));
    }

    // A resumed session carries its client's identity, so policy goes by it: who is authenticated may, ...
    mesh.control.allow(Allow::Authenticated);
    let unmeshed = |mesh: &Mesh| {
        let mut tcp = mesh.client().connect_unmeshed(mesh.server().at(port)).unwrap();
        tcp.write_all(b"hello").is_ok() && tcp.read_exact(&mut [0; 5]).is_ok()
    };
    wait_for("the policy", || (!unmeshed(&mesh)).then_some(()));
    exchange(&mesh, opaque);
    assert_eq!(handshakes(&mut mesh, "inbound", "full"), 1.0);
    // ... and who is denied may not.
    mesh.control.allow(Allow::Deny);
    wait_for("the denial", || (!succeeds(&mesh, opaque)).then_some(()));
    assert_eq!(handshakes(&mut mesh, "inbound", "full"), 1.0, "it was a resumed session that was denied");
    mesh.control.allow(Allow::Unauthenticated);
    wait_for("permission", || succeeds(&mesh, opaque).then_some(()));

    // Where somebody else is expected at the same address, no ticket helps.
    let other = "other.test.serviceaccount.identity.linkerd.cluster.local";
    let at = mesh.server().at(port);
    mesh.control.endpoints("db", vec![Endpoint::meshed(at, other)]);
    wait_for("the change", || (!succeeds(&mesh, opaque)).then_some(()));
    let before = (handshakes(&mut mesh, "outbound", "full"), handshakes(&mut mesh, "outbound", "resumed"));
    assert!((0..3).all(|_| !succeeds(&mesh, opaque)));
    assert_eq!((handshakes(&mut mesh, "outbound", "full"), handshakes(&mut mesh, "outbound", "resumed")), before);
}

#[test]
fn tickets_do_not_outlive_leaves() {
    let lifetime = Duration::from_secs(4);
    let mut mesh = Plan { leaf_lifetime: Some(lifetime), ..Plan::both(PROXY) }.start();
    let opaque = mesh.opaque_service_at("db", mesh.serve(echo));
    (0..3).for_each(|_| exchange(&mesh, opaque));
    assert!(handshakes(&mut mesh, "outbound", "resumed") >= 1.0);
    wait_within(lifetime * 2, "the end of the leaves", || (!succeeds(&mesh, opaque)).then_some(()));
    assert!((0..3).all(|_| !succeeds(&mesh, opaque)));
}

/// An opaque connection that carries bytes.
fn open(mesh: &Mesh, to: SocketAddr) -> TcpStream {
    let mut tcp = mesh.client().connect(to).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    echoes(&mut tcp);
    tcp
}

fn echoes(tcp: &mut TcpStream) {
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
}

/// Connections end with the root that their peer's chain stands on, on the side that no longer believes it; new roots and
/// what stands on them disturb nobody.
fn a_root_is_dropped_by(whom: &str) {
    let mut mesh = Plan { anchors_in_files: true, ..Plan::both(PROXY) }.start();
    let db = mesh.opaque_service_at("db", mesh.serve(echo));
    let endless = mesh.serve(|tcp| {
        http1(tcp, |_, out| {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while out.write_all(b"1\r\nx\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        });
    });
    let web = mesh.service_at("web", endless);
    let mut old = open(&mesh, db);
    let mut stream = Http1::new(mesh.client().connect(web).unwrap());
    assert_eq!(stream.write("GET / HTTP/1.1\r\nhost: w\r\n\r\n").head().status(), 200);

    let first = mesh.control.anchors.to_string();
    let second = mesh.control.rotate();
    for identity in [CLIENT_ID, SERVER_ID] {
        mesh.set_anchors(identity, &format!("{first}{second}"));
    }
    let renewed = [("result", "ok")];
    mesh.client_proxy().wait_metric("control_identity_cert_refreshes_total", &renewed, 2.0);
    mesh.server_proxy().wait_metric("control_identity_cert_refreshes_total", &renewed, 2.0);
    echoes(&mut old);
    let mut new = open(&mesh, db);

    mesh.set_anchors(whom, &second);
    assert_eq!(read_all(&mut old), b"");
    let lost = Instant::now();
    let log = if whom == CLIENT_ID { mesh.client_proxy().log() } else { mesh.server_proxy().log() };
    assert!(log.contains("no longer believed"), "the log says why");
    // What stands on the other root goes on, and requests that are under way have a while.
    echoes(&mut new);
    exchange(&mesh, db);
    let mut chunk = [0; 6];
    stream.reader().read_exact(&mut chunk).unwrap();
    while stream.reader().read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
        assert!(lost.elapsed() < Duration::from_secs(15), "a stream outlives the root it stands on");
    }
    assert!(lost.elapsed() > Duration::from_secs(5), "what was under way had {:?}", lost.elapsed());
    echoes(&mut new);
}

#[test]
fn outbound_connections_end_with_the_root_they_stand_on() {
    a_root_is_dropped_by(CLIENT_ID);
}

#[test]
fn inbound_connections_end_with_the_root_they_stand_on() {
    a_root_is_dropped_by(SERVER_ID);
}

/// What a counter of told bundles has come to on the client's proxy.
fn told(mesh: &mut Mesh, result: &str) -> f64 {
    mesh.client_proxy().metrics().sum("homarus_identity_trust_updates_total", &[("result", result)])
}

/// What a workload says that it stands on: bundle and signer.
fn standing(mesh: &Mesh, identity: &str) -> Option<(String, String)> {
    let found = mesh.control.standings().into_iter().find(|standing| standing.instance == identity)?;
    Some((found.bundle, found.issuer))
}

fn fingerprint(roots: &str) -> String {
    homarus_identity::TrustAnchors::from_pem(roots).unwrap().fingerprint()
}

/// Waits until both proxies say that they stand on this.
fn wait_standing(mesh: &Mesh, roots: &str, signer: &str) {
    let wanted = Some((fingerprint(roots), signer.to_owned()));
    for identity in [CLIENT_ID, SERVER_ID] {
        wait_within(Duration::from_secs(30), "a proxy follows", || (standing(mesh, identity) == wanted).then_some(()));
    }
}

/// Proxies that are told ask for leaves as soon as they may.
fn hasty() -> Plan {
    let env = || vec![("IDENTITY_MIN_REFRESH", "200ms".to_owned())];
    Plan { client_env: env(), server_env: env(), tells_roots: true, ..Plan::both(PROXY) }
}

#[test]
fn roots_rotate_under_load_and_a_restarted_proxy_knows_them() {
    let plan = hasty();
    let mut mesh = plan.start();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let first = mesh.control.anchors.to_string();
    wait_standing(&mesh, &first, &mesh.control.signer());
    let over = AtomicBool::new(false);
    let load = || {
        let (mut kept, mut requests) = (None, 0_u32);
        while !over.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            let mut http = kept.take().unwrap_or_else(|| Http1::new(mesh.client().connect(web).unwrap()));
            let reply = http.get("/");
            assert_eq!(reply.status(), 200);
            requests += 1;
            // Now a new connection, now the one before, unless the proxy said that this was its last request.
            kept = (requests % 5 != 0 && reply.header("connection") != Some("close")).then_some(http);
        }
        requests
    };
    let second = mesh.control.rotate_later();
    let requests = std::thread::scope(|scope| {
        let load = scope.spawn(load);
        let both = format!("{first}{second}");
        mesh.control.trust(&both);
        wait_standing(&mesh, &both, &mesh.control.signer());
        mesh.control.sign_with_next();
        wait_standing(&mesh, &both, &mesh.control.signer());
        mesh.control.trust(&second);
        wait_standing(&mesh, &second, &mesh.control.signer());
        over.store(true, Relaxed);
        load.join().unwrap()
    });
    assert!(requests > 50, "{requests}");
    assert_eq!((told(&mut mesh, "adopted"), told(&mut mesh, "refused")), (2.0, 0.0));

    // Its environment knows only the first root, and its control plane tells nothing: what was kept has to do.
    mesh.control.change(|state| state.trust = None);
    mesh.restart_client(&plan);
    assert!(mesh.client_proxy().log().contains("kept"), "the log says so");
    assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
    assert_eq!(handshakes(&mut mesh, "outbound", "full"), 1.0, "it was meshed");
}

#[test]
fn a_bundle_that_would_shut_a_proxy_out_is_refused() {
    let mut mesh = hasty().start();
    let web = mesh.service_at("web", mesh.serve(mirror));
    let first = mesh.control.anchors.to_string();
    wait_standing(&mesh, &first, &mesh.control.signer());
    let stranger = homarus_testkit::control::Control::new().anchors.to_string();
    let mut refusals = 0.0;
    for (bundle, why) in [("", "empty"), ("nonsense", "empty"), (&*stranger, "own certificate")] {
        mesh.control.trust(bundle);
        refusals += 1.0;
        mesh.client_proxy().wait_metric("homarus_identity_trust_updates_total", &[("result", "refused")], refusals);
        let log = mesh.client_proxy().log();
        let said = log.lines().rfind(|line| line.contains("refused; the one before stays")).unwrap();
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(told(&mut mesh, "adopted"), 0.0);
    assert_eq!(standing(&mesh, CLIENT_ID).unwrap().0, fingerprint(&first));
    assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
    // What is good is taken all the same.
    let both = format!("{stranger}{first}");
    mesh.control.trust(&both);
    wait_standing(&mesh, &both, &mesh.control.signer());
}

#[test]
fn a_controller_that_tells_of_no_roots_changes_nothing() {
    let mut mesh = mesh();
    let web = mesh.service_at("web", mesh.serve(mirror));
    mesh.client_proxy().wait_metric("response_total", &[("direction", "outbound")], 0.0);
    assert_eq!(Http1::new(mesh.client().connect(web).unwrap()).get("/").status(), 200);
    assert_eq!((told(&mut mesh, "adopted"), told(&mut mesh, "refused")), (0.0, 0.0));
    assert!(mesh.control.standings().is_empty());
    assert!(!mesh.client_proxy().log().contains("can't be followed"), "it isn't a fault");
}
