//! The network of the pods, in a namespace of its own that nothing holds but this process.
//!
//! ```text
//!  machine ── homarus0 ═ up ── the node's namespace ── p0a2a000b ═ eth0 ── a pod
//!  10.42.0.2                    10.42.0.1  Services,                       10.42.0.11
//!                               DNS, the API
//! ```
//!
//! Pods are routed, not bridged: each has one address and its default route to the gateway `.1`, so that every
//! packet, also the answer of a pod next door, passes the node's namespace, where Services are translated. Outside
//! there is one veth and one nf_tables table, both gone with the process.

mod addresses;
pub(crate) mod dns;
mod link;
mod netlink;
mod nft;
pub(crate) mod rules;
#[cfg(test)]
mod tests;
pub(crate) mod zone;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;

use super::sys;
use addresses::Addresses;
use link::Route;
use rules::Ruleset;

const MTU: u32 = 1500;
const UPLINK: &str = "up";
const POD_INTERFACE: &str = "eth0";
/// What a killed node had is gone after so long at most, and looked for so often.
const LEFTOVERS_GO: Duration = Duration::from_secs(2);
const LEFTOVERS_LOOK: Duration = Duration::from_millis(20);
/// The label that ties an EndpointSlice to its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the network is made of.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where pods get their addresses from.
    pub pods: Ipv4Net,
    /// Where Services get theirs from.
    pub services: Ipv4Net,
    /// The interface on the machine's side, also the name of the table there.
    pub interface: String,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            pods: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16),
            services: Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16),
            interface: "homarus0".into(),
        }
    }
}

/// Why the network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Not root.
    #[error("making network namespaces needs root; run this with sudo")]
    NotRoot,
    /// Another node has the name.
    #[error("the interface {0} exists already: is another node up? give this one another name")]
    Taken(String),
    /// The machine has another way there.
    #[error(
        "the machine has a route to {0} already: is another node up, or a VPN? configure another network for pods or \
         Services"
    )]
    Clash(Ipv4Net),
    /// The network is too small for the node's own addresses.
    #[error("the pod network {0} is too small; give it a prefix of at most /28")]
    TooSmall(Ipv4Net),
    /// All addresses are taken.
    #[error("no free address in the pod network {0}: delete pods or configure a larger one")]
    Exhausted(Ipv4Net),
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn kernel(what: &str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel { what: what.into(), source }
}

/// The node's network. Dropping the last handle removes all of it.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    net: OwnedFd,
    addresses: Mutex<Addresses>,
    applied: Mutex<Option<Ruleset>>,
    _masquerade: nft::Masquerade,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The kernel would remove it with the namespace, but some time later.
        let _ = link::remove(&self.config.interface);
    }
}

impl Network {
    /// Makes the network. Start it before the API, which listens in it.
    pub fn create(config: NetworkConfig) -> Result<Self, NetworkError> {
        if !rustix::process::geteuid().is_root() {
            return Err(NetworkError::NotRoot);
        }
        if config.pods.prefix_len() > 28 {
            return Err(NetworkError::TooSmall(config.pods));
        }
        let begun = Instant::now();
        let (net, masquerade) = loop {
            match build(&config) {
                // The kernel takes a moment to clear away what a killed node had.
                Err(NetworkError::Taken(_) | NetworkError::Clash(_)) if begun.elapsed() < LEFTOVERS_GO => {
                    std::thread::sleep(LEFTOVERS_LOOK);
                }
                built => break built?,
            }
        };
        Ok(Self(Arc::new(Inner {
            addresses: Mutex::new(Addresses::new(config.pods)),
            applied: Mutex::new(None),
            net,
            config,
            _masquerade: masquerade,
        })))
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &NetworkConfig {
        &self.0.config
    }

    /// The node's address on the pod network: gateway, DNS server, and where the API may listen.
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(&self.0.config)
    }

    /// The machine's address on the pod network.
    pub fn machine(&self) -> Ipv4Addr {
        machine(&self.0.config)
    }

