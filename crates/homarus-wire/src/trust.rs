//! `io.homarus.identity.Trust/Watch`: the trust bundle as it changes, served beside `Certify`.
//!
//! Asking is also reporting: a stream's request says what the proxy stands on, and when that changes the proxy opens another.
//! So the issuer counts who believes what, and drops a root only when nobody needs it any more. A server that doesn't know the
//! service answers `UNIMPLEMENTED`, and the proxy stays with its environment.
//!
//! | message | field | |
//! |---|---|---|
//! | `WatchRequest` | 1 `workload` | who asks, as in policy requests: `{"ns":…,"pod":…}` |
//! | | 2 `instance` | the pod's uid, empty if it isn't known |
//! | | 3 `bundle` | SHA-256 of the bundle in use, hexadecimal |
//! | | 4 `issuer` | SHA-256 of the certificate that signed the leaf in use; empty without a leaf |
//! | | 5 `refused` | why the bundle that was told last isn't in use, for people; empty: it is, or none was told |
//! | `TrustUpdate` | 1 `bundle` | PEM of the roots to believe |
//! | | 2 `issuer` | the renew-before mark: a leaf that another certificate than this signed is renewed now. Empty: none |
//!
//! The mark names a signer and not a time, because clocks differ between replicas of the issuer, and leaves are backdated.
//! The last answer comes again every [`HEARTBEAT`], so that a connection that died in silence is noticed.
//!
//! The two halves below are what `tonic-build` would generate, less what nobody uses.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::{BoxFuture, Context, Poll, Service, StdError, http, tokio_stream::Stream},
    server::{NamedService, ServerStreamingService},
};
use tonic_prost::ProstCodec;

/// How often the last answer comes again.
pub const HEARTBEAT: Duration = Duration::from_secs(60);

/// The largest message: a bundle is at most a megabyte of PEM.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024 + 1024;

const NAME: &str = "io.homarus.identity.Trust";
const WATCH: &str = "/io.homarus.identity.Trust/Watch";

/// How long the reason of a refusal may be, in bytes.
pub const MAX_REASON: usize = 256;

/// Who asks, and what they stand on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchRequest {
    /// The workload, as in policy requests.
    #[prost(string, tag = "1")]
    pub workload: String,
    /// The pod's uid.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// SHA-256 of the bundle in use.
    #[prost(string, tag = "3")]
    pub bundle: String,
    /// SHA-256 of the certificate that signed the leaf in use.
    #[prost(string, tag = "4")]
    pub issuer: String,
    /// Why the bundle that was told last is refused.
    #[prost(string, tag = "5")]
    pub refused: String,
}

/// What to believe, and by whom to be certified.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TrustUpdate {
    /// PEM of the roots.
    #[prost(string, tag = "1")]
    pub bundle: String,
    /// SHA-256 of the certificate that signs leaves now.
    #[prost(string, tag = "2")]
    pub issuer: String,
}

/// Asks.
#[derive(Clone, Debug)]
pub struct TrustClient<T>(Grpc<T>);

impl<T> TrustClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<StdError> + Send,
{
    /// On a connection to the issuer.
    pub fn new(inner: T) -> Self {
        Self(Grpc::new(inner).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Opens a stream.
    pub async fn watch(&mut self, request: WatchRequest) -> Result<Response<Streaming<TrustUpdate>>, Status> {
        self.0.ready().await.map_err(|error| Status::unknown(format!("service was not ready: {}", error.into())))?;
        let codec = ProstCodec::<WatchRequest, TrustUpdate>::default();
        self.0.server_streaming(Request::new(request), http::uri::PathAndQuery::from_static(WATCH), codec).await
    }
}

/// What a stream of answers is.
pub type Updates = Pin<Box<dyn Stream<Item = Result<TrustUpdate, Status>> + Send>>;

/// Answers.
pub trait Trust: Send + Sync + 'static {
    /// What the stream of one subscriber says.
    fn watch(&self, request: Request<WatchRequest>) -> Result<Updates, Status>;
}

/// Serves.
#[derive(Debug)]
pub struct TrustServer<T>(Arc<T>);

impl<T> Clone for TrustServer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Trust> TrustServer<T> {
    /// Serves what `inner` answers.
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

/// The largest request: a handful of short strings.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

impl<T: Trust> ServerStreamingService<WatchRequest> for TrustServer<T> {
    type Response = TrustUpdate;
    type ResponseStream = Updates;
    type Future = std::future::Ready<Result<Response<Updates>, Status>>;

    fn call(&mut self, request: Request<WatchRequest>) -> Self::Future {
        std::future::ready(self.0.watch(request).map(Response::new))
    }
}

impl<T, B> Service<http::Request<B>> for TrustServer<T>
where
    T: Trust,
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if request.uri().path() != WATCH {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let codec = ProstCodec::<TrustUpdate, WatchRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_BYTES);
            Ok(grpc.server_streaming(this, request).await)
        })
    }
}

impl<T> NamedService for TrustServer<T> {
    const NAME: &'static str = NAME;
}
