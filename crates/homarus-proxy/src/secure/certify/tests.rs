#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    buffers::Buffer,
    config::{ControlAddr, StreamLimits, vars::PREFIX},
    discover::Peers,
    dns::Dns,
    secure::{self, Keys, control::ControlStream},
};
use homarus_identity::{Issuer, Key, authority::Pair, csr, issuer::Validity};
use homarus_model::{Identity as Name, endpoint::ServerTls};
use homarus_wire::api::identity::identity_server::{self, IdentityServer};
use homarus_wire::trust::TrustUpdate;
use std::{collections::VecDeque, net::SocketAddr, sync::Mutex};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, async_trait, transport::server::Connected};

const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const ISSUER: &str = "linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local";
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);

/// A root with an issuer below it.
struct Mesh {
    anchors: TrustAnchors,
    issuer: Issuer,
}

impl Mesh {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = Pair::root("root", 24 * HOUR, now).unwrap();
        let pair = root.issuer("issuer", 24 * HOUR, now).unwrap();
        let anchors = TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
        let issuer = Issuer::from_pem(&pair.certificate.to_pem(), &pair.key_pem(), &anchors, Validity::default(), now).unwrap();
        Self { anchors, issuer }
    }

    fn issue(&self, request: &[u8], name: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
        let request = csr::Request::parse(request).unwrap();
        let leaf = self.issuer.issue(&request, name, SystemTime::now()).unwrap();
        (leaf.der().to_vec(), self.issuer.intermediates().map(|c| c.to_vec()).collect())
    }

    fn material(&self, name: &str) -> Material {
        let (id, key): (Name, _) = (name.parse().unwrap(), Key::generate().unwrap());
        let (leaf, above) = self.issue(&csr::make(&id, &key).unwrap(), name);
        let credential = Credential::verified(&id, &key, leaf, above, &self.anchors, SystemTime::now()).unwrap();
        Material { credential, anchors: self.anchors.clone() }
    }
}

/// An identity controller: it refuses as often as it is told to, then issues.
struct Controller {
    mesh: Mesh,
    refusals: Mutex<VecDeque<Code>>,
    asked: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Controller {
    fn new(refusals: &[Code]) -> Arc<Self> {
        Arc::new(Self { mesh: Mesh::new(), refusals: Mutex::new(refusals.iter().copied().collect()), asked: Mutex::default() })
    }
}

#[async_trait]
impl identity_server::Identity for Controller {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push((request.identity.clone(), request.token));
        if let Some(code) = self.refusals.lock().unwrap().pop_front() {
            return Err(Status::new(code, "as the test says"));
        }
        let (leaf_certificate, intermediate_certificates) =
            self.mesh.issue(&request.certificate_signing_request, &request.identity);
        Ok(Response::new(CertifyResponse { leaf_certificate, intermediate_certificates, valid_until: None }))
    }
}

impl Connected for ControlStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

async fn listen() -> (tokio::net::TcpListener, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Serves in the clear.
async fn serve(controller: Arc<Controller>) -> SocketAddr {
    let (listener, addr) = listen().await;
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(IdentityServer::from_arc(controller));
    tokio::spawn(server.serve_with_incoming(incoming));
    addr
}

/// Serves with TLS, as the issuer; tells who came.
async fn serve_tls(controller: Arc<Controller>) -> (SocketAddr, tokio::sync::mpsc::Receiver<Option<Name>>) {
    let (listener, addr) = listen().await;
    let keys = Keys::new(controller.mesh.material(ISSUER)).unwrap();
    let (streams, incoming) = tokio::sync::mpsc::channel::<io::Result<ControlStream>>(4);
    let (came, visitors) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok((tls, peer)) = secure::accept(tcp, keys.server(), Buffer::take(), PATIENCE).await else { continue };
            let _ = came.send(peer.identity).await;
            let _ = streams.send(Ok(ControlStream(Box::new(tls)))).await;
        }
    });
    let server = tonic::transport::Server::builder().add_service(IdentityServer::from_arc(controller));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    (addr, visitors)
}

