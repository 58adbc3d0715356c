//! Leads a workload's TCP traffic into its proxy, and tells when it does not.
//!
//! # Life of a redirected connection
//! A program in the workload's network namespace connects. Its first packet meets the nat hook `output`: unless the
//! proxy itself sent it, or it leaves through `lo`, or its port is skipped, the kernel rewrites its destination to the
//! proxy's outbound port; the proxy asks the kernel for the original destination. A packet from outside meets
//! `prerouting` the same way and ends at the inbound port. Nothing but TCP is touched.
//!
//! Read in this order:
//! - [`config`]: what to redirect, resolved and checked;
//! - [`rules`]: the rules that follow from it, pure, one list per direction;
//! - [`nft`]: tables, chains and rules of nf_tables, and one netlink socket that applies them in one atomic batch;
//! - [`iptables`]: the same rules as commands for the `iptables` programs, where nf_tables can't be used or isn't wanted;
//! - [`install`]: chooses between the two and applies;
//! - [`netns`], [`privilege`]: which network namespace, and with which right;
//! - [`validator`]: proves from inside that the rules are there;
//! - [`readiness`]: waits for the proxy before the application starts, and ends it afterwards;
//! - [`cni`]: the same rules for a pod that may not have `NET_ADMIN`, set by its node when its network is made;
//! - [`cni_install`]: puts that plugin onto a node, and takes it away;
//! - [`repair`]: deletes pods that started before the plugin was there;
//! - [`api`]: the few questions to the Kubernetes API that these three have.
//!
//! Absent on purpose: asynchronous I/O (each program does one thing at a time), the `nft` and `sysctl` programs (images
//! are empty), and a Kubernetes library.

pub mod api;
pub mod cni;
pub mod cni_install;
pub mod config;
mod duration;
pub mod install;
pub mod iptables;
pub mod netns;
pub mod nft;
pub mod privilege;
pub mod readiness;
pub mod repair;
pub mod rules;
pub mod validator;

pub use duration::{InvalidDuration, parse_duration};
