//! Admission reviews over real TLS; only the cluster behind is a fake.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use homarus_daemon::drain;
use homarus_daemon::metrics::Metrics;
use homarus_identity::authority::Pair;
use homarus_kube::annotations as names;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;

use super::cluster::{Cluster, ClusterError};
use super::*;
use crate::events::Happening;
use crate::webhook::review::OwnerReference;
use crate::webhook::serving::{Files, ServingCertificate};
use crate::webhook::{Answer, server};

const HOST: &str = "linkerd-proxy-injector.linkerd.svc";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The fake of the outside: a cluster with one namespace and a few owners.
struct FakeCluster;

impl Cluster for FakeCluster {
    async fn namespace_annotations(&self, name: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        match name {
            "shop" => Ok([(names::INJECT, "enabled"), (names::LOG_LEVEL, "debug")].map(|(k, v)| (k.into(), v.into())).into()),
            "plain" => Ok(BTreeMap::new()),
            other => Err(ClusterError::NoNamespace(other.into())),
        }
    }

    async fn owners(&self, _: &str, of: &OwnerReference) -> Result<Vec<OwnerReference>, ClusterError> {
        let owner = |kind: &str, name: &str| vec![OwnerReference { kind: kind.into(), name: name.into(), uid: "u".into() }];
        match (of.kind.as_str(), of.name.as_str()) {
            ("ReplicaSet", "web-1") => Ok(owner("Deployment", "web")),
            ("ReplicaSet", "odd-1") => Ok(owner("Rollout", "odd")),
            ("Job", "nightly-1") => Ok(owner("CronJob", "nightly")),
            ("ReplicaSet", "unreachable") => Err(ClusterError::Api { what: "ReplicaSet".into(), reason: "timeout".into() }),
            _ => Ok(Vec::new()),
        }
    }
}

struct Scenario {
    dir: tempfile::TempDir,
    address: SocketAddr,
    serving: Pair,
    events: Receiver<Happening>,
    metrics: Metrics,
    signal: drain::Signal,
}

fn write_pair(dir: &Path, pair: &Pair) {
    std::fs::write(dir.join("tls.crt"), pair.certificate.to_pem()).unwrap();
    std::fs::write(dir.join("tls.key"), pair.key_pem()).unwrap();
}

async fn scenario() -> Scenario {
    let now = SystemTime::now();
    let dir = tempfile::tempdir().unwrap();
    let serving = Pair::server(&[HOST], DAY, now).unwrap();
    write_pair(dir.path(), &serving);
    let (values, anchors) = (dir.path().join("values"), dir.path().join("ca-bundle.crt"));
    std::fs::write(&values, "linkerdVersion: edge-1\n").unwrap();
    std::fs::write(&anchors, Pair::root("root", DAY, now).unwrap().certificate.to_pem()).unwrap();

    let (recorder, events) = Recorder::channel();
    let (signal, drain) = drain::channel();
    let metrics = Metrics::new();
    let webhook = Webhook::new("linkerd".into(), Config::new(&values, &anchors), FakeCluster, recorder, &metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let files = Files::of_folder(dir.path());
    let certificate = ServingCertificate::load(&files).unwrap();
    tokio::spawn(certificate.clone().follow(files, drain.clone()));
    tokio::spawn(server::serve(listener, certificate, Arc::new(webhook), drain));
    Scenario { dir, address, serving, events, metrics, signal }
}

/// Sends a body over TLS, believing in one certificate; answers status and body.
async fn post(address: SocketAddr, believed: &Pair, body: &[u8]) -> std::io::Result<(u16, String)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(believed.certificate.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from(HOST).unwrap(), stream).await?;
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

fn pod(owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<_> =
        owner.iter().map(|(kind, name)| json!({ "apiVersion": "x/v1", "kind": kind, "name": name, "uid": name })).collect();
    json!({
        "metadata": { "generateName": "web-", "ownerReferences": owners },
        "spec": { "containers": [{ "name": "web", "image": "web", "ports": [{ "containerPort": 80 }] }] },
    })
}

fn review(version: &str, kind: &str, namespace: &str, object: Value) -> Value {
    json!({
        "apiVersion": format!("admission.k8s.io/{version}"),
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": kind },
            "namespace": namespace,
            "operation": "CREATE",
            "object": object,
        },
    })
}

