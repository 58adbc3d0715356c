//! The flags of linkerd2-network-validator.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use homarus_redirect::parse_duration;
use homarus_redirect::validator::{FAILURE_EXIT_CODE, validate};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::Targets;

use crate::logging::{self, LogFormat};

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Log filter: a level, or `target=level` pairs
    #[arg(long, env = "LINKERD_NETWORK_VALIDATOR_LOG_LEVEL", default_value = "info")]
    log_level: Targets,
    /// Log format
    #[arg(long, env = "LINKERD_NETWORK_VALIDATOR_LOG_FORMAT", default_value = "plain")]
    log_format: LogFormat,
    /// How long validation may take
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Address to which connections are supposed to be redirected
    #[arg(long, default_value = "0.0.0.0:4140")]
    listen_addr: SocketAddr,
    /// Address to connect to, at which nothing should answer
    #[arg(long, default_value = "192.0.2.2:1404")]
    connect_addr: SocketAddr,
}

impl ValidateArgs {
    /// Validates; the exit code is 0 or 95. Signals count as failures: whoever ends a validator has no proof.
    pub fn run(self) -> ExitCode {
        logging::start(self.log_level, self.log_format);
        match Signals::new([SIGINT, SIGTERM]) {
            Ok(signals) => {
                thread::spawn(|| fail_on_signal(signals));
            }
            Err(error) => {
                tracing::error!(%error, "signals can't be handled");
                return ExitCode::from(FAILURE_EXIT_CODE);
            }
        }
        match validate(self.listen_addr, self.connect_addr, self.timeout) {
            Ok(()) => {
                tracing::info!("validated: traffic is redirected");
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(timeout = ?self.timeout, "{error}");
                ExitCode::from(FAILURE_EXIT_CODE)
            }
        }
    }
}

fn fail_on_signal(mut signals: Signals) {
    if let Some(signal) = signals.forever().next() {
        let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
        tracing::error!("ended by {name} before traffic was known to be redirected");
        std::process::exit(i32::from(FAILURE_EXIT_CODE));
    }
}
