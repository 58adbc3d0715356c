//! From the words of a command line to the code that does it, and from how that ended to an exit code.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command as Program, ExitCode};

use clap::{CommandFactory, FromArgMatches};

use crate::cluster::Cluster;
use crate::command_line::{self, Cli, Command, Globals, Line};
use crate::failure::{Exit, Failure, Outcome};
use crate::{
    authz, check, completion, controller, diagnostics, identity, inject, install, install_cni, profile, stat, terminal, top, up,
    version,
};

/// Runs the program.
pub fn main() -> ExitCode {
    match completion::answered() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("Error: {failure}");
            return ExitCode::FAILURE;
        }
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let words: Vec<_> = args.collect();
    let outcome = match controller::asked_for(Path::new(&name), &words) {
        Some(words) => controller::main(words),
        None => ask(words),
    };
    match outcome {
        Ok(Exit::Ok) => ExitCode::SUCCESS,
        Ok(Exit::Unwell) => ExitCode::FAILURE,
        Err(failure) => {
            if !failure.is_said() {
                eprintln!("Error: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn ask(words: Vec<OsString>) -> Outcome {
    match command_line::sort(words, &Cli::command()) {
        Line::Ours(words) => ours(words),
        Line::Extension(name, words) => extension(&name, &words),
        Line::FlagsBeforeExtension => Err(Failure::usage("Cannot accept flags before Linkerd extension name")),
    }
}

fn ours(words: Vec<OsString>) -> Outcome {
    let words = std::iter::once(OsString::from("homarus")).chain(words);
    let parsed = Cli::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and usage errors know where they belong, and with which code.
            let _ = error.print();
            return if error.use_stderr() { Err(Failure::said()) } else { Ok(Exit::Ok) };
        }
    };
    let Some(command) = cli.command else {
        Cli::command().print_help()?;
        return Ok(Exit::Ok);
    };
    if cli.globals.verbose {
        terminal::log("debug,hyper=info,h2=info,tower=info,rustls=info");
    }
    runtime()?.block_on(run(&cli.globals, command))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn run(globals: &Globals, command: Command) -> Outcome {
    match command {
        Command::Completion(args) => completion::run(&args),
        Command::Up(args) => up::run(&args).await,
        Command::Down(args) => up::down(&args).await,
        Command::Status(args) => up::status(&args).await,
        Command::Install(args) => install::run(globals, &args).await,
        Command::InstallCni(args) => install_cni::run(globals, &args).await,
        Command::Upgrade(args) => install::upgrade(globals, &args).await,
        Command::Prune(args) => install::prune(globals, &args).await,
        Command::Uninstall(args) => install::uninstall(globals, &args).await,
        Command::Inject(args) => inject::run(globals, &args).await,
        Command::Uninject(args) => inject::run_uninject(globals, &args).await,
        Command::Check(args) => check::run(globals, &args).await,
        Command::Version(args) => version::run(globals, &args).await,
        Command::Stat(args) => stat::run(&Cluster::connect(globals).await?, &args).await,
        Command::Top(args) => top::run(&Cluster::connect(globals).await?, &args).await,
        Command::Identity(args) => identity::run(&Cluster::connect(globals).await?, &args).await,
        Command::Authz(args) => authz::run(&Cluster::connect(globals).await?, &args).await,
        Command::Profile(args) => profile::run(globals, &args).await,
        Command::Diagnostics(command) => diagnostics::run(&Cluster::connect(globals).await?, &command).await,
        // Settled before there is a runtime: see `controller::asked_for`.
        Command::Controller(_) => Err(Failure::usage("`controller` must be the first word")),
    }
}

/// Another program's command: what it does with it is its business. Those made for Linkerd come first.
fn extension(name: &str, words: &[OsString]) -> Outcome {
    for program in ["linkerd-", "homarus-"].map(|prefix| format!("{prefix}{name}")) {
        match Program::new(&program).args(words).status() {
            Ok(status) if status.success() => return Ok(Exit::Ok),
            Ok(status) => {
                return Err(Failure::new(match status.code() {
                    Some(code) => format!("exit status {code}"),
                    None => status.to_string(),
                }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new(format!("cannot run {program}: {error}"))),
        }
    }
    Err(Failure::usage(format!("unknown command {name:?} for \"homarus\""))
        .remedy("Run 'homarus --help' for the commands there are."))
}