impl Scenario {
    async fn admit(&self, review: &Value) -> Value {
        let (status, body) = post(self.address, &self.serving, review.to_string().as_bytes()).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn patch(answer: &Value) -> Vec<Value> {
    let encoded = answer["response"]["patch"].as_str().unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap()
}

#[tokio::test]
async fn a_pod_of_a_deployment_is_injected() {
    let mut scenario = scenario().await;
    for version in ["v1", "v1beta1"] {
        let answer = scenario.admit(&review(version, "Pod", "shop", pod(Some(("ReplicaSet", "web-1"))))).await;
        assert_eq!(answer["apiVersion"], format!("admission.k8s.io/{version}"));
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!("u-1"), &json!(true)));
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch = patch(&answer);
        assert!(patch.iter().all(|op| op["op"] == "add"));
        let at = |path: &str| patch.iter().find(|op| op["path"] == path).map(|op| op["value"].clone()).unwrap();
        assert_eq!(at("/metadata/labels/linkerd.io~1proxy-deployment"), "web");
        assert_eq!(at("/metadata/annotations/config.linkerd.io~1proxy-log-level"), "debug");
        assert_eq!(at("/spec/initContainers/1")["image"], "cr.l5d.io/linkerd/proxy:edge-1");
        let event = scenario.events.recv().await.unwrap();
        assert_eq!((event.reason, event.subject.kind, event.subject.name.as_str()), ("Injected", "Deployment", "web"));
    }
    let text = scenario.metrics.text().unwrap();
    let response = text.lines().find(|line| line.starts_with("proxy_inject_admission_responses_total{")).unwrap();
    for label in [
        "owner_kind=\"deployment\"",
        "namespace=\"shop\"",
        "skip=\"false\"",
        "annotation_at=\"namespace\"",
        "proxy_log_level=\"debug\"",
    ] {
        assert!(response.contains(label), "{response}");
    }
    assert!(response.ends_with("} 2"), "{response}");
}

#[tokio::test]
async fn owners_are_followed_as_far_as_they_are_known() {
    let mut scenario = scenario().await;
    for (owner, event_kind, event_name) in [
        (Some(("ReplicaSet", "odd-1")), "ReplicaSet", "odd-1"),
        (Some(("Job", "nightly-1")), "CronJob", "nightly"),
        (Some(("Job", "once")), "Job", "once"),
        (Some(("StatefulSet", "db")), "StatefulSet", "db"),
    ] {
        scenario.admit(&review("v1", "Pod", "shop", pod(owner))).await;
        let event = scenario.events.recv().await.unwrap();
        assert_eq!((event.subject.kind, event.subject.name.as_str()), (event_kind, event_name));
    }
    // A bare pod without a name yet: nothing to write an event on.
    scenario.admit(&review("v1", "Pod", "shop", pod(None))).await;
    let mut dry = review("v1", "Pod", "shop", pod(Some(("StatefulSet", "db"))));
    dry["request"]["dryRun"] = true.into();
    scenario.admit(&dry).await;
    assert!(scenario.events.try_recv().is_err());
}

#[tokio::test]
async fn what_is_not_injected_is_admitted() {
    let mut scenario = scenario().await;
    let answer = scenario.admit(&review("v1", "Pod", "plain", pod(Some(("ReplicaSet", "web-1"))))).await;
    assert_eq!(answer["response"], json!({ "uid": "u-1", "allowed": true }));
    let event = scenario.events.recv().await.unwrap();
    assert_eq!(event.reason, "InjectionSkipped");
    assert!(event.message.contains("neither the namespace nor the pod"), "{}", event.message);
    let text = scenario.metrics.text().unwrap();
    assert!(text.contains("skip=\"true\",skip_reason=\"injection_enable_annotation_absent\""), "{text}");

    let service = json!({ "metadata": { "name": "db" }, "spec": { "ports": [{ "port": 3306 }] } });
    let patch = patch(&scenario.admit(&review("v1", "Service", "plain", service)).await);
    assert_eq!(patch[1]["value"], "3306");
    let other = scenario.admit(&review("v1", "ConfigMap", "plain", json!({}))).await;
    assert_eq!(other["response"], json!({ "uid": "u-1", "allowed": true }));
}

#[tokio::test]
async fn doubt_denies_and_says_why() {
    let scenario = scenario().await;
    let denied = async |namespace: &str, object: Value, says: &str| {
        let answer = scenario.admit(&review("v1", "Pod", namespace, object)).await;
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
    };
    denied("nowhere", pod(None), "nowhere").await;
    denied("shop", pod(Some(("ReplicaSet", "unreachable"))), "timeout").await;
    let mut headers = pod(None);
    headers["metadata"]["annotations"] = json!({ names::LOG_HTTP_HEADERS: "all" });
    denied("shop", headers, "logHTTPHeaders").await;
    // Values and anchors are those of the moment.
    std::fs::write(scenario.dir.path().join("values"), "proxy: [").unwrap();
    denied("shop", pod(None), "linkerd-config").await;
    std::fs::write(scenario.dir.path().join("values"), "linkerdVersion: edge-2\n").unwrap();
    let answer = scenario.admit(&review("v1", "Pod", "shop", pod(None))).await;
    assert!(patch(&answer).iter().any(|op| op["value"] == "edge-2"));
    std::fs::write(scenario.dir.path().join("ca-bundle.crt"), "gone").unwrap();
    denied("shop", pod(None), "trust anchors").await;
}

