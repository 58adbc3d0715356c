//! `io.linkerd.proxy.identity.Identity/Certify`.
//!
//! Checked in this order; each failure has the status that proxies know:
//!
//! | Check | Status |
//! |---|---|
//! | identity, token and request are there, the request can be read | `InvalidArgument` |
//! | the issuer is valid now | `Unknown`, and an Event |
//! | the request names exactly the identity | `FailedPrecondition` |
//! | the API server can be asked about the token | `Internal` |
//! | it could review the token | `InvalidArgument` |
//! | the token is good, for our audience | `FailedPrecondition` |
//! | its user is a service account whose names fit into an identity | `InvalidArgument` |
//! | that service account is the identity | `FailedPrecondition` |
//! | the key is ECDSA | `Internal` |

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use homarus_daemon::metrics::Metrics;
use homarus_identity::csr::{CsrError, Request as SigningRequest};
use homarus_identity::issuer::IssueError;
use homarus_identity::{Certificate, Issuer};
use homarus_model::identity::Naming;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse, identity_server::Identity};
use tonic::{Request, Response, Status};
use tracing::{debug, error, info, warn};

use super::material::Current;
use super::metrics::Outcomes;
use super::tokens::{AUDIENCE, ReviewTokens};
use crate::events::{Happening, Recorder, Severity, Subject};

/// What became of issuer and leaves, told to operators.
#[derive(Clone, Debug)]
pub(super) struct Log {
    recorder: Recorder,
    controller: Subject,
}

impl Log {
    pub(super) fn new(recorder: Recorder, namespace: &str) -> Self {
        let controller = Subject {
            api_version: "apps/v1",
            kind: "Deployment",
            namespace: namespace.to_owned(),
            name: "linkerd-identity".to_owned(),
            uid: None,
        };
        Self { recorder, controller }
    }

    fn about_controller(&self, severity: Severity, reason: &'static str, message: String) {
        self.recorder.record(Happening { subject: self.controller.clone(), severity, reason, message });
    }

    pub(super) fn issuer_updated(&self) {
        self.about_controller(Severity::Normal, "IssuerUpdated", "Updated identity issuer".into());
    }

    pub(super) fn update_skipped(&self, error: &dyn std::error::Error) {
        warn!(%error, "skipping issuer update: the old issuer stays");
        let message = format!("Skipping issuer update as certs could not be read from disk: {error}");
        self.about_controller(Severity::Warning, "IssuerUpdateSkipped", message);
    }

    pub(super) fn issuer_failed(&self, error: &dyn std::error::Error) {
        self.about_controller(Severity::Warning, "IssuerValidationFailed", error.to_string());
    }

    pub(super) fn normal(&self, reason: &'static str, message: String) {
        self.about_controller(Severity::Normal, reason, message);
    }

    pub(super) fn warning(&self, reason: &'static str, message: String) {
        warn!(reason, "{message}");
        self.about_controller(Severity::Warning, reason, message);
    }

    fn issued(&self, account: &ServiceAccount, identity: &str, leaf: &Certificate) {
        let expiry = k8s_openapi::jiff::Timestamp::try_from(leaf.not_after).map(|at| at.to_string()).unwrap_or_default();
        let hash = leaf.fingerprint();
        info!(identity, %expiry, hash, "issued certificate");
        let subject = Subject {
            api_version: "v1",
            kind: "ServiceAccount",
            namespace: account.namespace.clone(),
            name: account.name.clone(),
            uid: None,
        };
        let message = format!("issued certificate for {identity} until {expiry}: {hash}");
        self.recorder.record(Happening { subject, severity: Severity::Normal, reason: "IssuedLeafCertificate", message });
    }
}

/// Certifies proxies.
pub(super) struct Certifier<T> {
    naming: Naming,
    current: Current,
    tokens: Arc<T>,
    log: Log,
    outcomes: Outcomes,
}

impl<T: ReviewTokens> Certifier<T> {
    pub(super) fn new(naming: Naming, current: Current, tokens: Arc<T>, log: Log, metrics: &Metrics) -> Self {
        Self { naming, current, tokens, log, outcomes: Outcomes::new(metrics) }
    }

