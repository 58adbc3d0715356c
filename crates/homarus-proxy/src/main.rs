//! The sidecar program. `lib.rs` tells its story.

use homarus_proxy::{
    config::{Config, EXIT_INVALID, log_settings},
    run,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (filter, format) = log_settings();
    let log = match homarus_daemon::logs::init(&filter, format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("Initialization failure: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(invalid) => {
            for error in &invalid.0 {
                tracing::error!("{error}");
            }
            eprintln!("{invalid}");
            return ExitCode::from(EXIT_INVALID as u8);
        }
    };
    match run::run(config, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("Initialization failure: {error}");
            ExitCode::FAILURE
        }
    }
}
