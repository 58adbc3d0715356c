//! Sockets and clocks: the only file that names `tokio::net` or reads a clock.
//!
//! It is the seam for a simulated network: what stands here is all that a simulation has to replace.

use rustix::net::{SendFlags, sockopt};
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    pin::pin,
    task::Poll,
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

/// Binds a listener. Must run inside a runtime. Its connections inherit the options from it, so that nothing has to be set on
/// each (tcp(7), socket(7)).
pub fn listen(addr: SocketAddr, backlog: Option<u32>, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    set_options(&socket, options)?;
    socket.bind(addr)?;
    socket.listen(backlog.unwrap_or(DEFAULT_BACKLOG))
}

/// Who says the first word on a connection that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstWord {
    /// We do, at once: TLS, a request, bytes that are there.
    Ours,
    /// Perhaps the server does.
    Open,
}

/// Connects, for at most `limit`.
pub async fn connect(addr: SocketAddr, options: &SocketOptions, limit: Duration, first: FirstWord) -> io::Result<TcpStream> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let socket = socket.map_err(explained)?;
    set_options(&socket, options)?;
    if first == FirstWord::Ours {
        // The last packet of TCP's handshake then goes with the first bytes, and not before them (tcp(7), TCP_QUICKACK).
        sockopt::set_tcp_quickack(&socket, false)?;
    }
    let mut connecting = pin!(socket.connect(addr));
    if let Poll::Ready(connected) = futures::poll!(&mut connecting) {
        return connected;
    }
    // Within a machine a connection is there at the next turn of the loop: mostly no clock has to be set.
    tokio::task::yield_now().await;
    match timeout(limit, connecting).await {
        Some(connected) => connected,
        None => Err(io::Error::new(io::ErrorKind::TimedOut, format!("connect timed out after {limit:?}"))),
    }
}

/// Whether an error says that the process, or the machine, has nothing left to make sockets of.
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// An error that says what to try, where the system's own words don't.
fn explained(error: io::Error) -> io::Error {
    if is_exhaustion(&error) {
        let remedy = "raise the proxy's limit of open files, or find out who holds connections";
        return io::Error::new(error.kind(), format!("{error}: {remedy}"));
    }
    error
}

/// Sets what every connection has (no delay) and what the operator asked for.
fn set_options(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
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

/// The last bytes of a connection: the kernel holds them back until the end of the writing direction, which must follow at
/// once, so that both are one packet. Returns how many it took; what is left, or everything, is written as usual.
pub fn write_last(socket: &TcpStream, bytes: &[u8]) -> usize {
    let send = || Ok(rustix::net::send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?);
    socket.try_io(tokio::io::Interest::WRITABLE, send).unwrap_or_default()
}

/// The address that the client dialed before the kernel redirected it (`SO_ORIGINAL_DST`).
pub fn original_dst(socket: &TcpStream, client: SocketAddr) -> io::Result<SocketAddr> {
    let addr = match client {
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
