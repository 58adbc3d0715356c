//! What operators alert on: how long the issuer lasts, and what becomes of requests.

use std::time::{Duration, SystemTime};

use homarus_daemon::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use super::followers::Followers;
use super::material::{Current, InForce};

/// Registers what can be said at any time: how long issuer and roots last, and who follows.
pub(super) fn register(metrics: &Metrics, current: Current, followers: Followers) {
    metrics.register(|registry| registry.register_collector(Box::new(Facts { current, followers })));
}

#[derive(Debug)]
struct Facts {
    current: Current,
    followers: Followers,
}

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let InForce { issuer, anchors } = self.current.borrow().clone();
        let now = SystemTime::now();
        let left = |at: SystemTime| at.duration_since(now).unwrap_or(Duration::ZERO).as_secs_f64();
        let root = anchors.certificates().iter().map(|root| left(root.not_after)).fold(f64::INFINITY, f64::min);
        let (all, current) = self.followers.count(&anchors.fingerprint());
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let help = "The amount of time (in seconds) before the issuer certificate expires";
        gauge("issuer_cert_ttl_seconds", help, left(issuer.expiry()))?;
        let help = "The amount of time (in seconds) before the first of the trust anchors expires";
        gauge("homarus_identity_root_ttl_seconds", help, root)?;
        let help = "Proxies that follow the trust bundle by a stream of this replica";
        gauge("homarus_identity_followers", help, all as f64)?;
        let help = "Those of them that have taken the bundle of now";
        gauge("homarus_identity_followers_current", help, current as f64)?;
        let help = "Those of them that refuse the bundle they were told last; the log says why";
        gauge("homarus_identity_followers_refusing", help, self.followers.refusing() as f64)
    }
}

/// The labels that gRPC servers of Go have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

/// Counts requests by outcome.
#[derive(Clone, Debug)]
pub(super) struct Outcomes(Family<Handled, Counter>);

impl Outcomes {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let family = Family::<Handled, Counter>::default();
        metrics.register(|registry| {
            let help = "Total number of RPCs completed on the server, regardless of success or failure";
            registry.register("grpc_server_handled", help, family.clone());
        });
        Self(family)
    }

    pub(super) fn count(&self, code: tonic::Code) {
        let labels = Handled {
            grpc_type: "unary",
            grpc_service: "io.linkerd.proxy.identity.Identity",
            grpc_method: "Certify",
            grpc_code: name(code),
        };
        self.0.get_or_create(&labels).inc();
    }
}

fn name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::InvalidArgument => "InvalidArgument",
        tonic::Code::FailedPrecondition => "FailedPrecondition",
        tonic::Code::Internal => "Internal",
        tonic::Code::Unavailable => "Unavailable",
        _ => "Unknown",
    }
}
