//! Proves from inside a workload that outbound traffic is redirected.
//!
//! It listens where the proxy will, before the proxy does, and connects to an address that nothing should answer. Only
//! redirection can bring that connection back; the token proves that it came back to this very process.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The exit code of a failed validation, for which the CNI repair controller looks.
pub const FAILURE_EXIT_CODE: u8 = 95;

const TOKEN_LEN: usize = 64;
const ALPHANUMERICS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// A token goes into an empty socket buffer at once; whoever can't take it isn't us.
const SERVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why traffic isn't known to be redirected.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    /// The proxy's port is taken or may not be used.
    #[error("can't listen on {address}: {error}; the validator must run before the proxy")]
    Listen {
        /// The listen address.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// No randomness, no threads.
    #[error("the system refused what validation needs: {0}")]
    System(io::Error),
    /// Nothing answered, so nothing redirected.
    #[error("{address} was not redirected to this process: {error}{HINT}")]
    NotRedirected {
        /// The connect address.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// Something else answered.
    #[error("the connection to {address} was answered by something else than this process{HINT}")]
    Stranger {
        /// The connect address.
        address: SocketAddr,
    },
}

const HINT: &str = ". No redirection rules are in force in this pod: check that the linkerd-cni DaemonSet runs on this \
                    node and that its plugin is last in /etc/cni/net.d, then delete the pod, or install without CNI";

/// Succeeds if a connection to `connect` ends at `listen`. Takes at most `timeout`.
pub fn validate(listen: SocketAddr, connect: SocketAddr, timeout: Duration) -> Result<(), ValidationError> {
    let deadline = Instant::now() + timeout;
    let listener = TcpListener::bind(listen).map_err(|error| ValidationError::Listen { address: listen, error })?;
    tracing::info!(%listen, "listening for connections");
    let token = new_token().map_err(ValidationError::System)?;
    tracing::debug!(token = %String::from_utf8_lossy(&token).trim_end());
    thread::Builder::new().name("validator".to_string()).spawn(move || serve(&listener, token)).map_err(ValidationError::System)?;
    tracing::info!(%connect, "connecting");
    let answer = ask(connect, deadline).map_err(|error| ValidationError::NotRedirected { address: connect, error })?;
    if answer != token {
        return Err(ValidationError::Stranger { address: connect });
    }
    Ok(())
}

/// Answers every connection with the token until the process ends.
fn serve(listener: &TcpListener, token: [u8; TOKEN_LEN]) {
    for connection in listener.incoming() {
        let answered = connection.and_then(|mut connection| {
            connection.set_write_timeout(Some(SERVE_TIMEOUT))?;
            connection.write_all(&token)?;
            connection.peer_addr()
        });
        match answered {
            Ok(client) => tracing::debug!(%client, "answered with the token"),
            Err(error) => {
                tracing::warn!(%error, "a connection failed");
                // Without descriptors, accepting fails at once, again and again.
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn ask(address: SocketAddr, deadline: Instant) -> io::Result<[u8; TOKEN_LEN]> {
    let mut connection = TcpStream::connect_timeout(&address, time_left(deadline)?)?;
    tracing::debug!(local = %connection.local_addr()?, "connected");
    let mut answer = [0; TOKEN_LEN];
    let mut filled = 0;
    while let Some(rest) = answer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        connection.set_read_timeout(Some(time_left(deadline)?))?;
        match connection.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// 63 random letters and digits and a line feed, as in the reference.
fn new_token() -> io::Result<[u8; TOKEN_LEN]> {
    let mut token = [b'\n'; TOKEN_LEN];
    let mut places = token.iter_mut().take(TOKEN_LEN - 1);
    let mut random = [0; TOKEN_LEN];
    // Each round fills all but a few places: a byte is of use with 62 * 4 / 256.
    loop {
        let filled = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
        for byte in random.iter().take(filled) {
            let letter = ALPHANUMERICS.get(usize::from(byte / 4));
            let Some(letter) = letter else { continue };
            let Some(place) = places.next() else { return Ok(token) };
            *place = *letter;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_63_alphanumerics_and_a_line_feed_and_differ() {
        let token = new_token().unwrap();
        assert!(token[..63].iter().all(u8::is_ascii_alphanumeric));
        assert_eq!(token[63], b'\n');
        assert_ne!(token, new_token().unwrap());
    }

    #[test]
    fn a_stranger_on_the_connect_address_does_not_validate() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        let served = thread::spawn(move || stranger.accept().unwrap().0.write_all(&[b'x'; TOKEN_LEN]));
        let result = validate("127.0.0.1:0".parse().unwrap(), address, Duration::from_secs(5));
        assert!(matches!(result, Err(ValidationError::Stranger { .. })), "{result:?}");
        served.join().unwrap().unwrap();
    }

    #[test]
    fn silence_ends_at_the_timeout() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let result = validate("127.0.0.1:0".parse().unwrap(), address, Duration::from_millis(50));
        let Err(ValidationError::NotRedirected { error, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
