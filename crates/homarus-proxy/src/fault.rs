//! What goes wrong, and how it is answered (proxy-wire §9).
//!
//! A fault names what failed, where, and what to try. Meshed clients and the log get the text; an unmeshed client gets the
//! status alone.

use crate::http::{Response, headers};
use http::{HeaderValue, StatusCode, header};
use std::{fmt, io, sync::Arc};

/// Why a request or connection was not carried.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happened.
    pub cause: Cause,
    /// Where: route, backend, endpoint, policy.
    pub context: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The endpoint could not be reached. Its fault, or the network's.
    Connect(Arc<io::Error>),
    /// The endpoint did not answer in time.
    ConnectTimeout(String),
    /// The endpoint broke the connection before it answered.
    Broken(String),
    /// No endpoint became ready in time.
    FailFast,
    /// Too much waits already, or no endpoint is ready and none is expected soon.
    LoadShed,
    /// The route has no backend that could be asked.
    NoBackend,
    /// The endpoint is not who the request insists on.
    WrongIdentity,
    /// No route matches.
    NoRoute,
    /// Policy refuses the client.
    Unauthorized,
    /// A route answers by itself: status and text.
    Injected(StatusCode, String),
    /// A route answers gRPC by itself: code and text.
    InjectedGrpc(u16, String),
    /// A route redirects there.
    Redirect(StatusCode, HeaderValue),
    /// Nothing is carried there: discovery refuses it, or the request names no destination.
    Refused(String),
    /// The policy is broken or asks for what this version can't do; nothing may pass unfiltered.
    InvalidPolicy(String),
    /// Something that should not happen.
    Unexpected(String),
}

impl Cause {
    /// The endpoint could not be reached.
    pub fn connect(error: io::Error) -> Self {
        Self::Connect(Arc::new(error))
    }

    /// HTTP status, gRPC code, and whether the client's connection ends.
    fn answer(&self) -> (StatusCode, u16, bool) {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, 4, true),
            Self::Connect(_) | Self::Broken(_) | Self::WrongIdentity | Self::NoBackend => (StatusCode::BAD_GATEWAY, 14, true),
            Self::ConnectTimeout(_) | Self::FailFast => (StatusCode::GATEWAY_TIMEOUT, 4, true),
            Self::LoadShed => (StatusCode::SERVICE_UNAVAILABLE, 14, true),
            Self::NoRoute => (StatusCode::NOT_FOUND, 5, false),
            Self::Unauthorized => (StatusCode::FORBIDDEN, 7, false),
            Self::Injected(status, _) => (*status, 9, false),
            Self::InjectedGrpc(code, _) => (StatusCode::OK, *code, false),
            Self::Redirect(status, _) => (*status, 5, false),
            Self::Refused(_) | Self::InvalidPolicy(_) | Self::Unexpected(_) => (StatusCode::INTERNAL_SERVER_ERROR, 13, true),
        }
    }

    /// The request has certainly not reached the application.
    fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }

    /// The value of the label `error` of `*_errors_total`; none: not counted there.
    pub fn label(&self, direction: &'static str) -> Option<&'static str> {
        Some(match self {
            Self::FailFast => "failfast",
            Self::LoadShed => "loadshed",
            Self::WrongIdentity => "identity required",
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Broken(_) => "i/o",
            Self::NoRoute | Self::Unauthorized | Self::Injected(..) | Self::InjectedGrpc(..) | Self::Redirect(..)
                if direction == "inbound" =>
            {
                return None;
            }
            Self::Injected(..) | Self::InjectedGrpc(..) | Self::Redirect(..) => return None,
            _ => "unexpected",
        })
    }

    /// The value of the label `error` of route and backend statuses.
    pub fn status_label(&self) -> &'static str {
        match self {
            Self::FailFast => "FAIL_FAST",
            Self::LoadShed => "LOAD_SHED",
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Broken(_) => "IO",
            Self::Injected(..) | Self::InjectedGrpc(..) | Self::Redirect(..) => "",
            _ => "UNKNOWN",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "Connection refused; is the application up and listening on that port?")
            }
            Self::Connect(error) => write!(f, "{error}"),
            Self::ConnectTimeout(text) | Self::Broken(text) | Self::Refused(text) | Self::Unexpected(text) => f.write_str(text),
            Self::FailFast => f.write_str("service in fail-fast; no endpoint became ready, are its pods running and ready?"),
            Self::LoadShed => f.write_str("service unavailable; no endpoint is ready, or too many requests wait"),
            Self::NoBackend => f.write_str("the control plane named no way to reach this backend"),
            Self::WrongIdentity => f.write_str("the endpoint does not have the identity that l5d-require-id asks for"),
            Self::NoRoute => f.write_str("no route; no rule of the routes attached here matches the request"),
            Self::Unauthorized => f.write_str("unauthorized request on route; an AuthorizationPolicy has to allow this client"),
            Self::Injected(_, text) | Self::InjectedGrpc(_, text) => f.write_str(text),
            Self::Redirect(..) => f.write_str("redirected"),
            Self::InvalidPolicy(text) => write!(f, "invalid policy: {text}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.context.is_empty() { self.cause.fmt(f) } else { write!(f, "{}: {}", self.context, self.cause) }
    }
}

impl Fault {
    /// A fault at a place.
    pub fn new(cause: Cause, context: impl Into<String>) -> Self {
        Self { cause, context: context.into() }
    }

    /// The same fault, seen from one step further out.
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.context = if self.context.is_empty() { place.to_string() } else { format!("{place}: {}", self.context) };
        self
    }

    /// The HTTP status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.cause.answer().0
    }

    /// The gRPC code that it is answered with.
    pub fn grpc_code(&self) -> u16 {
        self.cause.answer().1
    }

    /// The answer: how it looks depends on what the client speaks, what it says on whether the client may know.
    pub fn respond<T>(&self, grpc: bool, explain: bool, tally: T) -> Response<T> {
        let (status, code, fatal) = self.cause.answer();
        let mut response = Response::empty(if grpc { StatusCode::OK } else { status }, tally);
        let fields = &mut response.head.headers;
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if grpc {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            fields.insert("grpc-status", HeaderValue::from(code));
        }
        if let Cause::Redirect(_, location) = &self.cause {
            fields.insert(header::LOCATION, location.clone());
        }
        if explain {
            let text = headers::text(&self.to_string());
            if grpc {
                fields.insert("grpc-message", text.clone());
            }
            fields.insert(&headers::PROXY_ERROR, text);
            if fatal {
                fields.insert(&headers::PROXY_CONNECTION, HeaderValue::from_static("close"));
            }
            if self.cause.is_unprocessed() {
                fields.insert(&headers::UNPROCESSED, HeaderValue::from_static("true"));
            }
        }
        response.close = fatal;
        response
    }
}
