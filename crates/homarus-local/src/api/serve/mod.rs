//! Connections and requests: TLS, HTTP/1.1 and HTTP/2, then the path of a request:
//! [`target`] → `authn` → `authz` → [`read`] or [`mod@write`] (`admission` → `patch`, `defaults`, `validate` → `store`) →
//! [`mod@respond`]. `discovery` and `openapi` answer what is served at all.

pub mod discovery;
pub mod openapi;
pub mod pods;
pub mod protobuf;
pub mod read;
pub mod respond;
pub mod review;
pub mod scale;
pub mod target;
pub mod watch;
pub mod write;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::authn::{self, User, authority};
use super::authz;
use super::refusal::{Answer, Refusal};
use super::{Core, now};
use respond::Body;
use target::{Target, Verb};

/// Bigger requests are refused, as by a real API server.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// So many connections are served at once; more wait.
const MAX_CONNECTIONS: usize = 4096;
/// A client that doesn't finish its TLS handshake in this time is dropped.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// Serves a listener until it is dropped.
pub async fn listen(core: Arc<Core>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(core.tls.clone());
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (core, acceptor) = (core.clone(), acceptor.clone());
                tokio::spawn(async move {
                    connection(core, acceptor, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(core: Arc<Core>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Small answers to interactive clients: no waiting for more.
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certified = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| authority::subject(c));
    let certified = Arc::new(certified);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (core, certified) = (core.clone(), certified.clone());
        async move { Ok::<_, Infallible>(respond(&core, certified.as_ref().as_ref(), request).await) }
    });
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(64 * 1024);
    server.http2().max_concurrent_streams(1000);
    if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(tls), service).await {
        tracing::debug!(error, "connection ended");
    }
}

/// Answers one request of whoever the certificate names.
pub async fn respond<B>(core: &Arc<Core>, certified: Option<&User>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let head = Request::from_parts(parts, ());
    let whole = async {
        // What is read is bounded before anything is known about the sender.
        let upgrade = head.headers().contains_key(http::header::UPGRADE);
        let body = match upgrade {
            true => Bytes::new(),
            false => Limited::new(body, MAX_BODY).collect().await.map_err(|_| too_large())?.to_bytes(),
        };
        answer(core, certified, head, body).await
    };
    whole.await.unwrap_or_else(|refusal| respond::refusal(&refusal))
}

fn too_large() -> Refusal {
    let message = format!("Request entity too large: limit is {MAX_BODY}");
    Refusal::new(413, "RequestEntityTooLarge", message)
}

/// One request, with who asks and what for.
#[derive(Debug)]
pub struct Call {
    /// The API behind it.
    pub core: Arc<Core>,
    /// Who asks.
    pub user: User,
    /// What is named.
    pub target: Target,
    /// Method, headers, upgrade.
    pub head: Request<()>,
    /// What was sent.
    pub body: Bytes,
}

async fn answer(core: &Arc<Core>, certified: Option<&User>, head: Request<()>, body: Bytes) -> Answer<Response<Body>> {
    let user = authn::requester(&core.store, &core.tokens, certified, head.headers(), now().as_second())?;
    let path = head.uri().path().to_owned();
    let kinds = core.store.kinds();
    let Some(target) = Target::parse(&kinds, &path, head.uri().query(), head.method())? else {
        return other(core, &user, &head).await;
    };
    let action = target.action();
    if !core.store.read(|store| authz::allowed(store, &user, &action)) {
        return Err(authz::refusal(&user, &action));
    }
    let call = Call { core: core.clone(), user, target, head, body };
    dispatch(call).await
}

/// What isn't an object: health, version, discovery, OpenAPI.
async fn other(core: &Arc<Core>, user: &User, head: &Request<()>) -> Answer<Response<Body>> {
    let verb = match *head.method() {
        Method::GET => "get",
        Method::HEAD => "head",
        _ => "post",
    };
    let action = authz::Action { verb: verb.into(), path: head.uri().path().into(), ..authz::Action::default() };
    if !core.store.read(|store| authz::allowed(store, user, &action)) {
        return Err(authz::refusal(user, &action));
    }
    discovery::answer(core, head)
}

async fn dispatch(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    match (target.verb, target.subresource.as_str()) {
        (_, "log") => pods::log(call).await,
        (_, "portforward") => pods::port_forward(call).await,
        (_, "exec" | "attach") => pods::run(call).await,
        (_, "scale") => scale::answer(call).await,
        (Verb::Create, "token") => review::token_request(call).await,
        (Verb::Create, "eviction") => pods::evict(call).await,
        (Verb::Create, "binding") => pods::bind(call).await,
        (Verb::Create, "") if target.kind.review => review::answer(call).await,
        (Verb::Create, "") => write::create(call).await,
        (Verb::Update, "" | "status" | "finalize" | "ephemeralcontainers" | "resize") => write::update(call).await,
        (Verb::Patch, "" | "status" | "ephemeralcontainers" | "resize") => write::patch(call).await,
        (Verb::Delete, "") => write::delete(call).await,
        (Verb::DeleteCollection, "") => write::delete_collection(call).await,
        (Verb::Get, "" | "status") => read::one(call),
        (Verb::List, "") => read::list(call),
        (Verb::Watch, "") => watch::answer(call),
        _ => Err(Refusal::method_not_allowed()),
    }
}
