//! Command lines as people and scripts have long written them, put into the order that a parser wants.
//!
//! Scripts written for Linkerd put flags before the command (`-n emojivoto check --proxy`), give switches values
//! (`--proxy=true`, `--ha false`), and call extensions by name. All of that is settled here, on words alone.

use std::collections::HashSet;
use std::ffi::OsString;

use clap::{ArgAction, Command};

/// What a command line turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// One of our commands: its words first, then everything else in the order it was given.
    Ours(Vec<OsString>),
    /// Another program's: `linkerd-<name>` with the remaining words.
    Extension(String, Vec<OsString>),
    /// An extension's name after flags, which can't be told from their values.
    FlagsBeforeExtension,
}

/// Sorts the words after the program's name.
pub fn sort(args: impl IntoIterator<Item = OsString>, root: &Command) -> Line {
    let switches = Switches::of(root);
    let mut rest = switches.settle(args).into_iter();
    let (mut command, mut words, mut flags): (&Command, Vec<OsString>, Vec<OsString>) = (root, Vec::new(), Vec::new());
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy().into_owned();
        if text == "--" || text == "-" {
            flags.push(arg);
            break;
        }
        if text.starts_with('-') {
            flags.push(arg);
            if takes_next(&text) && !switches.has(&text) {
                flags.extend(rest.next());
            }
            continue;
        }
        match command.find_subcommand(&text) {
            Some(found) => {
                command = found;
                words.push(arg);
            }
            None if words.is_empty() && text != "help" => {
                return if flags.is_empty() { Line::Extension(text, rest.collect()) } else { Line::FlagsBeforeExtension };
            }
            None => {
                flags.push(arg);
                break;
            }
        }
    }
    Line::Ours(words.into_iter().chain(flags).chain(rest).collect())
}

/// Long flags without `=`, and short flags without a value of their own, may swallow the next word.
fn takes_next(flag: &str) -> bool {
    if flag.starts_with("--") { !flag.contains('=') } else { flag.chars().count() == 2 }
}

/// Flags that take no value, in any command.
struct Switches(HashSet<String>);

impl Switches {
    fn of(root: &Command) -> Self {
        let mut names: HashSet<_> = ["--help", "-h", "--version", "-V"].map(str::to_owned).into();
        let mut commands = vec![root];
        while let Some(command) = commands.pop() {
            for arg in command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue)) {
                names.extend(arg.get_long().map(|long| format!("--{long}")));
                names.extend(arg.get_short().map(|short| format!("-{short}")));
            }
            commands.extend(command.get_subcommands());
        }
        Self(names)
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(flag)
    }

    /// Takes the values away from switches: a false one was not given at all.
    fn settle(&self, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut settled: Vec<OsString> = Vec::new();
        let mut verbatim = false;
        for arg in args {
            let text = arg.to_string_lossy().into_owned();
            verbatim |= text == "--";
            let (flag, value) = text.split_once('=').map_or((text.as_str(), None), |(flag, value)| (flag, Some(value)));
            let last_is_switch = settled.last().is_some_and(|last| self.has(&last.to_string_lossy()));
            match value {
                _ if verbatim => settled.push(arg),
                Some("true") if self.has(flag) => settled.push(flag.into()),
                Some("false") if self.has(flag) => {}
                None if flag == "true" && last_is_switch => {}
                None if flag == "false" && last_is_switch => drop(settled.pop()),
                _ => settled.push(arg),
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn sorted(line: &str) -> Line {
        sort(line.split_whitespace().map(OsString::from), &crate::command_line::Cli::command())
    }

    fn check(given: &str, wanted: &str) {
        assert_eq!(sorted(given), Line::Ours(wanted.split_whitespace().map(OsString::from).collect()), "{given}");
    }

    #[test]
    fn flags_may_come_before_the_command() {
        check("-n emojivoto check --proxy", "check -n emojivoto --proxy");
        check(
            "--context=X --api-addr a:1 diagnostics -o json endpoints web:80",
            "diagnostics endpoints --context=X --api-addr a:1 -o json web:80",
        );
        check("--verbose check", "check --verbose");
        check("dg ep a b", "dg ep a b");
        check("stat deploy check", "stat deploy check");
        check("inject - check", "inject - check");
        check("", "");
    }

    #[test]
    fn switches_may_have_values() {
        check("check --proxy=true", "check --proxy");
        check("check --proxy=false --wait 1s", "check --wait 1s");
        check("check --proxy false", "check");
        check("check --proxy true -o json", "check --proxy -o json");
        check("stat -o=true", "stat -o=true");
        check("stat -- --proxy=true", "stat -- --proxy=true");
    }

    #[test]
    fn other_words_are_extensions() {
        let Line::Extension(name, rest) = sorted("smi install --x") else { unreachable!("an extension") };
        assert_eq!((name.as_str(), rest.len()), ("smi", 2));
        assert_eq!(sorted("--verbose smi"), Line::FlagsBeforeExtension);
    }
}