/// A workload's configuration in a directory of its own.
struct Workload {
    dir: tempfile::TempDir,
    config: crate::config::Config,
}

impl Workload {
    fn new(issuer: SocketAddr, anchors: &TrustAnchors) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "secret").unwrap();
        std::fs::write(dir.path().join("anchors.pem"), anchors.pem()).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let vars = [
            ("DESTINATION_SVC_ADDR", "127.0.0.1:1".to_owned()),
            ("POLICY_SVC_ADDR", "127.0.0.1:1".to_owned()),
            ("POLICY_WORKLOAD", "me".to_owned()),
            ("IDENTITY_SVC_ADDR", issuer.to_string()),
            ("IDENTITY_DIR", path("")),
            ("IDENTITY_TRUST_ANCHORS_FILE", path("anchors.pem")),
            ("IDENTITY_TOKEN_FILE", path("token")),
            ("IDENTITY_LOCAL_NAME", NAME.to_owned()),
            ("IDENTITY_MIN_REFRESH", "20ms".to_owned()),
            ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1ms".to_owned()),
            ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "20ms".to_owned()),
        ];
        let vars = vars.into_iter().map(|(k, v)| (format!("{PREFIX}{k}").into(), v.into())).collect();
        let config = crate::config::Config::parse(vars).unwrap();
        Self { dir, config }
    }

    fn prepare(&self) -> (Certify, Certified) {
        Certify::prepare(self.config.identity.clone(), Registry::default()).unwrap()
    }

    fn control(&self, certified: &Certified, addr: ControlAddr) -> Control {
        let dns = Arc::new(Dns::new(None, None, Registry::default()));
        let peers = Peers { anchors: certified.anchors.clone(), material: certified.material.clone() };
        Control::new("identity", addr, StreamLimits::default(), &self.config.outbound.direction, dns, peers, &Registry::default())
    }

    fn issuer(&self, certified: &Certified) -> Control {
        self.control(certified, self.config.identity.issuer.clone())
    }
}

async fn first(certified: &mut Certified) -> Material {
    let came = tokio::time::timeout(PATIENCE, certified.material.wait_for(Option::is_some)).await;
    came.expect("no certificate came").unwrap().clone().unwrap()
}

#[tokio::test]
async fn a_certificate_comes_although_the_controller_refuses_at_first() {
    let controller = Controller::new(&[Code::FailedPrecondition]);
    let workload = Workload::new(serve(controller.clone()).await, &controller.mesh.anchors);
    let (certify, mut certified) = workload.prepare();
    assert_eq!(certified.times.seconds(), (0.0, 0.0));
    let registry = certify.registry.clone();
    let running = tokio::spawn(certify.run(workload.issuer(&certified)));
    let material = first(&mut certified).await;
    assert_eq!(material.credential.identity().as_str(), NAME);
    assert!(certified.times.seconds().0 > certified.times.seconds().1);
    assert_eq!(*controller.asked.lock().unwrap(), vec![(NAME.to_owned(), b"secret".to_vec()); 2]);
    assert!(workload.dir.path().join("key.p8").exists() && workload.dir.path().join("csr.der").exists());
    let mut text = String::new();
    registry.render(&mut text);
    assert!(text.contains("control_identity_cert_refreshes_total{result=\"error\"} 1\n"), "{text}");
    running.abort();
}

#[tokio::test]
async fn a_leaf_of_another_mesh_is_not_used() {
    let controller = Controller::new(&[]);
    let workload = Workload::new(serve(controller.clone()).await, &Mesh::new().anchors);
    let (certify, certified) = workload.prepare();
    let issuer = workload.issuer(&certified);
    certify.once(&issuer).await;
    assert_eq!(controller.asked.lock().unwrap().len(), 1);
    assert!(certified.material.borrow().is_none());
}

