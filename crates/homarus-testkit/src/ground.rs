//! Where scenarios take place: a client's and a server's network namespace, joined by a veth pair.

use homarus_redirect::{
    config::{Config, PortRange},
    install::{How, Means, install},
    netns::Netns,
    rules::Rules,
};
use rustix::process::{Gid, Uid};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU16,
    os::fd::{AsFd, AsRawFd},
    os::unix::process::CommandExt,
    process::{Child, Command, Output},
    time::Duration,
};

/// The account of proxies: its connections are not redirected.
pub const PROXY_UID: u32 = 2102;
/// Where connections from the workload go.
pub const OUTBOUND: u16 = 4140;
/// Where connections toward the workload go.
pub const INBOUND: u16 = 4143;
/// The proxy's admin server.
pub const ADMIN: u16 = 4191;
/// Ports of applications that are not meshed: connections to them reach the application itself.
pub const UNMESHED: std::ops::RangeInclusive<u16> = 7000..=7999;

/// One network namespace with its address.
pub struct Site {
    /// The namespace.
    pub netns: Netns,
    /// Its address on the link.
    pub ip: Ipv4Addr,
    /// Its other address there.
    pub ip6: Ipv6Addr,
}

/// A program that runs; killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two sites, joined.
pub struct Ground {
    /// Where clients are.
    pub client: Site,
    /// Where servers are.
    pub server: Site,
}

impl Ground {
    /// Makes both. Needs root and the program `ip`.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let ip6 = |n| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n);
        let site = |n: u8| Site { netns: Netns::create().unwrap(), ip: Ipv4Addr::new(10, 77, 0, n), ip6: ip6(n.into()) };
        let ground = Self { client: site(1), server: site(2) };
        let peer = format!("/proc/{}/fd/{}", std::process::id(), ground.server.netns.as_fd().as_raw_fd());
        ground.client.shell(&format!("ip link add eth0 type veth peer name eth0 netns {peer}"));
        for (site, other) in [(&ground.client, &ground.server), (&ground.server, &ground.client)] {
            site.shell("ip link set lo up; ip link set eth0 up");
            site.shell(&format!("ip addr add {}/24 dev eth0; ip route add default via {}", site.ip, other.ip));
            // Without the second that it takes to find out whether somebody else has the address.
            let v6 = format!("ip addr add {}/64 dev eth0 nodad; ip -6 route add default via {}", site.ip6, other.ip6);
            site.shell(&v6);
        }
        ground
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// Leads all connections into the proxy, as `proxy-init` does in a pod.
    pub fn redirect(&self) {
        let port = |n| NonZeroU16::new(n).unwrap();
        let config = Config {
            inbound_port: port(INBOUND),
            outbound_port: port(OUTBOUND),
            proxy_uid: Some(PROXY_UID),
            proxy_gid: None,
            redirect_only: Vec::new(),
            skip_inbound: [(4190, 4191), (*UNMESHED.start(), *UNMESHED.end())].map(|(a, b)| PortRange::new(a, b).unwrap()).into(),
            skip_outbound: Vec::new(),
            skip_sources: Vec::new(),
            ipv6: true,
        };
        let how = How { means: Means::Netlink, netns: None, wait: false, close_wait_secs: None };
        self.netns.enter(|| install(&Rules::of(&config), &how)).unwrap().unwrap();
    }

    /// Runs a script here and gives what it prints; it has to succeed.
    pub fn shell(&self, script: &str) -> String {
        let output = self.run(Command::new("sh").args(["-ec", script]));
        assert!(output.status.success(), "`{script}` failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a program here, to its end.
    pub fn run(&self, command: &mut Command) -> Output {
        self.netns.enter(|| command.output()).unwrap().unwrap()
    }

    /// Starts a program here; it ends with the value.
    pub fn spawn(&self, command: &mut Command) -> Running {
        Running(self.netns.enter(|| command.spawn()).unwrap().unwrap())
    }

    /// Runs a program here whose connections are not redirected: a client outside the mesh.
    pub fn run_unmeshed(&self, command: &mut Command) -> Output {
        self.run(command.uid(PROXY_UID).gid(PROXY_UID))
    }

    /// A listener on all addresses of this site, of both families; port 0 picks one.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.listen_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// A listener on one address.
    pub fn listen_at(&self, addr: SocketAddr) -> TcpListener {
        self.netns.enter(|| TcpListener::bind(addr)).unwrap().unwrap()
    }

    /// Connects as an application does.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.netns.enter(|| patient(TcpStream::connect_timeout(&to, crate::PATIENCE)?)).unwrap()
    }

    /// Connects as a client outside the mesh does.
    pub fn connect_unmeshed(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let dial = || {
            rustix::thread::set_thread_res_gid(Gid::from_raw(PROXY_UID), Gid::from_raw(PROXY_UID), Gid::from_raw(PROXY_UID))?;
            rustix::thread::set_thread_res_uid(Uid::from_raw(PROXY_UID), Uid::from_raw(PROXY_UID), Uid::from_raw(PROXY_UID))?;
            patient(TcpStream::connect_timeout(&to, crate::PATIENCE)?)
        };
        self.netns.enter(dial).unwrap()
    }

    /// An address here, of IPv6.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ip6), port)
    }

    /// An address here.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }
}

/// No read or write of a test waits for ever.
fn patient(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_read_timeout(Some(Duration::from_secs(15)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(15)))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
