//! The controllers of the control plane, which are this program as well.
//!
//! They are asked for as `homarus controller <name>`, or as charts written for Linkerd do: `destination -addr=:8086`, and
//! the policy controller by the name it is called with. `identity` alone is also one of our commands; the controller's has
//! flags with one dash.

use std::ffi::OsString;
use std::path::Path;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser};
use homarus_daemon::args::double_dashes;

use crate::command_line::Controller;
use crate::failure::{Exit, Failure, Outcome};

#[derive(Parser)]
#[command(name = "controller", disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    controller: Controller,
}

/// The words of a controller's command line, its name first, if one is asked for.
pub fn asked_for(program: &Path, words: &[OsString]) -> Option<Vec<OsString>> {
    let called = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let first = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    match (called, first) {
        ("linkerd-policy-controller", _) => Some(std::iter::once("policy".into()).chain(words.iter().cloned()).collect()),
        ("controller", _) => Some(words.to_vec()),
        (_, "controller") => Some(words[1..].to_vec()),
        (_, "destination" | "proxy-injector" | "policy-controller" | "sp-validator" | "heartbeat") => Some(words.to_vec()),
        (_, "identity") if words[1..].iter().any(is_flag_of_identity) => Some(words.to_vec()),
        _ => None,
    }
}

/// A long flag of the identity controller after one dash.
fn is_flag_of_identity(word: &OsString) -> bool {
    let Some(flag) = word.to_str().and_then(|word| word.strip_prefix('-')).filter(|flag| !flag.starts_with('-')) else {
        return false;
    };
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    let flags = homarus_control::issue::Args::augment_args(clap::Command::new("identity"));
    flags.get_arguments().any(|arg| arg.get_long() == Some(name))
}

/// Runs a controller until it is told to end.
pub fn main(words: Vec<OsString>) -> Outcome {
    let words = std::iter::once(OsString::from("controller")).chain(double_dashes(words));
    let parsed = Line::command().try_get_matches_from(words).and_then(|matches| Line::from_arg_matches(&matches));
    let controller = match parsed {
        Ok(line) => line.controller,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Err(Failure::said()) } else { Ok(Exit::Ok) };
        }
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // What is asked once per object that somebody makes has no use for a thread, with its stack and its heap, per core.
    if matches!(controller, Controller::ProxyInjector(_) | Controller::SpValidator(_) | Controller::Heartbeat(_)) {
        runtime.worker_threads(1);
    }
    runtime.enable_all().build()?.block_on(async {
        match controller {
            Controller::Identity(args) => homarus_control::issue::run(args).await,
            Controller::Destination(args) => homarus_control::destination::run(args).await,
            Controller::Policy(args) => homarus_control::policy::run(args).await,
            Controller::ProxyInjector(args) => homarus_control::inject::run(args).await,
            Controller::SpValidator(args) => homarus_control::admit::profiles::run(args).await,
            Controller::Heartbeat(args) => homarus_control::heartbeat::run(args).await,
        }
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(program: &str, line: &str) -> Option<String> {
        let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        let found = asked_for(Path::new(program), &words)?;
        Some(found.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn controllers_are_asked_for_in_many_ways() {
        let check = |program, line, wanted: Option<&str>| assert_eq!(asked(program, line).as_deref(), wanted, "{program} {line}");
        check("homarus", "controller identity --addr :1", Some("identity --addr :1"));
        check("homarus", "destination -addr=:8086", Some("destination -addr=:8086"));
        check("/linkerd-policy-controller", "--grpc-addr x", Some("policy --grpc-addr x"));
        check("/controller", "proxy-injector -log-level=info", Some("proxy-injector -log-level=info"));
        check("homarus", "sp-validator -log-level=info", Some("sp-validator -log-level=info"));
        check("homarus", "heartbeat -prometheus-url=x", Some("heartbeat -prometheus-url=x"));
        check("homarus", "identity -log-level=info", Some("identity -log-level=info"));
    }

    #[test]
    fn commands_are_not_controllers() {
        for line in ["identity web-0", "identity -n emojivoto web-0", "identity -lapp=web", "identity --selector app", "check", ""]
        {
            assert_eq!(asked("linkerd", line), None, "{line}");
        }
    }
}