    /// Listens on the gateway address: reachable by pods and by the machine, by nobody else.
    pub fn listen_tcp(&self, port: u16) -> io::Result<TcpListener> {
        let address = SocketAddrV4::new(self.gateway(), port);
        let listener = sys::within(&self.0.net, || TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(crate) fn listen_udp(&self, port: u16) -> io::Result<UdpSocket> {
        let address = SocketAddrV4::new(self.gateway(), port);
        let socket = sys::within(&self.0.net, || UdpSocket::bind(address))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Dials from the node, as a kubelet would. `net` is a pod's namespace, or none for the node's own.
    pub(crate) async fn dial(&self, net: Option<&OwnedFd>, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = sys::within(net.unwrap_or(&self.0.net), || match to {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        })?;
        socket.connect(to).await
    }

    /// Joins a pod's namespace to the network.
    pub(crate) fn attach(&self, pod: &OwnedFd) -> Result<Attachment, NetworkError> {
        let config = &self.0.config;
        let address = self.0.addresses.lock().take();
        let address = address.ok_or(NetworkError::Exhausted(config.pods))?;
        let attachment = Attachment { network: self.clone(), address };
        let gateway = self.gateway();
        let name = attachment.interface();
        sys::within(&self.0.net, || {
            link::add_veth(&name, POD_INTERFACE, MTU, pod)?;
            link::up(&name)
        })
        .map_err(kernel("making the pod's link"))?;
        sys::within(pod, || {
            link::up("lo")?;
            link::up(POD_INTERFACE)?;
            link::address(POD_INTERFACE, address)?;
            let to_gateway = Ipv4Net::from(gateway);
            let dev = POD_INTERFACE;
            link::route(Route { to: to_gateway, dev, via: None, src: address })?;
            let all = Ipv4Net::default();
            link::route(Route { to: all, dev, via: Some(gateway), src: address })
        })
        .map_err(kernel("configuring the pod's link"))?;
        let to = Ipv4Net::from(address);
        sys::within(&self.0.net, || link::route(Route { to, dev: &name, via: None, src: gateway }))
            .map_err(kernel("routing to the pod"))?;
        Ok(attachment)
    }

    /// Makes Services what the rules say; does nothing when they say what they said.
    pub(crate) fn apply(&self, rules: Ruleset) -> io::Result<()> {
        let mut applied = self.0.applied.lock();
        if applied.as_ref() == Some(&rules) {
            return Ok(());
        }
        let (services, gateway) = (self.0.config.services, self.gateway());
        sys::within(&self.0.net, || nft::replace_services(&rules, services, gateway))?;
        *applied = Some(rules);
        Ok(())
    }
}

/// A pod's place on the network; given back when dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    network: Network,
    pub(crate) address: Ipv4Addr,
}

impl Attachment {
    fn interface(&self) -> String {
        format!("p{:08x}", u32::from(self.address))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let name = self.interface();
        let _ = sys::within(&self.network.0.net, || link::remove(&name));
        self.network.0.addresses.lock().give_back(self.address);
    }
}

fn gateway(config: &NetworkConfig) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(config.pods.network()) + 1)
}

fn machine(config: &NetworkConfig) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(config.pods.network()) + 2)
}

/// The namespace and the link to the machine; nothing is left when it fails.
fn build(config: &NetworkConfig) -> Result<(OwnedFd, nft::Masquerade), NetworkError> {
    let net = sys::new_net().map_err(kernel("making a network namespace"))?;
    link::add_veth(&config.interface, UPLINK, MTU, &net).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => NetworkError::Taken(config.interface.clone()),
        _ => kernel("making the link to the machine")(error),
    })?;
    let built = inside(&net, config).and_then(|()| outside(config));
    let masquerade = built.inspect_err(|_| {
        let _ = link::remove(&config.interface);
    })?;
    Ok((net, masquerade))
}

/// The node's namespace: it forwards, and it is the gateway.
fn inside(net: &OwnedFd, config: &NetworkConfig) -> Result<(), NetworkError> {
    let (gateway, machine) = (gateway(config), machine(config));
    sys::within(net, || {
        for (name, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
            // A pod that reaches itself through a Service is no reason to tell it of a better way.
            ("conf/all/send_redirects", "0"),
            ("conf/default/send_redirects", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)?;
        }
        link::up("lo")?;
        link::address("lo", gateway)?;
        link::up(UPLINK)?;
        let dev = UPLINK;
        link::route(Route { to: machine.into(), dev, via: None, src: gateway })?;
        let all = Ipv4Net::default();
        link::route(Route { to: all, dev, via: Some(machine), src: gateway })
    })
    .map_err(kernel("configuring the node's namespace"))
}

/// The machine's side: it reaches pods and Services, and hides the pods from what is beyond.
fn outside(config: &NetworkConfig) -> Result<nft::Masquerade, NetworkError> {
    let (gateway, machine) = (gateway(config), machine(config));
    let dev = config.interface.as_str();
    let configure = || {
        link::up(dev)?;
        link::address(dev, machine)?;
        // Of this interface alone. Whether the machine forwards beyond itself is for its owner to say.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{dev}/forwarding"), "1")
    };
    configure().map_err(kernel("configuring the machine's side of the link"))?;
    let route = |to, via, network| {
        link::route(Route { to, dev, via, src: machine }).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => NetworkError::Clash(network),
            _ => kernel("routing to pods and Services")(error),
        })
    };
    route(gateway.into(), None, config.pods)?;
    route(config.pods, Some(gateway), config.pods)?;
    route(config.services, Some(gateway), config.services)?;
    nft::masquerade(dev, config.pods, dev).map_err(kernel("hiding the pods behind the machine"))
}

/// A Service without an address of its own (`clusterIP: None`, or a mere alias).
pub(crate) fn headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.cluster_ip.as_deref()).is_none_or(|ip| ip.is_empty() || ip == "None")
}
