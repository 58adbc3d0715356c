//! What operators alert on: how long the issuer lasts, and what becomes of requests.

use std::time::{Duration, SystemTime};

use homarus_daemon::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use super::material::Current;

/// Registers the gauge of the issuer's remaining life.
pub(super) fn register(metrics: &Metrics, issuer: Current) {
    metrics.register(|registry| registry.register_collector(Box::new(IssuerTtl(issuer))));
}

#[derive(Debug)]
struct IssuerTtl(Current);

impl Collector for IssuerTtl {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let left = self.0.read().expiry().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        let gauge = ConstGauge::new(left.as_secs_f64());
        let help = "The amount of time (in seconds) before the issuer certificate expires";
        let family = encoder.encode_descriptor("issuer_cert_ttl_seconds", help, None, gauge.metric_type())?;
        gauge.encode(family)
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