#[tokio::test]
async fn the_token_is_read_each_time() {
    let controller = Controller::new(&[]);
    let workload = Workload::new(serve(controller.clone()).await, &controller.mesh.anchors);
    let (certify, certified) = workload.prepare();
    let issuer = workload.issuer(&certified);
    certify.once(&issuer).await;
    std::fs::write(workload.dir.path().join("token"), "newer").unwrap();
    certify.once(&issuer).await;
    std::fs::write(workload.dir.path().join("token"), "").unwrap();
    certify.once(&issuer).await;
    let tokens: Vec<_> = controller.asked.lock().unwrap().iter().map(|(_, token)| token.clone()).collect();
    assert_eq!(tokens, [b"secret".to_vec(), b"newer".to_vec()], "without a token nobody is asked");
    assert!(certified.material.borrow().is_some(), "the certificate goes on while there is no token");
}

#[tokio::test]
async fn anchors_change_without_a_restart() {
    let controller = Controller::new(&[]);
    let workload = Workload::new(serve(controller.clone()).await, &controller.mesh.anchors);
    let (certify, mut certified) = workload.prepare();
    certify.once(&workload.issuer(&certified)).await;
    let _ = (certified.anchors.borrow_and_update(), certified.material.borrow_and_update());

    let both = format!("{}{}", controller.mesh.anchors.pem(), Mesh::new().anchors.pem());
    let file = workload.dir.path().join("anchors.pem");
    std::fs::write(&file, "nonsense").unwrap();
    tokio::time::pause();
    let watching = tokio::time::timeout(3 * ANCHORS_POLL, certify.watch_anchors());
    assert!(watching.await.is_err() && !certified.anchors.has_changed().unwrap(), "what can't be read changes nothing");
    std::fs::write(&file, &both).unwrap();
    assert!(tokio::time::timeout(2 * ANCHORS_POLL, certify.watch_anchors()).await.is_err());
    assert_eq!(certified.anchors.borrow_and_update().certificates().len(), 2);
    assert_eq!(certified.material.borrow_and_update().as_ref().unwrap().anchors.certificates().len(), 2);
}

#[tokio::test]
async fn the_controller_must_be_who_it_should_be() {
    let controller = Controller::new(&[]);
    let (addr, mut visitors) = serve_tls(controller.clone()).await;
    let workload = Workload::new(addr, &controller.mesh.anchors);
    let (certify, certified) = workload.prepare();
    let addr_of = |id: &str| {
        let Ok(Name::Dns(server_name)) = id.parse() else { panic!() };
        let tls = Some(ServerTls { id: Name::Dns(server_name.clone()), server_name });
        ControlAddr { tls, ..workload.config.identity.issuer.clone() }
    };
    let wrong = workload.control(&certified, addr_of("somebody.else"));
    assert!(matches!(wrong.connect().await, Err(ConnectError::Tls { .. })));

    let right = workload.control(&certified, addr_of(ISSUER));
    certify.once(&right).await;
    assert!(certified.material.borrow().is_some());
    assert_eq!(visitors.recv().await.unwrap(), None, "the first time there is nothing to show");
    certify.once(&right).await;
    assert_eq!(visitors.recv().await.unwrap().unwrap().as_str(), NAME);
}

#[tokio::test]
async fn discovery_does_not_ask_as_a_stranger() {
    let controller = Controller::new(&[]);
    let plain = serve(controller.clone()).await;
    let (addr, mut visitors) = serve_tls(controller.clone()).await;
    let workload = Workload::new(plain, &controller.mesh.anchors);
    let (certify, certified) = workload.prepare();
    let Ok(Name::Dns(server_name)) = ISSUER.parse() else { panic!() };
    let tls = Some(ServerTls { id: Name::Dns(server_name.clone()), server_name });
    let text: Arc<str> = addr.to_string().into();
    let authority = addr.into();
    let control = workload.control(&certified, ControlAddr { text, authority, tls });
    let asking = tokio::spawn(async move { control.channel().await });
    tokio::task::yield_now().await;
    assert!(visitors.try_recv().is_err() && !asking.is_finished());
    certify.once(&workload.issuer(&certified)).await;
    assert_eq!(visitors.recv().await.unwrap().unwrap().as_str(), NAME);
    assert!(tokio::time::timeout(PATIENCE, asking).await.unwrap().is_ok());
}

