//! The right to change the packet filter.
//!
//! In a pod, this program runs as an ordinary user. The file capability may be written without the effective bit
//! (`cap_net_admin,cap_net_raw+p`), so that the same file also starts in containers that drop everything, as the
//! validator and await do; it then raises what it was permitted by itself.

use rustix::io;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities};

const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// Makes what this thread is permitted effective. Tells whether the packet filter may be changed now.
pub fn raise() -> io::Result<bool> {
    let sets = capabilities(None)?;
    let usable = sets.permitted.intersection(NEEDED);
    if !sets.effective.contains(usable) {
        let effective = sets.effective.union(usable);
        set_capabilities(None, CapabilitySets { effective, ..sets })?;
    }
    Ok(usable.contains(CapabilitySet::NET_ADMIN))
}

/// Lets programs started by this thread have the same rights, as the `iptables` programs need.
pub fn pass_on() -> io::Result<()> {
    let sets = capabilities(None)?;
    let usable = sets.permitted.intersection(NEEDED);
    let inheritable = sets.inheritable.union(usable);
    set_capabilities(None, CapabilitySets { inheritable, ..sets })?;
    for capability in usable.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}
