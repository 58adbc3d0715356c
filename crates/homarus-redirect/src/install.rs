//! Applies the rules: chooses the means, the namespace, and does what else proxy-init does.
//!
//! The means, decided: **netlink wherever the kernel has nf_tables**, also for the arguments that running injectors pass
//! (`--firewall-bin-path iptables-nft`, or none): the effect on traffic is the same, it is atomic, and images need no
//! program. The `iptables` programs are run only when asked for by `--iptables-mode legacy|plain` (or their names as
//! `--firewall-bin-path`) and present, or when the kernel has no nf_tables. As in the reference, what is asked for but
//! missing is replaced, with a warning, by what is there.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::iptables::{self, ProgramError, Programs};
use crate::netns::{Netns, NetnsError};
use crate::nft::{Family, Netlink, NetlinkError};
use crate::privilege;
use crate::rules::Rules;

const CLOSE_WAIT_SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

/// By which means rules are to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// nf_tables by netlink.
    Netlink,
    /// The `iptables` programs.
    Programs(Programs),
}

/// A mode or program name that proxy-init doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} valid values are only {valid}, not {value:?}")]
pub struct UnknownMeans {
    flag: &'static str,
    valid: &'static str,
    value: String,
}

impl FromStr for Means {
    type Err = UnknownMeans;

    /// Reads the value of `--iptables-mode`.
    fn from_str(mode: &str) -> Result<Self, Self::Err> {
        match mode {
            "nft" => Ok(Self::Netlink),
            "legacy" => Ok(Self::Programs(Programs::Legacy)),
            "plain" => Ok(Self::Programs(Programs::Plain)),
            _ => Err(UnknownMeans { flag: "--iptables-mode", valid: "\"legacy\", \"nft\" and \"plain\"", value: mode.to_string() }),
        }
    }
}

impl Means {
    /// The means for the flags as given; the mode goes before the program.
    pub fn of(iptables_mode: &str, firewall_bin_path: &str) -> Result<Self, UnknownMeans> {
        if !iptables_mode.is_empty() {
            return iptables_mode.parse();
        }
        match firewall_bin_path {
            "" | "iptables-nft" => Ok(Self::Netlink),
            "iptables-legacy" => Ok(Self::Programs(Programs::Legacy)),
            "iptables" => Ok(Self::Programs(Programs::Plain)),
            _ => Err(UnknownMeans {
                flag: "--firewall-bin-path",
                valid: "\"iptables-legacy\", \"iptables-nft\" and \"iptables\"",
                value: firewall_bin_path.to_string(),
            }),
        }
    }
}

/// How to apply rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct How {
    /// By which means.
    pub means: Means,
    /// Where, if not in the network namespace of this process.
    pub netns: Option<PathBuf>,
    /// Whether the programs wait for the xtables lock. Netlink never needs to.
    pub wait: bool,
    /// How long conntrack keeps a connection in CLOSE_WAIT, in seconds; `None` leaves the system's value.
    pub close_wait_secs: Option<u32>,
}

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// nf_tables refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The CLOSE_WAIT timeout can't be set; the rules are in force.
    #[error(
        "{CLOSE_WAIT_SETTING} can't be set: {0}. Kernel settings can be written by a privileged container that runs as \
         root: set proxyInit.runAsRoot, or leave the close-wait timeout alone"
    )]
    CloseWait(io::Error),
}

/// Applies `rules`. Doing it again changes nothing but what has changed in the rules.
pub fn install(rules: &Rules, how: &How) -> Result<(), InstallError> {
    match &how.netns {
        None => install_here(rules, how),
        Some(path) => Netns::open(path)?.enter(|| install_here(rules, how))?,
    }
}

/// What [`install`] would do, as a script for `nft` or as commands.
pub fn simulate(rules: &Rules, means: Means, wait: bool) -> String {
    match means {
        Means::Netlink => rules.tables().iter().map(ToString::to_string).collect(),
        Means::Programs(programs) => {
            let plan = iptables::plan(rules, programs, wait);
            plan.iter().map(|command| format!("{command}\n")).collect()
        }
    }
}

fn install_here(rules: &Rules, how: &How) -> Result<(), InstallError> {
    let rules = &for_this_kernel(rules);
    match how.means {
        Means::Netlink => by_netlink(rules, how.wait)?,
        Means::Programs(programs) if programs.are_complete(&rules.families) => {
            iptables::apply(rules, programs, how.wait)?;
        }
        Means::Programs(programs) => {
            tracing::warn!(program = %programs.change(Family::Ip), "not on the PATH, using nf_tables by netlink");
            by_netlink(rules, how.wait)?;
        }
    }
    if let Some(seconds) = how.close_wait_secs {
        set_close_wait(Path::new(CLOSE_WAIT_SETTING), seconds).map_err(InstallError::CloseWait)?;
    }
    Ok(())
}

fn by_netlink(rules: &Rules, wait: bool) -> Result<(), InstallError> {
    if !privilege::raise().unwrap_or(false) {
        tracing::debug!("CAP_NET_ADMIN is not among the permitted capabilities");
    }
    let tables = rules.tables();
    for table in &tables {
        tracing::debug!(%table, "applying");
    }
    let unsupported = match Netlink::open().and_then(|netlink| netlink.replace(&tables)) {
        Ok(()) => {
            tracing::info!(tables = tables.len(), "redirection is in force");
            return Ok(());
        }
        Err(error) if error.is_unsupported() => error,
        Err(error) => return Err(error.into()),
    };
    let complete = |programs: &Programs| programs.are_complete(&rules.families);
    let Some(programs) = Programs::WITHOUT_NF_TABLES.into_iter().find(complete) else {
        return Err(unsupported.into());
    };
    tracing::warn!(error = %unsupported, program = %programs.change(Family::Ip), "falling back to iptables");
    Ok(iptables::apply(rules, programs, wait)?)
}

/// A kernel without IPv6 carries none, so there is nothing to redirect; the reference fails there.
pub(crate) fn for_this_kernel(rules: &Rules) -> Rules {
    let mut rules = rules.clone();
    let probe = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None);
    if rules.families.contains(&Family::Ip6) && probe.is_err_and(|error| error == Errno::AFNOSUPPORT) {
        tracing::info!("this kernel has no IPv6, redirecting IPv4 only");
        rules.families.retain(|family| *family != Family::Ip6);
    }
    rules
}

fn set_close_wait(setting: &Path, seconds: u32) -> io::Result<()> {
    std::fs::write(setting, format!("{seconds}\n"))?;
    tracing::info!(seconds, "conntrack's CLOSE_WAIT timeout set");
    Ok(())
}
