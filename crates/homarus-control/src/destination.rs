//! The destination controller: where a Service's endpoints are, and what an address is.

use crate::{
    index::Settings,
    run::{self, Cluster, Compatibility, Logging, ViewFlags},
    serve::{Census, destination::Destination},
    watch::kinds,
};
use clap::Args as ClapArgs;
use homarus_daemon::args::Listen;
use homarus_model::{
    endpoint::{Http2Params, KeepAlive},
    identity::Naming,
    inbound::DefaultPolicy,
};
use serde::Deserialize;
use std::{str::FromStr, time::Duration};

/// The flags of `homarus controller destination` (control-plane §1.5). Charts pass them with one dash: see
/// [`double_dashes`](homarus_daemon::args::double_dashes).
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Address to serve proxies on.
    #[arg(long, default_value = ":8086")]
    addr: Listen,
    /// Address of the admin server.
    #[arg(long, default_value = ":9996")]
    metrics_addr: Listen,
    /// Namespace of the control plane, part of every identity.
    #[arg(long, default_value = "linkerd")]
    controller_namespace: String,
    /// `transport-header`: clients put a header before all they send to meshed endpoints. `transparent`: only where needed.
    #[arg(long, default_value = "transparent", value_parser = ["transparent", "transport-header"])]
    outbound_transport_mode: String,
    /// Let HTTP/1 requests travel as HTTP/2 between proxies.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_h2_upgrade: bool,
    /// Accepted for compatibility: EndpointSlices are always used.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_endpoint_slices: bool,
    /// Let endpoints have IPv6 addresses.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_ipv6: bool,
    /// Trust domain, part of every identity.
    #[arg(long, default_value = "")]
    identity_trust_domain: String,
    #[command(flatten)]
    views: ViewFlags,
    /// Parameters of HTTP/2 connections between proxies, in JSON.
    #[arg(long, default_value = "")]
    meshed_http2_client_params: MeshedHttp2,
    /// Accepted for compatibility: a slow subscriber has no queue here, it gets the latest state.
    #[arg(long, default_value_t = 100)]
    stream_queue_capacity: u32,
    /// Let endpoints in the client's zone weigh more.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ext_endpoint_zone_weights: bool,
    /// Accepted for compatibility: there are no queues to tell of.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    export_queue_metrics: bool,
    #[command(flatten)]
    compatibility: Compatibility,
    #[command(flatten)]
    logging: Logging,
}

/// Serves proxies until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    let settings = args.settings()?;
    run::controller(Cluster {
        addr: args.addr,
        admin: args.metrics_addr,
        settings,
        admission: None,
        census: Census::of_destination,
        writes_slices: true,
        sources: kinds::of_destination(),
        service: |hub| Box::new(Destination::new(hub)),
    })
    .await
}

impl Args {
    fn settings(&self) -> anyhow::Result<Settings> {
        let trust_domain = run::or_default(&self.identity_trust_domain);
        Ok(Settings {
            naming: Naming { control_plane_ns: self.controller_namespace.as_str().into(), trust_domain: trust_domain.into() },
            default_policy: DefaultPolicy::Deny,
            h2_upgrade: self.enable_h2_upgrade,
            transport_header: self.outbound_transport_mode == "transport-header",
            ipv6: self.enable_ipv6,
            meshed_http2: self.meshed_http2_client_params.0.clone(),
            zone_weights: self.ext_endpoint_zone_weights,
            ..self.views.settings()?
        })
    }
}

/// The JSON of protobuf's `Http2ClientParams`, as Go writes it.
#[derive(Clone, Debug, Default)]
struct MeshedHttp2(Http2Params);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Params {
    flow_control: Option<FlowControl>,
    keep_alive: Option<KeepAliveParams>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FlowControl {
    initial_connection_window_size: u32,
    initial_stream_window_size: u32,
}

#[derive(Deserialize)]
struct KeepAliveParams {
    interval: Option<Seconds>,
    timeout: Option<Seconds>,
    #[serde(default)]
    while_idle: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Seconds {
    seconds: u64,
    nanos: u32,
}

impl From<Seconds> for Duration {
    fn from(from: Seconds) -> Self {
        Self::from_secs(from.seconds).saturating_add(Self::from_nanos(from.nanos.into()))
    }
}

impl FromStr for MeshedHttp2 {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Params { flow_control, keep_alive } = serde_json::from_str(text)?;
        let windows = flow_control.unwrap_or_default();
        let window = |size: u32| (size > 0).then_some(size);
        let keep_alive = keep_alive
            .and_then(|k| Some(KeepAlive { interval: k.interval?.into(), timeout: k.timeout?.into(), while_idle: k.while_idle }));
        Ok(Self(Http2Params {
            keep_alive,
            initial_connection_window: window(windows.initial_connection_window_size),
            initial_stream_window: window(windows.initial_stream_window_size),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;
    use homarus_daemon::args::double_dashes;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_as_the_chart_passes_them() {
        let given = [
            "destination",
            "-addr=:8086",
            "-controller-namespace=linkerd",
            "-outbound-transport-mode=transport-header",
            "-enable-h2-upgrade=true",
            "-log-level=info",
            "-log-format=plain",
            "-enable-endpoint-slices=true",
            "-cluster-domain=example.org",
            "-identity-trust-domain=root.example.org",
            "-default-opaque-ports=25,587",
            "-enable-ipv6=false",
            "-enable-pprof=false",
            r#"--meshed-http2-client-params={"keep_alive":{"interval":{"seconds":10},"timeout":{"seconds":3},"while_idle":true}}"#,
        ];
        let args = Program::try_parse_from(double_dashes(given.map(Into::into))).unwrap().args;
        let settings = args.settings().unwrap();
        assert!(settings.transport_header && settings.h2_upgrade && !settings.ipv6);
        assert_eq!(&*settings.naming.trust_domain, "root.example.org");
        assert_eq!(settings.default_opaque_ports.to_string(), "25,587");
        let keep_alive = settings.meshed_http2.keep_alive.unwrap();
        assert_eq!((keep_alive.interval, keep_alive.while_idle), (Duration::from_secs(10), true));
    }

    #[test]
    fn defaults() {
        let settings = Program::try_parse_from(["destination"]).unwrap().args.settings().unwrap();
        assert!(!settings.transport_header);
        assert_eq!(&*settings.cluster_domain, "cluster.local");
        assert_eq!(settings.meshed_http2, Http2Params::default());
        assert!(Program::try_parse_from(["destination", "--meshed-http2-client-params={"]).is_err());
    }
}
