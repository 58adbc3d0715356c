//! The rules as commands for the `iptables` programs, for kernels without nf_tables and for those who ask for it.
//!
//! Chains, rules, order and comments are those of proxy-init, so that either program can redo what the other did: a chain
//! that exists is flushed, a jump that exists is kept. Unlike the netlink way this isn't atomic; the first command that
//! fails ends it.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config::PortRange;
use crate::nft::Family;
use crate::privilege;
use crate::rules::{Rule, Rules};

/// How many ports `-m multiport` takes; a range counts twice.
const MULTIPORT_SLOTS: usize = 15;
/// How long a program waits for the xtables lock when asked to, in seconds.
const LOCK_WAIT_SECS: &str = "60";
const INBOUND_CHAIN: &str = "PROXY_INIT_REDIRECT";
const OUTBOUND_CHAIN: &str = "PROXY_INIT_OUTPUT";

/// Which set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// `iptables`: whatever the image has under that name.
    Plain,
    /// `iptables-legacy`.
    Legacy,
}

impl Programs {
    /// Where the kernel has no nf_tables, in the order of hope: the plain names often mean nf_tables as well. That is why
    /// `iptables-nft` is not among them: it can do nothing that netlink can't.
    pub const WITHOUT_NF_TABLES: [Self; 2] = [Self::Legacy, Self::Plain];

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Legacy => "-legacy",
        }
    }

    /// The program that changes rules.
    pub fn change(self, family: Family) -> String {
        let stem = match family {
            Family::Ip => "iptables",
            Family::Ip6 => "ip6tables",
        };
        format!("{stem}{}", self.suffix())
    }

    /// The program that lists rules.
    pub fn list(self, family: Family) -> String {
        format!("{}-save", self.change(family))
    }

    /// Whether all programs for these families are on the PATH.
    pub fn are_complete(self, families: &[Family]) -> bool {
        let mut names = families.iter().flat_map(|family| [self.change(*family), self.list(*family)]);
        names.all(|name| on_path(&name).is_some())
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0))
}

/// Why a program didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It couldn't be started.
    #[error("{program} can't be started: {error}; it must be on the PATH, or use --iptables-mode nft, which needs no program")]
    Start {
        /// Its name.
        program: String,
        /// The system's reason.
        error: io::Error,
    },
    /// It failed.
    #[error("`{command}` failed ({status}): {output}{hint}")]
    Failed {
        /// The whole command.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
        /// What to try.
        hint: &'static str,
    },
}

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    program: String,
    arguments: Vec<String>,
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.arguments.join(" "))
    }
}

