//! Admission webhooks: which ones a request concerns, and how they are asked (`admission.k8s.io/v1` over TLS).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Request, dial};
use crate::api::Core;
use crate::api::defaults::metadata::uid;
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::join_version;
use crate::api::store::Name;
use crate::api::store::selector::Labels;

const GROUP: &str = "admissionregistration.k8s.io";
/// Bigger answers are refused.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// A webhook that a request concerns.
#[derive(Debug, Clone)]
pub struct Hook {
    webhook: Value,
    mutating: bool,
    /// Which configuration it is of, and where in it.
    round: String,
}

/// The webhooks of all configurations that a request concerns, in order of name.
pub fn registered(core: &Core, plural: &str, request: &Request, object: &Value) -> Vec<Hook> {
    // Webhooks must not lock themselves out of their own configuration.
    if request.kind.group == GROUP {
        return Vec::new();
    }
    let mut hooks = Vec::new();
    for configuration in core.store.list(&format!("{GROUP}/{plural}"), "") {
        let webhooks = configuration.value["webhooks"].as_array().into_iter().flatten().enumerate();
        for (i, webhook) in webhooks.filter(|(_, w)| concerns(core, w, request, object)) {
            let name = configuration.value["metadata"]["name"].as_str().unwrap_or_default();
            let mutating = plural.starts_with("mutating");
            hooks.push(Hook { webhook: webhook.clone(), mutating, round: format!("{name}/{i}") });
        }
    }
    hooks
}

fn concerns(core: &Core, webhook: &Value, request: &Request, object: &Value) -> bool {
    let rules = webhook["rules"].as_array().into_iter().flatten();
    if !rules.into_iter().any(|rule| rule_covers(core, rule, &webhook["matchPolicy"], request)) {
        return false;
    }
    let object_selector = Labels::from_object(&webhook["objectSelector"]).unwrap_or_default();
    let fits = |object: &Value| !object.is_null() && object_selector.matches(object);
    if !fits(object) && !request.old.as_ref().is_some_and(fits) {
        return false;
    }
    let selector = Labels::from_object(&webhook["namespaceSelector"]).unwrap_or_default();
    if selector.is_empty() {
        return true;
    }
    if &*request.kind.bucket == "/namespaces" {
        return selector.matches(if object.is_null() { request.old.as_ref().unwrap_or(object) } else { object });
    }
    if !request.kind.namespaced {
        return true;
    }
    let namespace = core.store.find("/namespaces", &Name::new("", &request.namespace));
    namespace.is_some_and(|n| selector.matches(&n.value))
}

fn rule_covers(core: &Core, rule: &Value, policy: &Value, request: &Request) -> bool {
    let has = |key: &str, wanted: &str| {
        rule[key].as_array().is_some_and(|all| all.iter().any(|v| v == "*" || v.as_str() == Some(wanted)))
    };
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => request.kind.namespaced,
        Some("Cluster") => !request.kind.namespaced,
        _ => true,
    };
    if !scope || !has("operations", request.operation.name()) {
        return false;
    }
    let covers = |group: &str, version: &str, plural: &str| {
        let whole = match request.subresource.as_str() {
            "" => plural.to_owned(),
            sub => format!("{plural}/{sub}"),
        };
        let listed = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|r| {
            r == whole
                || r == "*/*"
                || r == "*" && request.subresource.is_empty()
                || r.strip_suffix("/*").is_some_and(|p| p == plural)
                || r.strip_prefix("*/").is_some_and(|s| s == request.subresource)
        });
        listed && has("apiGroups", group) && has("apiVersions", version)
    };
    let kind = &request.kind;
    if covers(&kind.group, &kind.version, &kind.plural) {
        return true;
    }
    // `Equivalent`: a rule for another version of the kind counts too.
    let kinds = core.store.kinds();
    policy != "Exact" && kinds.all().any(|k| k.bucket == kind.bucket && covers(&k.group, &k.version, &k.plural))
}

/// Asks a webhook; the object as it changed it.
pub async fn call(core: &Arc<Core>, hook: &Hook, request: &Request, object: Value, warnings: &mut Vec<String>) -> Answer<Value> {
    let name = hook.webhook["name"].as_str().unwrap_or_default();
    let seconds = hook.webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let review = review(hook, request, &object);
    let asked = tokio::time::timeout(Duration::from_secs(seconds), ask(core, &hook.webhook["clientConfig"], &review, seconds));
    let answer = match asked.await {
        Ok(Ok(answer)) => answer,
        failed => {
            let why = match failed {
                Ok(Err(why)) => why,
                _ => format!("context deadline exceeded ({seconds}s)"),
            };
            if hook.webhook["failurePolicy"] == "Ignore" {
                tracing::warn!(webhook = name, why, "webhook failed and is ignored");
                return Ok(object);
            }
            return Err(Refusal::internal(format!("failed calling webhook \"{name}\": {why}")));
        }
    };
    judge(hook, name, &review, answer, object, warnings)
}

