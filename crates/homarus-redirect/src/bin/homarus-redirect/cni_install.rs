//! The installer's surroundings, those of linkerd2-cni-install: variables that the chart sets.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;

use clap::Args;
use homarus_redirect::api::ACCOUNT_FOLDER;
use homarus_redirect::cni_install::taint::Node;
use homarus_redirect::cni_install::{self, Account, Installer, InstallerError, Wake};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::logging::{self, LogFormat};

/// This program, whatever it was started as.
const SELF: &str = "/proc/self/exe";

/// Arguments of `cni-install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Log level
    #[arg(long, default_value = "info", value_parser = logging::level)]
    log_level: Level,
    /// Tell whether pods of this node are redirected, and end
    #[arg(long)]
    check: bool,
    /// Where the host's files are mounted
    #[arg(long, env = "CONTAINER_MOUNT_PREFIX", default_value = "/host")]
    mount_prefix: PathBuf,
    /// The host's folder of network configurations
    #[arg(long, env = "DEST_CNI_NET_DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
    /// The host's folder of plugins
    #[arg(long, env = "DEST_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The name of the kubeconfig in the folder of network configurations
    #[arg(long, env = "KUBECONFIG_FILE_NAME", default_value = "ZZZ-linkerd-cni-kubeconfig")]
    kubeconfig: OsString,
    /// The plugin's configuration
    #[arg(long, env = "CNI_NETWORK_CONFIG", default_value = "", hide_env_values = true)]
    config: String,
    /// A file with the plugin's configuration, which goes before the other
    #[arg(long, env = "CNI_NETWORK_CONFIG_FILE")]
    config_file: Option<PathBuf>,
    /// The pod's account
    #[arg(long, default_value = ACCOUNT_FOLDER)]
    account: PathBuf,
    /// The API server's roots, if not the account's
    #[arg(long, env = "KUBE_CA_FILE")]
    roots: Option<PathBuf>,
    /// The API server's address
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", default_value = "kubernetes.default.svc")]
    api_host: String,
    /// The API server's port
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value = "443")]
    api_port: String,
    /// The node, if it is to be tainted until its pods are redirected
    #[arg(long, env = "LINKERD_CNI_TAINT_NODE")]
    taint_node: Option<String>,
}

impl InstallArgs {
    /// Installs until a signal comes; the exit code is 0 or 1.
    pub fn run(self) -> ExitCode {
        if self.check {
            return self.tell_readiness();
        }
        logging::start(Targets::new().with_default(self.log_level), LogFormat::Plain);
        match self.install() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    fn tell_readiness(self) -> ExitCode {
        let host = cni_install::host(&self.mount_prefix, &self.net_dir, &self.bin_dir, self.kubeconfig);
        match host.is_ready() {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                eprintln!("{reason}");
                ExitCode::FAILURE
            }
        }
    }

    fn install(self) -> Result<(), InstallerError> {
        let namespace = std::fs::read_to_string(self.account.join("namespace")).unwrap_or_default();
        let namespace = namespace.trim().to_owned();
        let config = self.config()?;
        let kubeconfig = self.net_dir.join(&self.kubeconfig);
        let roots = self.roots.unwrap_or_else(|| self.account.join("ca.crt"));
        let installer = Installer {
            host: cni_install::host(&self.mount_prefix, &self.net_dir, &self.bin_dir, self.kubeconfig),
            program: PathBuf::from(SELF),
            entry: cni_install::entry(&config, &kubeconfig, &namespace)?,
            account: Account { folder: self.account, roots, host: self.api_host, port: self.api_port },
            node: self.taint_node.filter(|name| !name.is_empty()).map(|name| Node::new(name, namespace)),
        };
        let (wake, wakes) = mpsc::channel();
        let folders: [&Path; 2] = [&installer.host.net_dir, &installer.account.folder];
        stop_on_signal(wake.clone());
        cni_install::follow(&folders, wake)?;
        installer.run(&wakes)
    }

    fn config(&self) -> Result<String, InstallerError> {
        match &self.config_file {
            None => Ok(self.config.clone()),
            Some(file) => {
                std::fs::read_to_string(file).map_err(|error| InstallerError::Entry(format!("{}: {error}", file.display())))
            }
        }
    }
}

/// As process 1 of its container, it would not be ended by a signal that nobody handles.
fn stop_on_signal(wake: Sender<Wake>) {
    match Signals::new([SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            thread::spawn(move || {
                for _ in signals.forever() {
                    let _already_ending = wake.send(Wake::Stop);
                }
            });
        }
        Err(error) => tracing::error!(%error, "signals can't be handled"),
    }
}
