//! The whole way of a request but the network and the API server: both directions of every row of the table.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use homarus_daemon::drain;
use homarus_identity::authority::Pair;
use homarus_identity::{Credential, Key, TrustAnchors, csr};
use homarus_wire::trust::{MAX_REASON, Trust, TrustClient, WatchRequest};
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use tokio::sync::mpsc::Receiver;
use tonic::{Code, Request, Status};

use super::tokens::{AUDIENCE, Review, ReviewFailed, ReviewTokens};
use super::*;
use crate::events::{Happening, Severity};
use std::time::SystemTime;

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The fake of the outside: an API server that knows some tokens.
#[derive(Default)]
struct KnownTokens(HashMap<&'static str, Review>);

impl ReviewTokens for KnownTokens {
    async fn review(&self, token: &str, audience: &str) -> Result<Review, ReviewFailed> {
        assert_eq!(audience, AUDIENCE);
        self.0.get(token).cloned().ok_or_else(|| ReviewFailed("connection refused".into()))
    }
}

fn good(username: &str) -> Review {
    Review { authenticated: true, username: username.into(), audiences: vec![AUDIENCE.into()], error: None }
}

fn tokens() -> KnownTokens {
    let web = || good("system:serviceaccount:shop:web");
    KnownTokens(HashMap::from([
        ("web", web()),
        ("dotted", good("system:serviceaccount:shop:we.b")),
        ("person", good("alice")),
        ("unauthenticated", Review { authenticated: false, ..web() }),
        ("unreviewed", Review { error: Some("token audiences [x] is invalid".into()), ..Review::default() }),
        ("no-audience", Review { audiences: Vec::new(), ..web() }),
        ("api-audience", Review { audiences: vec!["https://kubernetes.default.svc".into()], ..web() }),
    ]))
}

struct Scenario {
    dir: tempfile::TempDir,
    root: Pair,
    certifier: Certifier<KnownTokens>,
    log: Log,
    events: Receiver<Happening>,
    metrics: Metrics,
    _signal: drain::Signal,
}

fn write_issuer(dir: &Path, scheme: &str, root: &Pair, issuer: &Pair) {
    let (cert, key) = if scheme == "linkerd.io/tls" { ("crt.pem", "key.pem") } else { ("tls.crt", "tls.key") };
    std::fs::write(dir.join("ca-bundle.crt"), root.certificate.to_pem()).unwrap();
    std::fs::write(dir.join(cert), issuer.certificate.to_pem()).unwrap();
    std::fs::write(dir.join(key), issuer.key_pem()).unwrap();
}

fn args(dir: &Path, scheme: &str) -> Args {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let flags = [
        "identity".to_owned(),
        "-controller-namespace=linkerd".to_owned(),
        "-identity-trust-domain=cluster.local".to_owned(),
        "-identity-issuance-lifetime=24h0m0s".to_owned(),
        "-identity-clock-skew-allowance=20s".to_owned(),
        format!("-identity-scheme={scheme}"),
        format!("-issuer={}", dir.display()),
        format!("-trust-anchors={}", dir.join("ca-bundle.crt").display()),
        "-enable-pprof=false".to_owned(),
    ];
    let flags = homarus_daemon::args::double_dashes(flags.into_iter().map(Into::into));
    <Cli as clap::Parser>::parse_from(flags).args
}

/// A certifier with the mounted material.
fn start(args: &Args, recorder: Recorder, metrics: &Metrics, drain: Drain) -> anyhow::Result<Certifier<KnownTokens>> {
    let log = Log::new(recorder, "linkerd");
    let current = mounted(args, log.clone(), drain)?;
    metrics::register(metrics, current.clone(), Followers::default());
    Ok(Certifier::new(args.naming(), current, Arc::new(tokens()), log, metrics))
}

fn scenario(scheme: &str, lifetime: Duration) -> Scenario {
    let now = SystemTime::now();
    let dir = tempfile::tempdir().unwrap();
    let root = Pair::root("root", 365 * DAY, now).unwrap();
    write_issuer(dir.path(), scheme, &root, &root.issuer("issuer", lifetime, now).unwrap());
    let (recorder, events) = Recorder::channel();
    let (signal, drain) = drain::channel();
    let metrics = Metrics::new();
    let log = Log::new(recorder.clone(), "linkerd");
    let certifier = start(&args(dir.path(), scheme), recorder, &metrics, drain).unwrap();
    Scenario { dir, root, certifier, log, events, metrics, _signal: signal }
}

fn request(token: &str) -> (Key, CertifyRequest) {
    let key = Key::generate().unwrap();
    let certificate_signing_request = csr::make(&WEB.parse().unwrap(), &key).unwrap();
    (key, CertifyRequest { identity: WEB.into(), token: token.into(), certificate_signing_request })
}

impl Scenario {
    async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        self.certifier.certify(Request::new(request)).await.map(|response| response.into_inner())
    }

    async fn refused(&self, code: Code, change: impl FnOnce(&mut CertifyRequest)) {
        let (_, mut request) = request("web");
        change(&mut request);
        let status = self.certify(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test]
async fn a_proxy_with_the_right_token_gets_its_credential() {
    for scheme in ["linkerd.io/tls", "kubernetes.io/tls"] {
        let mut scenario = scenario(scheme, 30 * DAY);
        let (key, request) = request("web");
        let answer = scenario.certify(request).await.unwrap();
        let until = answer.valid_until.unwrap();
        let anchors = TrustAnchors::from_pem(&scenario.root.certificate.to_pem()).unwrap();
        let identity = WEB.parse().unwrap();
        let (leaf, above) = (answer.leaf_certificate, answer.intermediate_certificates);
        let credential = Credential::verified(&identity, &key, leaf, above, &anchors, SystemTime::now()).unwrap();
        let expiry = credential.expiry().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(until.seconds, expiry.as_secs() as i64);

        let event = scenario.events.recv().await.unwrap();
        assert_eq!(
            (event.reason, event.subject.kind, event.subject.name.as_str()),
            ("IssuedLeafCertificate", "ServiceAccount", "web")
        );
        assert!(event.message.contains(WEB) && event.message.contains(&credential.leaf().fingerprint()), "{}", event.message);
        let text = scenario.metrics.text().unwrap();
        let ttl = text.lines().find_map(|line| line.strip_prefix("issuer_cert_ttl_seconds ")).unwrap();
        assert!(ttl.parse::<f64>().unwrap() > 29.0 * 86_400.0, "{ttl}");
        assert!(text.contains("grpc_code=\"OK\"} 1"), "{text}");
    }
}

#[tokio::test]
async fn every_row_of_the_table_refuses() {
    let scenario = scenario("linkerd.io/tls", 30 * DAY);
    scenario.refused(Code::InvalidArgument, |r| r.identity.clear()).await;
    scenario.refused(Code::InvalidArgument, |r| r.token.clear()).await;
    scenario.refused(Code::InvalidArgument, |r| r.certificate_signing_request.clear()).await;
    scenario.refused(Code::InvalidArgument, |r| r.certificate_signing_request.truncate(50)).await;
    scenario.refused(Code::FailedPrecondition, |r| r.identity = WEB.replace("web", "api")).await;
    scenario.refused(Code::Internal, |r| r.token = b"nobody knows".to_vec()).await;
    scenario.refused(Code::InvalidArgument, |r| r.token = b"unreviewed".to_vec()).await;
    scenario.refused(Code::FailedPrecondition, |r| r.token = b"unauthenticated".to_vec()).await;
    scenario.refused(Code::FailedPrecondition, |r| r.token = b"no-audience".to_vec()).await;
    scenario.refused(Code::FailedPrecondition, |r| r.token = b"api-audience".to_vec()).await;
    scenario.refused(Code::InvalidArgument, |r| r.token = b"dotted".to_vec()).await;
    scenario.refused(Code::InvalidArgument, |r| r.token = b"person".to_vec()).await;

    // A good token for someone else: both the name and the request are consistent, the token is not theirs.
    let api = WEB.replace("web", "api");
    let key = Key::generate().unwrap();
    let certificate_signing_request = csr::make(&api.parse().unwrap(), &key).unwrap();
    let stolen = CertifyRequest { identity: api, token: b"web".to_vec(), certificate_signing_request };
    assert_eq!(scenario.certify(stolen).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_issuer_that_expires_while_running_is_told() {
    let mut scenario = scenario("linkerd.io/tls", Duration::from_millis(1500));
    // Certificates count in whole seconds, so this one is over within two.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let status = loop {
        match scenario.certify(request("web").1).await {
            Ok(_) => assert!(tokio::time::Instant::now() < deadline, "still issuing"),
            Err(status) => break status,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(status.code(), Code::Unknown);
    let failed = async {
        loop {
            let event = scenario.events.recv().await.unwrap();
            if event.reason == "IssuerValidationFailed" {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert_eq!((event.severity, event.subject.name.as_str()), (Severity::Warning, "linkerd-identity"));
}

#[tokio::test]
async fn new_material_is_used_at_once_and_bad_material_never() {
    let mut scenario = scenario("linkerd.io/tls", 30 * DAY);
    let now = SystemTime::now();
    let next = async |events: &mut Receiver<Happening>| {
        tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap().reason
    };
    let first = scenario.certify(request("web").1).await.unwrap().intermediate_certificates;
    assert_eq!(next(&mut scenario.events).await, "IssuedLeafCertificate");

    let stranger = Pair::root("stranger", 365 * DAY, now).unwrap();
    let foreign = stranger.issuer("foreign", 30 * DAY, now).unwrap();
    write_issuer(scenario.dir.path(), "linkerd.io/tls", &scenario.root, &foreign);
    assert_eq!(next(&mut scenario.events).await, "IssuerUpdateSkipped");
    assert_eq!(scenario.certify(request("web").1).await.unwrap().intermediate_certificates, first);
    assert_eq!(next(&mut scenario.events).await, "IssuedLeafCertificate");

    // New root and new issuer at once: no restart.
    write_issuer(scenario.dir.path(), "linkerd.io/tls", &stranger, &foreign);
    assert_eq!(next(&mut scenario.events).await, "IssuerUpdated");
    let second = scenario.certify(request("web").1).await.unwrap().intermediate_certificates;
    assert_eq!(second, [foreign.certificate.der().to_vec()]);
}

#[tokio::test]
async fn bad_material_at_the_start_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, mut events) = Recorder::channel();
    let (_signal, drain) = drain::channel();
    let args = args(dir.path(), "linkerd.io/tls");
    let error = start(&args, recorder, &Metrics::new(), drain).err().unwrap().to_string();
    assert!(error.contains("crt.pem"), "{error}");
    assert_eq!(events.recv().await.unwrap().reason, "IssuerValidationFailed");
}

#[tokio::test]
async fn proxies_are_served_over_the_network_until_the_drain() {
    let scenario = scenario("linkerd.io/tls", 30 * DAY);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, drain) = drain::channel();
    let followers = Followers::default();
    let current = mounted(&args(scenario.dir.path(), "linkerd.io/tls"), scenario.log.clone(), drain.clone()).unwrap();
    let teller = Teller::new(current, followers.clone(), drain.clone());
    // Who shows no identity, and isn't the proxy of this pod, is told but not counted.
    let standing = || WatchRequest { instance: "uid".into(), bundle: "old".into(), ..WatchRequest::default() };
    let stranger = teller.watch(Request::new(standing()));
    assert_eq!((stranger.is_ok(), followers.count("old")), (true, (0, 0)));
    let mut verified = Request::new(standing());
    verified.metadata_mut().insert("l5d-client-id", WEB.parse().unwrap());
    let web = teller.watch(verified);
    assert_eq!((web.is_ok(), followers.count("old")), (true, (1, 1)));
    drop((stranger, web));
    let serving = tokio::spawn(serve(listener, scenario.certifier, teller, drain));
    let endpoint = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    let mut client = IdentityClient::new(endpoint.connect().await.unwrap());
    client.certify(request("web").1).await.unwrap();
    assert_eq!(client.certify(request("person").1).await.unwrap_err().code(), Code::InvalidArgument);
    let mut huge = request("web").1;
    huge.token = vec![b'x'; MAX_REQUEST_BYTES];
    assert_eq!(client.certify(huge).await.unwrap_err().code(), Code::OutOfRange);

    // Who asks for roots is told of them, and counted.
    let mut trust = TrustClient::new(endpoint.connect().await.unwrap());
    let mut stream = trust.watch(standing()).await.unwrap().into_inner();
    let told = stream.message().await.unwrap().unwrap();
    assert_eq!(told.bundle, scenario.root.certificate.to_pem());
    assert_eq!((told.issuer.len(), followers.count("old")), (64, (1, 1)));
    let long = || "x".repeat(65);
    for long in [
        WatchRequest { instance: long(), ..standing() },
        WatchRequest { bundle: long(), ..standing() },
        WatchRequest { issuer: long(), ..standing() },
        WatchRequest { refused: "x".repeat(MAX_REASON + 1), ..standing() },
    ] {
        assert_eq!(trust.watch(long).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // What changes is told.
    let root = Pair::root("another", 365 * DAY, SystemTime::now()).unwrap();
    let issuer = root.issuer("issuer", 30 * DAY, SystemTime::now()).unwrap();
    write_issuer(scenario.dir.path(), "linkerd.io/tls", &root, &issuer);
    let told = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((told.bundle, told.issuer), (root.certificate.to_pem(), issuer.certificate.fingerprint()));

    // The client's connection is still open; it must not hold up the end.
    signal.start();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap().unwrap();
    assert!(client.certify(request("web").1).await.is_err());
}
