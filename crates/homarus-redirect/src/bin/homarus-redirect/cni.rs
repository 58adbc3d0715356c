//! The plugin as a runtime starts it: environment and standard input in, one JSON out, logs on standard error.

use std::io::{self, Read};
use std::process::ExitCode;
use std::thread;

use homarus_redirect::cni::netconf::NetConf;
use homarus_redirect::cni::protocol::{self, Call, CniError, Code};
use homarus_redirect::cni::{TIME, answer};
use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::logging::{self, LogFormat};

/// The largest configuration with the result of the plugins before us.
const MAX_INPUT_LEN: u64 = 4 * 1024 * 1024;

/// Answers one call; the exit code is 0 or 1.
pub fn run() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin().lock().take(MAX_INPUT_LEN).read_to_string(&mut input);
    logging::start(Targets::new().with_default(level(&input)), LogFormat::Plain);
    let version = protocol::version_of(&input);
    end_in_time(version.clone());
    let outcome = match read {
        Err(error) => Err(CniError::new(Code::Io, "the network configuration can't be read", error)),
        Ok(_) => Call::of(|name| std::env::var_os(name)).and_then(|call| answer(&call, &input)),
    };
    match outcome {
        Ok(result) => {
            print!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "refused");
            print!("{}", error.json(&version));
            ExitCode::FAILURE
        }
    }
}

fn level(input: &str) -> Level {
    let config = serde_json::from_str::<NetConf>(input);
    config.ok().and_then(|config| logging::level(&config.log_level).ok()).unwrap_or(Level::INFO)
}

/// Whatever hangs: a runtime that waits for us holds up the pod, and its other pods after a while.
fn end_in_time(version: String) {
    thread::spawn(move || {
        thread::sleep(TIME);
        let details = format!("not done after {TIME:?}; the runtime will try again");
        print!("{}", CniError::new(Code::TryAgain, "it took too long", details).json(&version));
        std::process::exit(1);
    });
}
