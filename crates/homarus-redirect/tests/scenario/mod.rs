//! Two network namespaces joined by a veth pair: a pod, and its peer outside. Everything vanishes with the value.
//!
//! In the pod, a stand-in for the proxy listens on its ports and answers each connection with what it knows: on which
//! port it came, and its original destination as the kernel tells it. Applications answer `direct <port>`.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use homarus_redirect::netns::Netns;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType};
use rustix::process::{Gid, Uid};

pub const POD: &str = "10.77.0.2";
pub const POD6: &str = "fd77::2";
pub const PEER: &str = "10.77.0.1";
pub const PEER6: &str = "fd77::1";
/// Another address of the peer, in a subnet of its own.
pub const FAR: &str = "10.88.0.1";
pub const FAR6: &str = "fd88::1";
pub const PROXY_UID: u32 = 2102;
pub const NOBODY: u32 = 65534;

const PATIENCE: Duration = Duration::from_secs(5);

pub struct Scenario {
    pub pod: Netns,
    pub peer: Netns,
}

impl Scenario {
    /// Needs root, and the programs `ip` (iproute2) and `nft` (nftables).
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let scenario = Self { pod: Netns::create().unwrap(), peer: Netns::create().unwrap() };
        let peer = format!("/proc/{}/fd/{}", std::process::id(), scenario.peer.as_fd().as_raw_fd());
        scenario.in_pod(&format!("ip link add eth0 type veth peer name eth0 netns {peer}"));
        let ready = "ip link set lo up; ip link set eth0 up";
        scenario.in_pod(ready);
        scenario.in_peer(ready);
        scenario.in_pod(&format!("ip addr add {POD}/24 dev eth0; ip addr add {POD6}/64 dev eth0 nodad"));
        scenario.in_peer(&format!("ip addr add {PEER}/24 dev eth0; ip addr add {PEER6}/64 dev eth0 nodad"));
        scenario.in_peer(&format!("ip addr add {FAR}/32 dev eth0; ip addr add {FAR6}/128 dev eth0 nodad"));
        scenario.in_pod(&format!("ip route add default via {PEER}; ip -6 route add default via {PEER6}"));
        scenario.wait_for_link();
        scenario
    }

    /// Both ends of a veth pair need a moment before IPv6 neighbours answer.
    fn wait_for_link(&self) {
        let service = self.serve(Place::Peer, &[PEER, PEER6]);
        for address in [PEER, PEER6] {
            let deadline = Instant::now() + PATIENCE;
            while self.dial(Place::Pod, address, service).starts_with("failed") {
                assert!(Instant::now() < deadline, "no link to {address}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn netns(&self, place: Place) -> &Netns {
        match place {
            Place::Pod => &self.pod,
            Place::Peer => &self.peer,
        }
    }

    pub fn in_pod(&self, script: &str) -> String {
        shell(&self.pod, script)
    }

    pub fn in_peer(&self, script: &str) -> String {
        shell(&self.peer, script)
    }

    /// Runs a program in the pod.
    pub fn run(&self, mut command: Command) -> Output {
        self.pod.enter(move || command.output()).unwrap().unwrap()
    }

    /// Runs our program in the pod, as root.
    pub fn redirect(&self, arguments: &str) -> Output {
        let mut command = Command::new(program());
        command.args(arguments.split_whitespace());
        self.run(command)
    }

    /// Sets rules and expects that to work.
    pub fn init(&self, arguments: &str) {
        let ports = "init --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102";
        let output = self.redirect(&format!("{ports} {arguments}"));
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Starts the stand-in for the proxy.
    pub fn start_proxy(&self) {
        let listeners =
            [("outbound", "127.0.0.1:4140"), ("outbound", "[::1]:4140"), ("inbound", "0.0.0.0:4143"), ("inbound", "[::]:4143")];
        for (name, address) in listeners {
            let listener = self.pod.enter(|| listen(address.parse().unwrap())).unwrap();
            thread::spawn(move || answer(&listener, |connection| format!("{name} {}", original_dst(connection))));
        }
    }

    /// Starts an application that listens on one free port of several addresses; gives the port.
    pub fn serve(&self, place: Place, addresses: &[&str]) -> u16 {
        self.serve_at(place, addresses, 0)
    }

    /// Starts an application that listens on this port.
    pub fn serve_at(&self, place: Place, addresses: &[&str], mut port: u16) -> u16 {
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            let listener = self.netns(place).enter(|| listen(SocketAddr::new(address, port))).unwrap();
            port = listener.local_addr().unwrap().port();
            thread::spawn(move || answer(&listener, |_| format!("direct {port}")));
        }
        port
    }

    /// Connects; gives the answer, or `failed` and why.
    pub fn dial(&self, from: Place, to: &str, port: u16) -> String {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.netns(from).enter(|| ask(TcpStream::connect_timeout(&to, PATIENCE))).unwrap()
    }

    /// Connects from the pod as another user or group.
    pub fn dial_as(&self, uid: u32, gid: u32, to: &str, port: u16) -> String {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let dial = || {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            ask(TcpStream::connect_timeout(&to, PATIENCE))
        };
        self.pod.enter(dial).unwrap()
    }

    /// Connects from the peer to the pod, from a given address of the peer.
    pub fn dial_from(&self, source: &str, to: &str, port: u16) -> String {
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let connect = || {
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &SocketAddrAny::from(source))?;
            rustix::net::connect(&socket, &SocketAddrAny::from(to))?;
            Ok(TcpStream::from(socket))
        };
        self.peer.enter(|| ask(connect())).unwrap()
    }

    /// A table as `nft` shows it, without counters.
    pub fn listed(&self, table: &str) -> String {
        self.in_pod(&format!("nft -s list table {table}"))
    }
}

#[derive(Clone, Copy)]
pub enum Place {
    Pod,
    Peer,
}

pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_homarus-redirect"))
}

pub fn text(output: &Output) -> String {
    let mut text = format!("{}: ", output.status);
    write!(text, "{}", String::from_utf8_lossy(&output.stdout)).unwrap();
    write!(text, "{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    text
}

fn shell(netns: &Netns, script: &str) -> String {
    let run = || Command::new("sh").args(["-ec", script]).output().unwrap();
    let output = netns.enter(run).unwrap();
    assert!(output.status.success(), "`{script}` failed (is it installed?): {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn listen(address: SocketAddr) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    rustix::net::bind(&socket, &SocketAddrAny::from(address)).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    TcpListener::from(socket)
}

/// Ends with the test's process.
fn answer(listener: &TcpListener, words: impl Fn(&TcpStream) -> String) {
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let words = words(&connection);
        let _client_may_be_gone = connection.write_all(words.as_bytes());
    }
}

fn ask(connection: std::io::Result<TcpStream>) -> String {
    let read = connection.and_then(|mut connection| {
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    });
    read.unwrap_or_else(|error| format!("failed: {error}"))
}

fn original_dst(connection: &TcpStream) -> SocketAddr {
    if connection.local_addr().unwrap().is_ipv4() {
        SocketAddr::V4(sockopt::ip_original_dst(connection).unwrap())
    } else {
        SocketAddr::V6(sockopt::ipv6_original_dst(connection).unwrap())
    }
}
