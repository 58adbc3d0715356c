//! No ceremony: root and issuer are made here, renewed, and replaced.
//!
//! Every replica follows the objects that hold them ([`store`]) and serves what they say ([`follow`]). One of them leads, under
//! a Lease, and does what is due: it looks ([`fleet`]), decides ([`plan`], pure), and does one step at a time.
//!
//! Invariants: the root's key leaves this account's Secret for no other place; no root is dropped while a proxy is known that
//! needs it; whatever is waited for is said in an Event, a metric and the ConfigMap that `homarus identity rotate` reads.

mod fleet;
mod follow;
mod keeper;
mod plan;
mod store;

#[cfg(test)]
mod tests;

use std::time::Duration;

use clap::Args as ClapArgs;
use homarus_daemon::drain::Drain;
use homarus_daemon::metrics::Metrics;
use homarus_identity::issuer::Validity;
use homarus_model::duration;
use homarus_model::identity::Naming;
use kube::Client;

use super::followers::Followers;
use super::material::Current;
use super::service::Log;
use crate::external::lease::Lease;
use keeper::Keeper;
use plan::Lifetimes;
use store::Store;

/// Who makes and replaces certificates.
const LEASE: &str = "linkerd-identity-certificates";

/// The flags of this mode.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct ManagedArgs {
    /// Make root and issuer, keep them in the cluster, and renew them.
    #[arg(long)]
    pub(super) manage_certificates: bool,
    /// How long roots live that are made here.
    #[arg(long, default_value = "87600h", value_parser = duration::parse_go)]
    identity_root_lifetime: Duration,
    /// How long issuers live that are made here.
    #[arg(long, default_value = "8760h", value_parser = duration::parse_go)]
    identity_issuer_lifetime: Duration,
    /// How long an old root is believed at least, once nobody is known to need it: as long as pods may still be made with it.
    #[arg(long, default_value = "150s", value_parser = duration::parse_go)]
    identity_root_settle: Duration,
}

impl ManagedArgs {
    fn lifetimes(&self, validity: Validity) -> Lifetimes {
        Lifetimes {
            root: self.identity_root_lifetime,
            issuer: self.identity_issuer_lifetime,
            leaf: validity.lifetime + validity.skew * 2,
            spread: plan::SPREAD,
            settle: self.identity_root_settle,
        }
    }
}

/// What managing needs beside its flags.
pub(super) struct Around {
    pub(super) client: Client,
    pub(super) naming: Naming,
    pub(super) validity: Validity,
    pub(super) followers: Followers,
    pub(super) log: Log,
    pub(super) drain: Drain,
}

/// Begins to manage; answers when there is something in force, which may be as soon as it was made.
pub(super) async fn start(args: &ManagedArgs, around: Around, metrics: &Metrics) -> anyhow::Result<Current> {
    let Around { client, naming, validity, followers, log, drain } = around;
    let store = Store::new(client.clone(), &naming.control_plane_ns);
    let lease = Lease::new(client.clone(), &naming.control_plane_ns, LEASE);
    let keeper = Keeper::new(client, naming, store.clone(), args.lifetimes(validity), followers.clone(), log.clone(), metrics);
    tokio::spawn(lease.lead(drain.clone(), move || keeper.clone().run()));
    let current = follow::first(&store, validity, log.clone(), drain.clone()).await?;
    tokio::spawn(follow::tell(store, current.clone(), followers, drain));
    Ok(current)
}
