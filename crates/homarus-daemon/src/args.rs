//! Command lines as charts write them.
//!
//! Linkerd's controllers are Go programs: their long flags have one dash (`-log-level=info`), and listen addresses may
//! lack a host (`:8080`). Charts pass them verbatim, so ours accept them too. (Their durations are
//! `homarus_model::duration::parse_go`.)

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Gives single-dash long flags their second dash: `-issuer x` becomes `--issuer x`; `-v` and `--` stay.
pub fn double_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut verbatim = false;
    let mut doubled = Vec::new();
    for arg in args {
        let text = arg.to_str().unwrap_or_default();
        let long = text.len() > 2 && text.starts_with('-') && text.as_bytes()[1].is_ascii_alphabetic();
        verbatim |= text == "--";
        if long && !verbatim {
            doubled.push(format!("-{text}").into());
        } else {
            doubled.push(arg);
        }
    }
    doubled
}

/// Where to listen: `HOST:PORT`, or `:PORT` for every address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// None means every address.
    pub ip: Option<IpAddr>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl Listen {
    /// The addresses to try in order: all families first, then IPv4 where there is no IPv6.
    pub fn candidates(self) -> Vec<SocketAddr> {
        let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        match self.ip {
            Some(ip) => vec![SocketAddr::new(ip, self.port)],
            None => any.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect(),
        }
    }

    /// Takes the port.
    #[cfg(feature = "admin")]
    pub async fn bind(self) -> std::io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::bind(self.candidates().as_slice()).await
    }
}

/// A listen address that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a listen address; write IP:PORT or :PORT")]
pub struct InvalidListen(String);

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidListen(text.to_owned());
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Self { ip: None, port: port.parse().map_err(|_| invalid())? });
        }
        let addr: SocketAddr = text.parse().map_err(|_| invalid())?;
        Ok(Self { ip: Some(addr.ip()), port: addr.port() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_of_go_get_their_second_dash() {
        let args = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let given = args(&["identity", "-log-level=info", "-addr", ":8080", "--x", "-v", "-1", "-", "--", "-kept"]);
        let wanted = args(&["identity", "--log-level=info", "--addr", ":8080", "--x", "-v", "-1", "-", "--", "-kept"]);
        assert_eq!(double_dashes(given), wanted);
    }

    #[test]
    fn listen_addresses() {
        assert_eq!(":8080".parse::<Listen>().unwrap().candidates().len(), 2);
        assert_eq!("127.0.0.1:0".parse::<Listen>().unwrap().candidates(), ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!("[::1]:7".parse::<Listen>().unwrap().port, 7);
        for bad in ["", "8080", ":x", "host:80", ":65536"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_written_stays_what_it_is(args in proptest::collection::vec("-{0,3}[a-z=:0-9]{0,6}|\\PC{0,8}", 0..6)) {
            let doubled = double_dashes(args.iter().map(OsString::from));
            prop_assert_eq!(doubled.len(), args.len());
            for (given, doubled) in args.iter().zip(doubled) {
                let doubled = doubled.into_string().unwrap();
                prop_assert!(doubled == *given || doubled == format!("-{given}"), "{given} {doubled}");
            }
        }

        #[test]
        fn listen_addresses_are_refused_or_can_be_tried(text in "\\PC{0,20}|[0-9.:\\[\\]a-f]{0,24}") {
            if let Ok(listen) = text.parse::<Listen>() {
                prop_assert!(listen.candidates().iter().all(|addr| addr.port() == listen.port));
            }
        }
    }
}
