//! Sockets and clocks: the only file that names `tokio::net` or reads a clock.
//!
//! It is the seam for a simulated network: what stands here is all that a simulation has to replace.

use rustix::net::sockopt;
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

pub use tokio::net::{TcpListener, TcpStream};
pub use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Options of a socket that the operator can set; none: the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// How long a connection is silent before the kernel probes it.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged before the connection is given up.
    pub user_timeout: Option<Duration>,
}

/// Connections that wait to be accepted, unless the operator says otherwise; the kernel's `somaxconn` caps it.
const DEFAULT_BACKLOG: u32 = 4096;

/// The time now.
pub fn now() -> Instant {
    Instant::now()
}

/// Runs a future for at most `limit`; none when the time is over.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Binds a listener. Must run inside a runtime.
pub fn listen(addr: SocketAddr, backlog: Option<u32>) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(backlog.unwrap_or(DEFAULT_BACKLOG))
}

/// Connects, for at most `limit`.
pub async fn connect(addr: SocketAddr, options: &SocketOptions, limit: Duration) -> io::Result<TcpStream> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    set_options(&socket, options)?;
    match timeout(limit, socket.connect(addr)).await {
        Some(connected) => connected,
        None => Err(io::Error::new(io::ErrorKind::TimedOut, format!("connect timed out after {limit:?}"))),
    }
}

/// Sets what every connection has (no delay) and what the operator asked for.
pub fn set_options(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    if let Some(idle) = options.keepalive {
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, idle.max(Duration::from_secs(1)))?;
    }
    if let Some(limit) = options.user_timeout {
        sockopt::set_tcp_user_timeout(socket, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// The address that the client dialed before the kernel redirected it (`SO_ORIGINAL_DST`).
pub fn original_dst(socket: &TcpStream) -> io::Result<SocketAddr> {
    let addr = match unmapped(socket.peer_addr()?) {
        SocketAddr::V4(_) => SocketAddr::V4(sockopt::ip_original_dst(socket)?),
        SocketAddr::V6(_) => SocketAddr::V6(sockopt::ipv6_original_dst(socket)?),
    };
    Ok(unmapped(addr))
}

/// An IPv4 address that a dual-stack socket shows as IPv6, as IPv4 again.
pub fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, |v4| SocketAddr::new(v4.into(), addr.port())),
        IpAddr::V4(_) => addr,
    }
}