/// Reads a review's response.
fn judge(hook: &Hook, name: &str, review: &Value, answer: Value, object: Value, warnings: &mut Vec<String>) -> Answer<Value> {
    let response = &answer["response"];
    let broken = |why: String| Refusal::internal(format!("failed calling webhook \"{name}\": {why}"));
    if response["uid"] != review["request"]["uid"] {
        return Err(broken("expected response.uid to be the request's".into()));
    }
    for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        warnings.push(warning.to_owned());
    }
    if response["allowed"] != true {
        return Err(denied(name, &response["status"]));
    }
    let (true, Some(patch)) = (hook.mutating, response["patch"].as_str()) else { return Ok(object) };
    let patch = BASE64.decode(patch).map_err(|e| broken(e.to_string()))?;
    let patch: json_patch::Patch = serde_json::from_slice(&patch).map_err(|e| broken(e.to_string()))?;
    let mut patched = object;
    json_patch::patch(&mut patched, &patch).map_err(|e| Refusal::internal(e.to_string()))?;
    Ok(patched)
}

fn denied(name: &str, status: &Value) -> Refusal {
    let said = status["message"].as_str().filter(|m| !m.is_empty());
    let reason = status["reason"].as_str().filter(|m| !m.is_empty());
    let message = match (said, reason) {
        (Some(said), _) => format!("admission webhook \"{name}\" denied the request: {said}"),
        (None, Some(reason)) => format!("admission webhook \"{name}\" denied the request: {reason}"),
        (None, None) => format!("admission webhook \"{name}\" denied the request without explanation"),
    };
    let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c));
    let mut refusal = Refusal::new(code.unwrap_or(400), "", message);
    refusal.details = status["details"].clone();
    refusal
}

fn review(hook: &Hook, request: &Request, object: &Value) -> Value {
    let kind = &request.kind;
    let name = object["metadata"]["name"].as_str().unwrap_or(&request.name);
    let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let gvr = json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut asked = json!({
        "uid": uid(), "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr, "name": name,
        "operation": request.operation.name(), "userInfo": request.user.info(), "object": object,
        "oldObject": request.old, "dryRun": request.dry_run,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": format!("{}Options", capital(request.operation.name()))},
    });
    if kind.namespaced {
        asked["namespace"] = request.namespace.clone().into();
    } else if &*kind.bucket == "/namespaces" {
        asked["namespace"] = name.into();
    }
    if !request.subresource.is_empty() {
        asked["subResource"] = request.subresource.clone().into();
        asked["requestSubResource"] = request.subresource.clone().into();
    }
    tracing::trace!(hook = hook.round, "asking a webhook");
    json!({"kind": "AdmissionReview", "apiVersion": join_version("admission.k8s.io", "v1"), "request": asked})
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| format!("{first}{}", letters.as_str().to_lowercase())).unwrap_or_default()
}

/// Where a webhook is: a URL, or a Service.
struct Place {
    server: String,
    host: String,
    path: String,
    stream: TcpStream,
}

async fn ask(core: &Arc<Core>, client: &Value, review: &Value, seconds: u64) -> Result<Value, String> {
    let place = connect(core, client).await?;
    let roots = roots(client)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from(place.server.clone()).map_err(|e| e.to_string())?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server, place.stream).await;
    let tls = tls.map_err(|e| format!("Post \"https://{}{}\": {e}", place.host, place.path))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let separator = if place.path.contains('?') { '&' } else { '?' };
    let request = http::Request::post(format!("{}{separator}timeout={seconds}s", place.path))
        .header(http::header::HOST, place.host)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("the server answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])));
    }
    serde_json::from_slice(&body).map_err(|e| format!("unreadable AdmissionReview: {e}"))
}

async fn connect(core: &Arc<Core>, client: &Value) -> Result<Place, String> {
    if let Some(url) = client["url"].as_str() {
        let url: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("Post \"{url}\": {e}"))?;
        let path = url.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        return Ok(Place { server: host.clone(), host: format!("{host}:{port}"), path, stream });
    }
    let service = &client["service"];
    let text = |key: &str| service[key].as_str().unwrap_or_default();
    let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
    let (namespace, name) = (text("namespace"), text("name"));
    let found = core.store.read(|store| dial::resolve(store, namespace, name, port));
    let server = format!("{name}.{namespace}.svc");
    let path = if text("path").is_empty() { "/" } else { text("path") }.to_owned();
    let host = format!("{server}:{port}");
    let found = found.ok_or_else(|| format!("Post \"https://{host}{path}\": service \"{name}\" not found"))?;
    let dialed = core.dialer().dial(found).await;
    let stream = dialed.map_err(|e| format!("Post \"https://{host}{path}\": {e}"))?;
    Ok(Place { server, host, path, stream })
}

fn roots(client: &Value) -> Result<rustls::RootCertStore, String> {
    let bundle = client["caBundle"].as_str().unwrap_or_default();
    let pem = BASE64.decode(bundle).map_err(|e| format!("caBundle: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| format!("caBundle: {e}"))?).map_err(|e| format!("caBundle: {e}"))?;
    }
    if roots.is_empty() { Err("tls: failed to verify certificate: caBundle is empty".into()) } else { Ok(roots) }
}