impl Invocation {
    fn run(&self) -> Result<String, ProgramError> {
        tracing::info!(command = %self, "running");
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| ProgramError::Start { program: self.program.clone(), error })?;
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_string();
        if !output.status.success() {
            let hint = match complaint.contains("Permission denied") || complaint.contains("not permitted") {
                true => "; add NET_ADMIN and NET_RAW to the container's capabilities",
                false => "",
            };
            return Err(ProgramError::Failed { command: self.to_string(), status: output.status, output: complaint, hint });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Applies the rules with these programs, family by family.
pub fn apply(rules: &Rules, programs: Programs, wait: bool) -> Result<(), ProgramError> {
    if let Err(error) = privilege::pass_on() {
        tracing::debug!(%error, "capabilities can't be passed on to iptables");
    }
    for family in &rules.families {
        let list = listing(programs, *family);
        let existing = list.run()?;
        for command in invocations(rules, programs, *family, &existing, wait) {
            command.run()?;
        }
        tracing::debug!(rules = %list.run()?, "table nat");
    }
    Ok(())
}

/// The commands that [`apply`] would run in an empty table, in order.
pub fn plan(rules: &Rules, programs: Programs, wait: bool) -> Vec<Invocation> {
    let mut plan = Vec::new();
    for family in &rules.families {
        plan.push(listing(programs, *family));
        plan.extend(invocations(rules, programs, *family, "", wait));
        plan.push(listing(programs, *family));
    }
    plan
}

fn listing(programs: Programs, family: Family) -> Invocation {
    Invocation { program: programs.list(family), arguments: words("-t nat") }
}

fn invocations(rules: &Rules, programs: Programs, family: Family, existing: &str, wait: bool) -> Vec<Invocation> {
    let mut commands = chain_commands(&CHAINS[0], &rules.inbound, family, existing);
    commands.extend(chain_commands(&CHAINS[1], &rules.outbound, family, existing));
    let with_program = |mut arguments: Vec<String>| {
        if wait {
            arguments.extend(["-w".to_string(), LOCK_WAIT_SECS.to_string()]);
        }
        Invocation { program: programs.change(family), arguments }
    };
    commands.into_iter().map(with_program).collect()
}

struct ChainNames {
    chain: &'static str,
    jumps_from: &'static str,
    jump_comment: &'static str,
    direction: &'static str,
}

const CHAINS: [ChainNames; 2] = [
    ChainNames {
        chain: INBOUND_CHAIN,
        jumps_from: "PREROUTING",
        jump_comment: "install-proxy-init-prerouting",
        direction: "incoming",
    },
    ChainNames { chain: OUTBOUND_CHAIN, jumps_from: "OUTPUT", jump_comment: "install-proxy-init-output", direction: "outgoing" },
];

fn chain_commands(names: &ChainNames, rules: &[Rule], family: Family, existing: &str) -> Vec<Vec<String>> {
    let ChainNames { chain, jumps_from, .. } = names;
    let declared = format!(":{chain} ");
    let is_there = existing.lines().any(|line| line.starts_with(&declared));
    let make = if is_there { "-F" } else { "-N" };
    let mut commands = vec![words(&format!("-t nat {make} {chain}"))];
    for rule in rules {
        commands.extend(rule_commands(names, rule, family));
    }
    let jump = format!(" -j {chain}");
    let from = format!("-A {jumps_from} ");
    if !existing.lines().any(|line| line.starts_with(&from) && line.contains(&jump)) {
        let install = format!("-t nat -A {jumps_from} -j {chain}");
        commands.push(commented(words(&install), names.jump_comment));
    }
    commands
}

fn rule_commands(names: &ChainNames, rule: &Rule, family: Family) -> Vec<Vec<String>> {
    let chain = names.chain;
    let append = |what: String, comment: String| commented(words(&format!("-t nat -A {chain} {what}")), &comment);
    match rule {
        Rule::SkipPorts(ranges) => multiport_groups(ranges)
            .into_iter()
            .map(|ports| append(format!("-p tcp --match multiport --dports {ports} -j RETURN"), format!("ignore-port-{ports}")))
            .collect(),
        Rule::SkipSource(net) if Family::of(net) != family => Vec::new(),
        Rule::SkipSource(net) => vec![append(format!("-p all -j RETURN -s {net}"), format!("ignore-subnet-{net}"))],
        Rule::SkipUser(uid) => vec![append(format!("-m owner --uid-owner {uid} -j RETURN"), "ignore-proxy-user-id".into())],
        Rule::SkipGroup(gid) => vec![append(format!("-m owner --gid-owner {gid} -j RETURN"), "ignore-proxy-group-id".into())],
        Rule::SkipLoopback => vec![append("-o lo -j RETURN".into(), "ignore-loopback".into())],
        Rule::Redirect { only: None, to } => {
            vec![append(format!("-p tcp -j REDIRECT --to-port {to}"), format!("redirect-all-{}-to-proxy-port", names.direction))]
        }
        Rule::Redirect { only: Some(port), to } => vec![append(
            format!("-p tcp --destination-port {port} -j REDIRECT --to-port {to}"),
            format!("redirect-port-{port}-to-proxy-port"),
        )],
    }
}

fn multiport_groups(ranges: &[PortRange]) -> Vec<String> {
    let mut groups: Vec<(usize, String)> = Vec::new();
    for range in ranges {
        let (slots, text) = match range.is_single() {
            true => (1, range.first().to_string()),
            false => (2, format!("{}:{}", range.first(), range.last())),
        };
        match groups.last_mut() {
            Some((used, group)) if *used + slots <= MULTIPORT_SLOTS => {
                *used += slots;
                group.push(',');
                group.push_str(&text);
            }
            _ => groups.push((slots, text)),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn commented(mut command: Vec<String>, comment: &str) -> Vec<String> {
    command.extend(words("-m comment --comment"));
    command.push(format!("proxy-init/{comment}"));
    command
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

#[cfg(test)]
mod tests;
