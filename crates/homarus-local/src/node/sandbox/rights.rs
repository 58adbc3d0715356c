//! What a container's process may do: capabilities by name, and giving up all others.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::wire::Rights;

/// Names in the order of their numbers (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What container runtimes grant without being asked.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const ALL: u64 = (1 << NAMES.len()) - 1;

fn bit(name: &str) -> Option<u64> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|n| *n == name).map(|at| 1 << at)
}

/// A capability that Linux doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability to {verb}: {name:?}")]
pub(crate) struct UnknownCapability {
    verb: &'static str,
    name: String,
}

/// The sets that `securityContext.capabilities` asks for: what may be had, and what was added by name.
pub(crate) fn capabilities(privileged: bool, add: &[String], drop: &[String]) -> Result<(u64, u64), UnknownCapability> {
    let mut set = if privileged { ALL } else { DEFAULT.iter().filter_map(|name| bit(name)).sum() };
    let mut added = 0;
    let of = |verb, name: &String| match name.as_str() {
        "ALL" | "all" => Ok(ALL),
        name => bit(&name.to_uppercase()).ok_or_else(|| UnknownCapability { verb, name: name.into() }),
    };
    for name in drop {
        set &= !of("drop", name)?;
    }
    for name in add {
        added |= of("add", name)?;
    }
    Ok((set | added, added))
}

/// Becomes the user it should be, with no more than the rights it should have.
pub(crate) fn assume(rights: &Rights) -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?.permitted;
    let may = CapabilitySet::from_bits_retain(rights.capabilities) & held;
    let ambient = CapabilitySet::from_bits_retain(rights.ambient) & may;
    for at in 0..NAMES.len() {
        let one = CapabilitySet::from_bits_retain(1 << at);
        if held.contains(one) && !may.contains(one) {
            rustix::thread::remove_capability_from_bounding_set(one)?;
        }
    }
    rustix::thread::set_keep_capabilities(true)?;
    let groups: Vec<Gid> = rights.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(rights.uid), Gid::from_raw(rights.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // Root keeps what it may have; anyone else only what was named, which survives the exec as ambient.
    let keep = if rights.uid == 0 { may } else { ambient };
    rustix::thread::set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable: ambient })?;
    rustix::thread::clear_ambient_capability_set()?;
    if rights.uid != 0 {
        for at in 0..NAMES.len() {
            let one = CapabilitySet::from_bits_retain(1 << at);
            if ambient.contains(one) {
                rustix::thread::configure_capability_in_ambient_set(one, true)?;
            }
        }
    }
    if rights.no_new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults_are_what_runtimes_grant() {
        let (set, added) = capabilities(false, &[], &[]).unwrap();
        assert_eq!(set.count_ones(), 14);
        assert_eq!(set & bit("NET_ADMIN").unwrap(), 0);
        assert_eq!(added, 0);
    }

    #[test]
    fn dropping_all_leaves_what_was_added() {
        let (set, added) = capabilities(false, &["NET_ADMIN".into(), "CAP_NET_RAW".into()], &["ALL".into()]).unwrap();
        assert_eq!(set, bit("NET_ADMIN").unwrap() | bit("NET_RAW").unwrap());
        assert_eq!(added, set);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = capabilities(false, &["FLY".into()], &[]).unwrap_err();
        assert_eq!(error.to_string(), "unknown capability to add: \"FLY\"");
    }
}
