//! The policy controller: who may connect to a port, and where requests go.

use crate::{
    index::{CLUSTER_NETWORKS, Settings},
    run::{self, Cluster, Logging, ViewFlags},
    serve::{Census, policy::Policies},
    watch::kinds,
    webhook::{Origin, serving::Files},
};
use anyhow::Context;
use clap::Args as ClapArgs;
use homarus_daemon::args::Listen;
use homarus_model::{identity::Naming, inbound::DefaultPolicy, network};
use std::path::PathBuf;

/// The flags of `homarus controller policy` (control-plane §1.5).
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Address to serve proxies on.
    #[arg(long, default_value = "0.0.0.0:8090")]
    grpc_addr: Listen,
    /// Address of the admin server.
    #[arg(long, default_value = "0.0.0.0:9990")]
    admin_addr: Listen,
    /// Address of the admission webhook, which is served if there is a certificate for it.
    #[arg(long, default_value = "0.0.0.0:9443")]
    server_addr: Listen,
    /// Key of the admission webhook.
    #[arg(long)]
    server_tls_key: Option<PathBuf>,
    /// Certificates of the admission webhook.
    #[arg(long)]
    server_tls_certs: Option<PathBuf>,
    /// Make the webhook's certificate and tell the API server, rather than read it from --server-tls-certs.
    #[arg(long)]
    manage_certificates: bool,
    /// Networks of the cluster.
    #[arg(long, default_value = CLUSTER_NETWORKS)]
    cluster_networks: String,
    /// Trust domain, part of every identity.
    #[arg(long, default_value = run::CLUSTER_DOMAIN)]
    identity_domain: String,
    #[command(flatten)]
    views: ViewFlags,
    /// What applies to ports without a Server.
    #[arg(long, default_value = "all-unauthenticated")]
    default_policy: DefaultPolicy,
    /// Namespace of the control plane, part of every identity.
    #[arg(long, default_value = "linkerd")]
    control_plane_namespace: String,
    /// The Deployment this runs in. Accepted for compatibility.
    #[arg(long, default_value = "linkerd-destination")]
    policy_deployment_name: String,
    /// Networks that the kubelets' probes come from.
    #[arg(long, default_value = "")]
    probe_networks: String,
    /// How long writing a status may take. Accepted for compatibility.
    #[arg(long, default_value_t = 5000)]
    patch_timeout_ms: u64,
    /// Let clients set timeouts and retries by headers. Accepted for compatibility.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_l5d_request_headers: bool,
    /// Namespace of EgressNetworks that apply everywhere. Accepted for compatibility.
    #[arg(long, default_value = "linkerd-egress")]
    global_egress_network_namespace: String,
    /// Don't serve the admission webhook.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    admission_controller_disabled: bool,
    #[command(flatten)]
    logging: Logging,
}

/// Serves proxies until asked to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.logging.init()?;
    let settings = args.settings()?;
    let admission = args.admission();
    run::controller(Cluster {
        addr: args.grpc_addr,
        admin: args.admin_addr,
        settings,
        admission,
        census: Census::of_policy,
        writes_slices: false,
        sources: kinds::of_policy(),
        service: |hub| Box::new(Policies::new(hub)),
    })
    .await
}

impl Args {
    /// Where the webhook is served, and with which certificate; none without one.
    fn admission(&self) -> Option<(Listen, Origin)> {
        let mounted = || {
            let (certificate, key) = (self.server_tls_certs.clone()?, self.server_tls_key.clone()?);
            Some(Origin::Mounted(Files { certificate, key }))
        };
        let made = || Some(Origin::Managed { namespace: self.control_plane_namespace.clone() });
        let origin = if self.manage_certificates { made() } else { mounted() };
        origin.filter(|_| !self.admission_controller_disabled).map(|origin| (self.server_addr, origin))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Settings {
            naming: Naming {
                control_plane_ns: self.control_plane_namespace.as_str().into(),
                trust_domain: self.identity_domain.as_str().into(),
            },
            cluster_networks: network::parse_list(&self.cluster_networks).context("--cluster-networks is no list of networks")?,
            probe_networks: network::parse_list(&self.probe_networks).context("--probe-networks is no list of networks")?,
            default_policy: self.default_policy,
            ..self.views.settings()?
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_as_the_chart_passes_them() {
        let given = [
            "policy",
            "--admin-addr=0.0.0.0:9990",
            "--control-plane-namespace=linkerd",
            "--grpc-addr=0.0.0.0:8090",
            "--server-addr=0.0.0.0:9443",
            "--server-tls-key=/var/run/linkerd/tls/tls.key",
            "--server-tls-certs=/var/run/linkerd/tls/tls.crt",
            "--cluster-networks=10.0.0.0/8,fd00::/8",
            "--identity-domain=cluster.local",
            "--cluster-domain=cluster.local",
            "--default-policy=cluster-authenticated",
            "--log-level=info",
            "--log-format=json",
            "--default-opaque-ports=25",
            "--global-egress-network-namespace=linkerd-egress",
            "--probe-networks=0.0.0.0/0,::/0",
        ];
        let args = Program::try_parse_from(given).unwrap().args;
        assert!(matches!(args.admission(), Some((Listen { port: 9443, .. }, Origin::Mounted(_)))));
        let settings = args.settings().unwrap();
        assert_eq!(settings.default_policy.as_str(), "cluster-authenticated");
        assert_eq!((settings.cluster_networks.len(), settings.probe_networks.len()), (2, 2));
    }

    #[test]
    fn the_webhook_needs_a_certificate() {
        let served = |given: &[&str]| Program::try_parse_from([&["policy"], given].concat()).unwrap().args.admission().is_some();
        assert!(served(&["--manage-certificates"]));
        assert!(!served(&["--manage-certificates", "--admission-controller-disabled"]));
        assert!(!served(&["--server-tls-key=/k"]) && !served(&[]));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert!(Program::try_parse_from(["policy", "--default-policy=everyone"]).is_err());
        assert!(Program::try_parse_from(["policy", "--cluster-networks=10"]).unwrap().args.settings().is_err());
    }
}
