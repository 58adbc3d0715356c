//! Sends the requests of a table to a cluster, one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::normal::normal;
use crate::requests::{NAMESPACE, Read, Request, Who};
use crate::webhook::Webhook;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// A cluster to ask.
pub struct Player {
    config: kube::Config,
    admin: kube::Client,
    webhook: Webhook,
    /// Answers as they came, for later requests to refer to.
    raw: BTreeMap<&'static str, Value>,
}

impl Player {
    /// Asks with an administrator's config.
    pub async fn new(mut config: kube::Config) -> Player {
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("table/1")));
        let host = config.cluster_url.host().unwrap().to_owned();
        let webhook = Webhook::start(&host).await;
        let admin = kube::Client::try_from(config.clone()).unwrap();
        Player { config, admin, webhook, raw: BTreeMap::new() }
    }

    /// All answers by request.
    pub async fn play(mut self, table: &[Request]) -> BTreeMap<String, Value> {
        self.clear().await;
        let mut answers = BTreeMap::new();
        for request in table {
            let answer = tokio::time::timeout(PATIENCE, self.ask(request)).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer in {PATIENCE:?}: {}", request.name));
            assert!(answers.insert(request.name.to_owned(), normal(answer)).is_none(), "two requests are {}", request.name);
        }
        self.clear().await;
        answers
    }

    /// Nothing of an earlier run is in the way.
    async fn clear(&self) {
        let paths = [
            format!("/api/v1/namespaces/{NAMESPACE}"),
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/table".into(),
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/table".into(),
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.table.homarus.io".into(),
        ];
        for path in paths {
            for _ in 0..600 {
                let delete = self.send(&self.admin, "DELETE", &path, "application/json", "", None).await;
                if delete.0 == 404 {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn ask(&mut self, request: &Request) -> Value {
        let client = self.client(&request.who);
        let path = self.filled(&request.path);
        let body = request.body.as_ref().map(|b| self.filled(&b.to_string()));
        loop {
            let (code, answer) = match request.read {
                Read::Events(count) => self.events(&client, &path, request.accept, count).await,
                _ => self.send(&client, request.method, &path, request.media, request.accept, body.clone()).await,
            };
            if let Read::Until(until) = request.read
                && !until(code, &answer)
            {
                tokio::time::sleep(POLL).await;
                continue;
            }
            self.raw.insert(request.name, answer.clone());
            return match request.pick {
                Some(pointer) => json!({"code": code, "answer": answer.pointer(pointer)}),
                None => json!({"code": code, "answer": answer}),
            };
        }
    }

    fn client(&self, who: &Who) -> kube::Client {
        let token = match who {
            Who::Admin => return self.admin.clone(),
            Who::Nobody => None,
            Who::Token(text) => Some(self.filled(text)),
        };
        let mut config = self.config.clone();
        config.auth_info = kube::config::AuthInfo::default();
        config.auth_info.token = token.map(Into::into);
        kube::Client::try_from(config).unwrap()
    }

    /// Puts earlier answers in: `<name|/pointer>`.
    fn filled(&self, text: &str) -> String {
        let text = text.replace("<webhook>", &self.webhook.url).replace("<bundle>", &self.webhook.bundle);
        let reference = regex::Regex::new(r"<([^<>|]+)\|([^<>]+)>").unwrap();
        reference
            .replace_all(&text, |found: &regex::Captures<'_>| {
                let earlier = self.raw.get(&found[1]).unwrap_or_else(|| panic!("no earlier request {}", &found[1]));
                let value = earlier.pointer(&found[2]).unwrap_or_else(|| panic!("no {} in {earlier}", &found[2]));
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            })
            .into_owned()
    }

    fn request(method: &str, path: &str, media: &str, accept: &str, body: Option<String>) -> http::Request<Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        request = request.header("accept", if accept.is_empty() { "application/json" } else { accept });
        if body.is_some() {
            request = request.header("content-type", media);
        }
        request.body(body.map_or_else(Body::empty, |b| Body::from(b.into_bytes()))).unwrap()
    }

    async fn send(
        &self,
        client: &kube::Client,
        method: &str,
        path: &str,
        media: &str,
        accept: &str,
        body: Option<String>,
    ) -> (u16, Value) {
        let response = client.send(Self::request(method, path, media, accept, body)).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        (code, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
    }

    /// The first events of a watch; a shorter one has ended.
    async fn events(&self, client: &kube::Client, path: &str, accept: &str, count: usize) -> (u16, Value) {
        let response = client.send(Self::request("GET", path, "", accept, None)).await.unwrap();
        let code = response.status().as_u16();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while text.iter().filter(|b| **b == b'\n').count() < count {
            match body.frame().await {
                Some(frame) => text.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default()),
                None => break,
            }
        }
        let events = text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).take(count);
        (code, events.map(|l| serde_json::from_slice::<Value>(l).unwrap()).collect())
    }
}
