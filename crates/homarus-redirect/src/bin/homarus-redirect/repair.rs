//! The flags and variables of linkerd-cni-repair-controller.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Args;
use homarus_redirect::api::{ACCOUNT_FOLDER, Access, Api};
use homarus_redirect::repair::metrics::Metrics;
use homarus_redirect::repair::{Repairer, admin};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::Targets;

use crate::logging::{self, LogFormat};

/// Arguments of `cni-repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Address of probes and metrics
    #[arg(long, default_value = "0.0.0.0:9990")]
    admin_addr: SocketAddr,
    /// Log filter: a level, or `target=level` pairs
    #[arg(long, env = "LINKERD_CNI_REPAIR_CONTROLLER_LOG_LEVEL", default_value = "info")]
    log_level: Targets,
    /// Log format
    #[arg(long, env = "LINKERD_CNI_REPAIR_CONTROLLER_LOG_FORMAT", default_value = "plain")]
    log_format: LogFormat,
    /// The node whose pods are looked after
    #[arg(long, env = "LINKERD_CNI_REPAIR_CONTROLLER_NODE_NAME")]
    node_name: String,
    /// The pod that this runs in
    #[arg(long, env = "LINKERD_CNI_REPAIR_CONTROLLER_POD_NAME", default_value = "linkerd-cni")]
    pod_name: String,
    /// The pod's account
    #[arg(long, default_value = ACCOUNT_FOLDER)]
    account: PathBuf,
    /// The API server's address
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", default_value = "kubernetes.default.svc")]
    api_host: String,
    /// The API server's port
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value = "443")]
    api_port: String,
}

impl RepairArgs {
    /// Repairs until a signal comes.
    pub fn run(self) -> ExitCode {
        logging::start(self.log_level, self.log_format);
        let mut signals = match Signals::new([SIGINT, SIGTERM]) {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals can't be handled");
                return ExitCode::FAILURE;
            }
        };
        let (account, host, port) = (self.account, self.api_host, self.api_port);
        let api = move || access(&account, &host, &port).and_then(Api::new);
        let repairer =
            Arc::new(Repairer { api: Box::new(api), node: self.node_name, instance: self.pod_name, metrics: Metrics::default() });
        if let Err(error) = admin::serve(self.admin_addr, Arc::clone(&repairer)) {
            tracing::error!(%error, address = %self.admin_addr, "can't listen");
            return ExitCode::FAILURE;
        }
        thread::spawn(move || repairer.run());
        signals.forever().next();
        ExitCode::SUCCESS
    }
}

fn access(account: &Path, host: &str, port: &str) -> Result<Access, homarus_redirect::api::ApiError> {
    Access::of_account(account, &account.join("ca.crt"), host, port)
}