    async fn answer(&self, request: &CertifyRequest) -> Result<CertifyResponse, Status> {
        let CertifyRequest { identity, token, certificate_signing_request } = request;
        let token = non_empty(token, identity, certificate_signing_request)?;
        let signing_request = SigningRequest::parse(certificate_signing_request).map_err(csr_status)?;
        let issuer = Arc::clone(&self.current.borrow().issuer);
        issuer.verify_current(SystemTime::now()).map_err(|error| self.issuer_status(&error))?;
        signing_request.check_names(identity).map_err(csr_status)?;
        let account = self.review(token).await?;
        let proven = account.identity(&self.naming);
        if proven != *identity {
            return Err(Status::failed_precondition(format!(
                "requested identity did not match provided token: requested={identity}; found={proven}"
            )));
        }
        let leaf = issuer.issue(&signing_request, identity, SystemTime::now()).map_err(|error| match error {
            IssueError::Csr(error) => csr_status(error),
            IssueError::Issuer(error) => self.issuer_status(&error),
        })?;
        self.log.issued(&account, identity, &leaf);
        Ok(response(&leaf, &issuer))
    }

    /// The service account whose token this is.
    async fn review(&self, token: &str) -> Result<ServiceAccount, Status> {
        let review = self.tokens.review(token, AUDIENCE).await.map_err(|error| {
            error!(%error, "failed to review a token");
            Status::internal(error.to_string())
        })?;
        if let Some(error) = review.error {
            return Err(Status::invalid_argument(format!("failed to validate token: {error}")));
        }
        if !review.authenticated {
            return Err(Status::failed_precondition("token could not be authenticated"));
        }
        // An API server that doesn't know about audiences would answer for any token.
        if !review.audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(Status::failed_precondition(format!("token is not meant for the audience {AUDIENCE}")));
        }
        ServiceAccount::parse(&review.username)
    }

    fn issuer_status(&self, error: &dyn std::error::Error) -> Status {
        error!(%error, "the issuer can't issue");
        self.log.issuer_failed(error);
        Status::unknown(error.to_string())
    }
}

#[tonic::async_trait]
impl<T: ReviewTokens> Identity for Certifier<T> {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let answer = self.answer(&request).await;
        match &answer {
            Ok(_) => self.outcomes.count(tonic::Code::Ok),
            Err(status) => {
                debug!(identity = request.identity, code = ?status.code(), reason = status.message(), "refused to certify");
                self.outcomes.count(status.code());
            }
        }
        answer.map(Response::new)
    }
}

fn non_empty<'a>(token: &'a [u8], identity: &str, csr: &[u8]) -> Result<&'a str, Status> {
    for (missing, what) in
        [(identity.is_empty(), "identity"), (token.is_empty(), "token"), (csr.is_empty(), "certificate_signing_request")]
    {
        if missing {
            return Err(Status::invalid_argument(format!("missing {what}")));
        }
    }
    let token = std::str::from_utf8(token).map_err(|_| Status::invalid_argument("token is not text"))?;
    Ok(token.trim())
}

fn csr_status(error: CsrError) -> Status {
    match error {
        CsrError::Unreadable(_) | CsrError::Signature => Status::invalid_argument(error.to_string()),
        CsrError::Names { .. } => Status::failed_precondition(error.to_string()),
        CsrError::NotEcdsa => Status::internal(error.to_string()),
    }
}

fn response(leaf: &Certificate, issuer: &Issuer) -> CertifyResponse {
    let since = leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
    CertifyResponse {
        leaf_certificate: leaf.der().to_vec(),
        intermediate_certificates: issuer.intermediates().map(|der| der.to_vec()).collect(),
        valid_until: Some(prost_types::Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: 0 }),
    }
}

/// A user `system:<kind>:<namespace>:<name>`.
#[derive(Debug, PartialEq, Eq)]
struct ServiceAccount {
    kind: String,
    namespace: String,
    name: String,
}

impl ServiceAccount {
    fn parse(username: &str) -> Result<Self, Status> {
        let invalid = |why: &str| Status::invalid_argument(format!("username {username:?} of the token {why}"));
        let parts: Vec<&str> = username.split(':').collect();
        let ["system", kind, namespace, name] = parts[..] else {
            return Err(invalid("is not that of a service account"));
        };
        if ![kind, namespace, name].into_iter().all(homarus_kube::names::is_label) {
            return Err(invalid("must be made of DNS labels (a service account whose name has dots can't have an identity)"));
        }
        Ok(Self { kind: kind.into(), namespace: namespace.into(), name: name.into() })
    }

    fn identity(&self, naming: &Naming) -> String {
        let Self { kind, namespace, name } = self;
        format!("{name}.{namespace}.{kind}.identity.{}.{}", naming.control_plane_ns, naming.trust_domain)
    }
}
