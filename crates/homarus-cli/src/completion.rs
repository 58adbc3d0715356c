//! `completion`: scripts for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::command_line::{Cli, Completion};
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;

/// Writes a script that completes commands and flags.
pub fn run(args: &Completion) -> Outcome {
    let shell = match args.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => return Err(Failure::usage(format!("unsupported shell type (must be bash, zsh or fish): {other}"))),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "homarus", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
