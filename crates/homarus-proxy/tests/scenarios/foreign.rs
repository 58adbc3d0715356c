//! Peers that aren't our proxies, made of rustls: what the ALPN decides, and TLS that breaks off.

use crate::{mesh, meshed_client};
use homarus_proxy::secure::provider;
use homarus_testkit::{
    control::{Control, Endpoint, Service},
    ground::{INBOUND, UNMESHED},
    mesh::{CLIENT_ID, Mesh, SERVER_ID},
    servers::{echo, serve},
};
use homarus_wire::transport::{ALPN, ALPN_RESUMING, Header, Progress};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, sign::SingleCertAndKey,
};
use rustls_pki_types::ServerName;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

/// A proxy's side of TLS as a client, with a memory for tickets.
fn client_config(control: &Control, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let credential = control.credential(CLIENT_ID);
    let roots: RootCertStore = homarus_identity::TrustAnchors::from_pem(&control.anchors).unwrap().root_store();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified_key())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from(SERVER_ID).unwrap()).unwrap()
}

/// One connection to the inbound port, with a header and an echo.
fn tunnel(mesh: &Mesh, config: &Arc<ClientConfig>, port: u16) -> HandshakeKind {
    let mut tcp = mesh.client().connect_unmeshed(mesh.server().at(INBOUND)).unwrap();
    let mut session = session(config);
    let mut tls = rustls::Stream::new(&mut session, &mut tcp);
    tls.write_all(&Header { port, name: None, session: None }.encode()).unwrap();
    tls.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    tls.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    session.handshake_kind().unwrap()
}

#[test]
fn our_server_lets_only_our_own_clients_resume() {
    let mesh = mesh();
    let port = mesh.serve(echo);
    let theirs = client_config(&mesh.control, &[ALPN]);
    assert_eq!([(); 4].map(|()| tunnel(&mesh, &theirs, port)), [HandshakeKind::Full; 4]);
    let ours = client_config(&mesh.control, &[ALPN_RESUMING, ALPN]);
    let kinds = [(); 4].map(|()| tunnel(&mesh, &ours, port));
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}

/// A server's proxy made of rustls, which gives tickets to everyone: counts the kinds of handshakes.
fn rustls_server(mesh: &Mesh, port: u16, alpn: &[&[u8]]) -> Arc<Mutex<Vec<HandshakeKind>>> {
    let credential = mesh.control.credential(SERVER_ID);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified_key())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let (config, kinds) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
    let seen = kinds.clone();
    serve(mesh.server().listen(port), move |tcp| {
        let _ = echo_behind_header(tcp, ServerConnection::new(config.clone()).unwrap(), &seen);
    });
    kinds
}

fn echo_behind_header(mut tcp: TcpStream, mut session: ServerConnection, seen: &Mutex<Vec<HandshakeKind>>) -> std::io::Result<()> {
    let mut tls = rustls::Stream::new(&mut session, &mut tcp);
    let mut said = Vec::new();
    loop {
        let mut part = [0; 1024];
        let n = tls.read(&mut part)?;
        said.extend_from_slice(&part[..n]);
        match Header::decode(&said) {
            Ok(Progress::Done(_, taken)) if said.len() >= taken + 5 => {
                tls.write_all(&said[taken..])?;
                break;
            }
            _ if n == 0 => return Ok(()),
            _ => {}
        }
    }
    seen.lock().unwrap().extend(tls.conn.handshake_kind());
    let _ = tls.read(&mut [0; 1]);
    Ok(())
}

#[test]
fn our_client_resumes_only_with_our_own_servers() {
    let mesh = meshed_client();
    let ports = UNMESHED.start() + 10;
    for (n, alpn, later) in [(0, &[ALPN][..], HandshakeKind::Full), (1, &[ALPN_RESUMING, ALPN], HandshakeKind::Resumed)] {
        let port = ports + n;
        let kinds = rustls_server(&mesh, port, alpn);
        let mut service = Service::new(&format!("db{n}"), [10, 99, 9, n as u8], 6000);
        let addr = mesh.server().at(1234);
        service.endpoints = vec![Endpoint { tagged: Some(port), ..Endpoint::meshed(addr, SERVER_ID) }];
        service.opaque = true;
        let to = mesh.service(service);
        for _ in 0..4 {
            let mut tcp = mesh.client().connect(to).unwrap();
            tcp.write_all(b"hello").unwrap();
            tcp.read_exact(&mut [0; 5]).unwrap();
        }
        let want = vec![HandshakeKind::Full, later, later, later];
        homarus_testkit::wait_for("four handshakes", || (kinds.lock().unwrap().len() == 4).then_some(()));
        assert_eq!(*kinds.lock().unwrap(), want);
    }
}

#[test]
fn tls_that_breaks_off_harms_nobody() {
    let mut mesh = mesh();
    let port = mesh.serve(echo);
    let config = client_config(&mesh.control, &[ALPN_RESUMING, ALPN]);
    let mut hello = Vec::new();
    session(&config).write_tls(&mut hello).unwrap();
    let server = mesh.server();
    let mut held = Vec::new();
    for to in [server.at(INBOUND), server.at(port), server.at(homarus_testkit::ground::ADMIN)] {
        let say = |words: &[&[u8]]| {
            let mut tcp = mesh.client().connect_unmeshed(to).unwrap();
            words.iter().for_each(|word| _ = tcp.write_all(word));
            tcp
        };
        for cut in (1..hello.len()).step_by(211) {
            // One that goes, and one that stays silent.
            drop(say(&[&hello[..cut]]));
            held.push(say(&[&hello[..cut]]));
        }
        // A whole one, and then what is no TLS: refused with an alert at most.
        for nonsense in [&b"\x17\x03\x03\xff\xff"[..], b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x05hello", &[0; 3000]] {
            let mut tcp = say(&[&hello, nonsense]);
            let _ = tcp.shutdown(std::net::Shutdown::Write);
            let _ = tcp.read_to_end(&mut Vec::new());
        }
    }
    half_open(&mesh, &config);
    assert_eq!(tunnel(&mesh, &client_config(&mesh.control, &[ALPN]), port), HandshakeKind::Full);
    assert!(mesh.client_proxy().is_running() && mesh.server_proxy().is_running());
}

/// Sessions that are established, and then broken: records cut short or changed, an end without a goodbye.
fn half_open(mesh: &Mesh, config: &Arc<ClientConfig>) {
    for spoil in [0, 1, 2] {
        let to: SocketAddr = mesh.server().at(INBOUND);
        let mut tcp = mesh.client().connect_unmeshed(to).unwrap();
        let mut session = session(config);
        while session.is_handshaking() {
            session.complete_io(&mut tcp).unwrap();
        }
        session.writer().write_all(&[b'x'; 1000]).unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        match spoil {
            0 => record.truncate(500),
            1 => record[100] ^= 1,
            _ => {}
        }
        tcp.write_all(&record).unwrap();
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest);
    }
}
