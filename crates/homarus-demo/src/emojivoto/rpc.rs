//! gRPC without generated code: one unary call, from either end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// What a tonic service is asked with.
pub(super) type HttpRequest = http::Request<tonic::body::Body>;
/// What a tonic service answers with.
pub(super) type HttpResponse = http::Response<tonic::body::Body>;
/// The future of a gRPC service.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, Infallible>> + Send + 'static>>;

/// How long a call between the sample services may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection between them may take to come up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Decodes one request, asks `answer`, encodes its response or status.
pub(super) async fn unary<Q, A, F>(request: HttpRequest, answer: impl Fn(Q) -> F + Send + Sync + 'static) -> HttpResponse
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = answer(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

/// The answer to a method that the service doesn't have.
pub(super) fn unimplemented(path: &str) -> HttpResponse {
    Status::unimplemented(format!("no method {path}")).into_http()
}

/// The code that a response carries, as far as it is known before its body ends.
///
/// An error of a unary call has no body, so its code is among the headers; without one the call succeeded.
pub(super) fn code(response: &HttpResponse) -> Code {
    match response.headers().get("grpc-status") {
        Some(value) => Code::from_bytes(value.as_bytes()),
        None => Code::Ok,
    }
}

/// One of the services, called by its address. Connects when first asked, and again whenever it has to.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
    service: &'static str,
}

impl Client {
    /// A client of `service` at `host`, a `name:port`.
    pub(super) fn lazy(host: &str, service: &'static str) -> Result<Client, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("http://{host}"))?
            .timeout(CALL_LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Client { channel, service })
    }

    /// Calls `method`.
    pub(super) async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/{}/{method}", self.service))
            .map_err(|error| Status::internal(format!("the method {method:?}: {error}")))?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        grpc.unary(Request::new(request), path, codec).await.map(Response::into_inner)
    }
}