#[test]
fn what_stands_in_the_way_of_a_start_is_told() {
    let mesh = Mesh::new();
    let workload = Workload::new("127.0.0.1:1".parse().unwrap(), &mesh.anchors);
    let start = || Certify::prepare(workload.config.identity.clone(), Registry::default()).err().map(|e| e.to_string());
    let file = workload.dir.path().join("anchors.pem");
    std::fs::write(&file, "nonsense").unwrap();
    assert!(start().is_some_and(|e| e.contains("trust anchors")));
    std::fs::remove_file(&file).unwrap();
    assert!(start().is_some_and(|e| e.contains("anchors.pem")));
    std::fs::write(&file, mesh.anchors.pem()).unwrap();
    std::fs::write(workload.dir.path().join("key.p8"), "nonsense").unwrap();
    assert!(start().is_some_and(|e| e.contains("key.p8")));
}

#[test]
fn kept_anchors_that_can_not_be_read_are_no_reason_not_to_start() {
    let mesh = Mesh::new();
    let workload = Workload::new("127.0.0.1:1".parse().unwrap(), &mesh.anchors);
    let config = || {
        let trust_anchors = TrustAnchorsSource::Text(mesh.anchors.pem().into());
        Identity { trust_anchors, ..workload.config.identity.clone() }
    };
    let start = || Certify::prepare(config(), Registry::default()).unwrap().1.anchors.borrow().fingerprint();
    let both = TrustAnchors::from_pem(&format!("{}{}", mesh.anchors.pem(), Mesh::new().anchors.pem())).unwrap();
    files::keep_anchors(workload.dir.path(), &both, &mesh.anchors).unwrap();
    assert_eq!(start(), both.fingerprint());
    let file = workload.dir.path().join(files::ANCHORS_FILE);
    std::fs::write(&file, vec![b' '; 2 * pem::MAX_PEM_BYTES]).unwrap();
    assert_eq!(start(), mesh.anchors.fingerprint(), "too long");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(start(), mesh.anchors.fingerprint(), "no file");
}

#[test]
fn who_follows_says_so_for_as_long_as_it_runs() {
    let mesh = Mesh::new();
    let workload = Workload::new("127.0.0.1:1".parse().unwrap(), &mesh.anchors);
    let (certify, _certified) = workload.prepare();
    let shown = || {
        let mut text = String::new();
        certify.registry.expire(Duration::ZERO);
        certify.registry.render(&mut text);
        text.contains("homarus_identity_trust_updates_total{result=\"adopted\"}")
    };
    assert!(!shown());
    certify.hear(TrustUpdate { bundle: mesh.anchors.pem().to_owned(), issuer: String::new() });
    assert!(shown() && shown(), "though nobody tells of another bundle for years");
}

#[tokio::test]
async fn why_a_bundle_is_refused_is_told_until_one_is_taken() {
    let controller = Controller::new(&[]);
    let workload = Workload::new(serve(controller.clone()).await, &controller.mesh.anchors);
    let text = TrustAnchorsSource::Text(controller.mesh.anchors.pem().into());
    let config = Identity { trust_anchors: text, ..workload.config.identity.clone() };
    let (certify, certified) = Certify::prepare(config, Registry::default()).unwrap();
    certify.once(&workload.issuer(&certified)).await;
    let mut refused = certify.refused.subscribe();
    let mut hear = |bundle: &str| {
        certify.hear(TrustUpdate { bundle: bundle.to_owned(), issuer: String::new() });
        let changed = refused.has_changed().unwrap();
        refused.mark_unchanged();
        (certify.standing().refused, changed)
    };
    let (own, stranger) = (controller.mesh.anchors.pem(), Mesh::new().anchors.pem().to_owned());
    assert_eq!(hear(own), (String::new(), false));
    assert_eq!(hear(""), ("the bundle is empty".to_owned(), true));
    let (why, changed) = hear(&stranger);
    assert!(changed && why.starts_with("the own certificate doesn't stand on it"), "{why}");
    assert_eq!(hear(&stranger), (why, false), "the same again opens no other stream");
    assert_eq!(hear(own), (String::new(), true));
    assert_eq!((hear("").1, hear(&format!("{own}{stranger}")).0), (true, String::new()));
}