#[tokio::test]
async fn bodies_that_are_no_reviews() {
    let scenario = scenario().await;
    let mut no_uid = review("v1", "Pod", "shop", pod(None));
    no_uid["request"]["uid"] = "".into();
    for body in [b"{".to_vec(), b"[]".to_vec(), no_uid.to_string().into_bytes(), Vec::new()] {
        let (status, text) = post(scenario.address, &scenario.serving, &body).await.unwrap();
        assert_eq!(status, 400, "{text}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_served_and_a_bad_one_is_not() {
    let scenario = scenario().await;
    let new = Pair::server(&[HOST], DAY, SystemTime::now()).unwrap();
    let body = review("v1", "Pod", "shop", pod(None)).to_string();
    assert!(post(scenario.address, &new, body.as_bytes()).await.is_err());
    // A certificate whose key is another's: the old one stays.
    std::fs::write(scenario.dir.path().join("tls.crt"), new.certificate.to_pem()).unwrap();
    tokio::time::sleep(homarus_daemon::watch_files::INTERVAL * 2).await;
    assert_eq!(post(scenario.address, &scenario.serving, body.as_bytes()).await.unwrap().0, 200);
    write_pair(scenario.dir.path(), &new);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while post(scenario.address, &new, body.as_bytes()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // An idle connection doesn't hold up the end.
    let _idle = TcpStream::connect(scenario.address).await.unwrap();
    assert_eq!(scenario.signal.finish(Duration::from_secs(15)).await, drain::Drained::Finished);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let scenario = scenario().await;
    let huge = vec![b' '; crate::webhook::review::MAX_REVIEW_BYTES + 1];
    // Either the answer comes before the body is through, or the connection ends under it.
    if let Ok((status, text)) = post(scenario.address, &scenario.serving, &huge).await {
        assert_eq!(status, 400, "{text}");
    }
    assert_eq!(scenario.admit(&review("v1", "Pod", "shop", pod(None))).await["response"]["allowed"], true);
}

/// A webhook without sockets, for a pod's worth of hostile reviews.
struct Desk {
    webhook: Webhook<FakeCluster>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (values, anchors) = (dir.path().join("values"), dir.path().join("ca-bundle.crt"));
        std::fs::write(&values, "linkerdVersion: edge-1\n").unwrap();
        std::fs::write(&anchors, Pair::root("root", DAY, SystemTime::now()).unwrap().certificate.to_pem()).unwrap();
        let recorder = Recorder::channel().0;
        let webhook = Webhook::new("linkerd".into(), Config::new(&values, &anchors), FakeCluster, recorder, &Metrics::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { webhook, runtime, _dir: dir }
    }

    /// What the API server would make of the answer: the reason of a refusal, or whether the object may come in.
    fn allows(&self, body: &[u8]) -> Result<bool, String> {
        let answer = self.runtime.block_on(self.webhook.answer(body)).map_err(|error| error.to_string())?;
        assert_eq!(answer["response"]["uid"].as_str().map(str::is_empty), Some(false), "{answer}");
        Ok(answer["response"]["allowed"].as_bool().unwrap())
    }
}

/// Anything that JSON can say.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}|(enabled|disabled|shop|Pod)".prop_map(Value::from),
        (1..3_000usize).prop_map(|length| "a".repeat(length).into()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Garbage, missing fields and fields of the wrong kind: always an answer that says why, never a panic.
    #[test]
    fn hostile_reviews_are_answered(
        garbage in proptest::collection::vec(any::<u8>(), 0..64),
        changes in proptest::collection::vec((0..PLACES.len(), proptest::option::of(anything())), 1..3),
    ) {
        thread_local!(static DESK: Desk = Desk::new());
        let mut review = review("v1", "Pod", "shop", pod(Some(("ReplicaSet", "web-1"))));
        for (place, by) in changes {
            let (parent, field) = PLACES[place].rsplit_once('/').unwrap();
            match (review.pointer_mut(parent).and_then(Value::as_object_mut), by) {
                (Some(fields), Some(by)) => drop(fields.insert(field.into(), by)),
                (Some(fields), None) => drop(fields.remove(field)),
                (None, _) => {}
            }
        }
        DESK.with(|desk| {
            prop_assert!(desk.allows(&garbage).is_err_and(|why| why.contains("AdmissionReview")));
            let whole = review.to_string();
            if let Err(why) = desk.allows(whole.as_bytes()) {
                prop_assert!(why.contains("AdmissionReview"), "{}", why);
            }
            prop_assert!(desk.allows(&whole.as_bytes()[..whole.len() - 1]).is_err());
            Ok(())
        })?;
    }
}

/// Where a review is changed.
const PLACES: &[&str] = &[
    "/request",
    "/apiVersion",
    "/request/uid",
    "/request/kind",
    "/request/kind/kind",
    "/request/namespace",
    "/request/object",
    "/request/object/metadata",
    "/request/object/metadata/annotations",
    "/request/object/metadata/labels",
    "/request/object/metadata/ownerReferences",
    "/request/object/spec",
    "/request/object/spec/containers",
    "/request/object/spec/initContainers",
    "/request/object/spec/volumes",
];
