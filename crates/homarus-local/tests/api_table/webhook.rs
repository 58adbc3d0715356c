//! An admission webhook over TLS that both clusters can reach: it labels what it may change and refuses what asks for it.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

/// Where it is and how to trust it.
pub struct Webhook {
    pub url: String,
    pub bundle: String,
}

impl Webhook {
    /// Listens on the address from which `server` is reached.
    pub async fn start(server: &str) -> Webhook {
        let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        probe.connect((server, 1)).unwrap();
        let address = probe.local_addr().unwrap().ip();
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let key = rcgen::generate_simple_self_signed(vec![address.to_string()]).unwrap();
        let chain = vec![CertificateDer::from(key.cert.der().to_vec())];
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(answer);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Webhook { url, bundle: BASE64.encode(key.cert.pem()) }
    }
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let asked = &review["request"];
    let mut response = json!({"uid": asked["uid"], "allowed": true});
    match path.as_str() {
        "/mutate" => {
            let patch = json!([{"op": "add", "path": "/data/seen", "value": asked["operation"]}]);
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(BASE64.encode(patch.to_string()));
            response["warnings"] = json!(["mutated"]);
        }
        "/validate" if asked["object"]["data"]["bad"] == "yes" => {
            response["allowed"] = json!(false);
            response["status"] = json!({"code": 403, "message": "bad is not allowed"});
        }
        _ => {}
    }
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(http::Response::new(Full::new(Bytes::from(answer.to_string()))))
}
