//! `homarus-redirect`: init, network validator, await, and the CNI plugin with its installer and repair controller in one
//! small static program.
//!
//! It acts by its subcommand, or by the name it was started under, so that links in an image take the places of
//! `linkerd2-proxy-init`, `linkerd2-network-validator`, `linkerd-await`, `linkerd2-cni-install` and
//! `linkerd-cni-repair-controller`; a container runtime starts it as `linkerd-cni`.

mod cni;
mod cni_install;
mod init;
mod logging;
mod repair;
mod start;
mod validate;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches, Parser, Subcommand};

use crate::cni_install::InstallArgs;
use crate::init::InitArgs;
use crate::repair::RepairArgs;
use crate::start::AwaitArgs;
use crate::validate::ValidateArgs;

const INIT: &str = "linkerd2-proxy-init";
const VALIDATOR: &str = "linkerd2-network-validator";
const AWAIT: &str = "linkerd-await";
const CNI: &str = "linkerd-cni";
const CNI_INSTALL: &str = "linkerd2-cni-install";
const CNI_REPAIR: &str = "linkerd-cni-repair-controller";

/// Leads a workload's traffic into its proxy.
#[derive(Debug, Parser)]
#[command(name = "homarus-redirect", version)]
struct Cli {
    #[command(subcommand)]
    command: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Redirects this network namespace's TCP traffic to the proxy (linkerd2-proxy-init)
    Init(InitArgs),
    /// Checks that outbound traffic is redirected; exits with 95 if it isn't (linkerd2-network-validator)
    Validate(ValidateArgs),
    /// Waits for the proxy to become ready before running a program (linkerd-await)
    Await(AwaitArgs),
    /// Redirects a pod for a container runtime, which says by the environment and standard input what it wants (linkerd-cni)
    Cni,
    /// Installs the CNI plugin on a node, and takes it away when it ends (linkerd2-cni-install)
    CniInstall(InstallArgs),
    /// Deletes pods of a node that started before the CNI plugin was there (linkerd-cni-repair-controller)
    CniRepair(RepairArgs),
}

impl Role {
    /// Reads the arguments; a wrong one ends the process with a message.
    fn read(arguments: Vec<OsString>) -> Self {
        let name = arguments.first().map(Path::new).and_then(Path::file_name);
        match name.and_then(OsStr::to_str) {
            Some(INIT) => Self::Init(alone(INIT, &arguments)),
            Some(VALIDATOR) => Self::Validate(alone(VALIDATOR, &arguments)),
            Some(AWAIT) => Self::Await(alone(AWAIT, &arguments)),
            // Runtimes give it no arguments.
            Some(CNI) => Self::Cni,
            Some(CNI_INSTALL) => Self::CniInstall(alone(CNI_INSTALL, &in_two_dashes(arguments))),
            Some(CNI_REPAIR) => Self::CniRepair(alone(CNI_REPAIR, &arguments)),
            _ => Cli::parse_from(arguments).command,
        }
    }
}

/// Go's flags are long with one dash as well.
fn in_two_dashes(arguments: Vec<OsString>) -> Vec<OsString> {
    let one_dash = |text: &str| text.len() > 2 && text.starts_with('-') && !text.starts_with("--");
    let two = |argument: OsString| match argument.to_str() {
        Some(text) if one_dash(text) => format!("-{text}").into(),
        _ => argument,
    };
    arguments.into_iter().map(two).collect()
}

/// The arguments of a role that is a program of its own.
fn alone<A: Args + FromArgMatches>(name: &'static str, arguments: &[OsString]) -> A {
    let mut command = A::augment_args(Command::new(name).version(env!("CARGO_PKG_VERSION")));
    let matches = command.try_get_matches_from_mut(arguments);
    matches.and_then(|matches| A::from_arg_matches(&matches)).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn main() -> ExitCode {
    match Role::read(std::env::args_os().collect()) {
        Role::Init(args) => args.run(),
        Role::Validate(args) => args.run(),
        Role::Await(args) => args.run(),
        Role::Cni => cni::run(),
        Role::CniInstall(args) => args.run(),
        Role::CniRepair(args) => args.run(),
    }
}
