//! Doing what the machine of `pod` decides: one worker per pod, and what workers share.
//!
//! The path of a pod: [`worker`] asks its machine what to do; [`place`] makes namespaces, network and [`volumes`];
//! [`start`] turns a container's spec into an [`order`] (program by [`images`], environment by [`env`]) and a
//! process; [`ask`] puts probes and hooks; [`logs`] keeps what it says; [`command`] runs what users want in it; [`publish`]
//! tells the API.

pub(crate) mod ask;
pub(crate) mod claims;
pub(crate) mod command;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod fields;
pub(crate) mod images;
pub(crate) mod logs;
pub(crate) mod objects;
pub(crate) mod order;
pub(crate) mod payload;
mod place;
pub(crate) mod presence;
mod publish;
mod start;
#[cfg(test)]
mod tests;
mod volumes;
pub(crate) mod worker;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Client;

use super::Config;
use super::net::Network;
use super::sandbox::Spawner;
use events::Events;
use fields::Surroundings;
use images::Images;
use objects::Objects;
use order::Setting;

/// What all workers of a node share.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) network: Network,
    pub(crate) spawner: Spawner,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) events: Events,
    pub(crate) setting: Setting,
    pub(crate) started: Timestamp,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Context {
    /// What a pod can be told about where it is.
    pub(crate) fn around(&self, pod_ip: Option<std::net::Ipv4Addr>) -> Surroundings {
        let (cpus, memory) = presence::machine();
        #[expect(clippy::cast_precision_loss, reason = "no machine has 2^52 bytes of memory")]
        let (cpus, memory) = (cpus as f64, memory as f64);
        Surroundings { host_ip: self.network.gateway(), pod_ip, cpus, memory }
    }
}

/// The containers of a pod in the order of the machine's slots: init containers first.
pub(crate) fn container_at(pod: &Pod, slot: usize) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).nth(slot)
}
