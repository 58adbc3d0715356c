//! One call, from its request to its trailers.

use super::{Code, Reply, Service, Status, unframe};
use crate::serve::metrics::{Call, Calls};
use bytes::{Bytes, BytesMut};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{task::coop, time::timeout};

/// A request names a target and says who asks: a few hundred bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// How long a request's message may take to come in.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is said of why a request is refused. What it says itself may be in there, and every byte may be sent as three:
/// a client whose limit of headers is exceeded gives up streams, and at last the connection that others share.
const MAX_REASON_BYTES: usize = 512;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A call under way, which ends when all is said or the client gives it up.
///
/// Out of its task's budget it does nothing, and says so at once: a set of futures then stops asking the rest of them,
/// where tokio's own would have it ask all of them each turn.
pub(super) struct Exchange(BoxFuture<'static, ()>);

impl Future for Exchange {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.poll_unpin(cx)
    }
}

/// Answers a request.
pub(super) fn exchange(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: &Arc<dyn Service>,
    calls: &Arc<Calls>,
) -> Exchange {
    // A subscriber stays for days: what only its beginning needs is in a box that goes.
    let beginning = begin(request, respond, service.clone(), calls.clone()).boxed();
    let exchange = async move {
        if let Some(mut answer) = beginning.await {
            answer.tell().await;
        }
    };
    Exchange(exchange.boxed())
}

/// Reads the request and answers it. None: there is nothing more to say.
async fn begin(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: Arc<dyn Service>,
    calls: Arc<Calls>,
) -> Option<Answer> {
    let Some(method) = service.method(request.uri().path()) else {
        refuse(&mut respond, &Status::unimplemented("no such method"));
        return None;
    };
    let mut call = calls.begin(method);
    let answered = match timeout(REQUEST_TIMEOUT, message(request.into_body())).await {
        Ok(Ok(message)) => {
            call.received();
            service.call(method, message)
        }
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no request came")),
    };
    let messages = match answered {
        Ok(Reply::One(message)) => stream::iter([message]).boxed(),
        Ok(Reply::Stream(messages)) => messages,
        Err(status) => {
            call.end(status.code());
            refuse(&mut respond, &status);
            return None;
        }
    };
    let send = respond.send_response(response(), false).ok()?;
    Some(Answer { send, messages, call })
}

/// The one message of a request.
async fn message(mut body: RecvStream) -> Result<Bytes, Status> {
    let mut request = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|_| Status::internal("the request broke off"))?;
        if request.len() + part.len() > MAX_REQUEST_BYTES {
            return Err(Status::resource_exhausted(format!("a request may have {MAX_REQUEST_BYTES} bytes")));
        }
        request.extend_from_slice(&part);
        let _ = body.flow_control().release_capacity(part.len());
    }
    unframe(request.freeze())
}

fn response() -> Response<()> {
    let mut grpc = HeaderValue::from_static("application/grpc");
    // Not for secrecy: a table that remembers this one field takes a kilobyte of every connection.
    grpc.set_sensitive(true);
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// Answers with nothing but a status. A client that is gone by now doesn't need it.
fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = response();
    let status = Status::new(status.code(), brief(status.message()));
    if status.add_header(response.headers_mut()).is_err() {
        response.headers_mut().insert(GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    }
    let _ = respond.send_response(response, true);
}

/// As much of a reason as is sent.
pub(super) fn brief(reason: &str) -> String {
    if reason.len() <= MAX_REASON_BYTES {
        return reason.to_owned();
    }
    format!("{}…", &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)])
}

/// An answer under way: messages, then the trailers that say that all is well. One that is dropped was cancelled.
struct Answer {
    send: SendStream<Bytes>,
    messages: BoxStream<'static, Bytes>,
    call: Call,
}

impl Answer {
    async fn tell(&mut self) {
        while self.has_room().await {
            match self.next().await {
                Next::Message(message) => {
                    self.call.sent();
                    self.hush();
                    if self.send.send_data(message, false).is_err() {
                        return;
                    }
                }
                Next::End => {
                    self.call.end(Code::Ok);
                    let _ = self.send.send_trailers(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]));
                    return;
                }
                Next::Cancelled => return,
            }
        }
    }

    /// Waits until the client takes more. Only then a message is made, which says the latest. False: the client is gone.
    async fn has_room(&mut self) -> bool {
        self.send.reserve_capacity(1);
        while self.send.capacity() == 0 {
            match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
        true
    }

    /// Has nobody woken for the room that a message takes and the next one asks for: whoever waits for the stream is here,
    /// and looks for himself. Else each message would cost its connection's task another turn.
    fn hush(&mut self) {
        let _ = self.send.poll_reset(&mut Context::from_waker(Waker::noop()));
    }

    async fn next(&mut self) -> Next {
        poll_fn(|cx| {
            if self.send.poll_reset(cx).is_ready() {
                return Poll::Ready(Next::Cancelled);
            }
            self.messages.poll_next_unpin(cx).map(|message| message.map_or(Next::End, Next::Message))
        })
        .await
    }
}

enum Next {
    Message(Bytes),
    End,
    Cancelled,
}
