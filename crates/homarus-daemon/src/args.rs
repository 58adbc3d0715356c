//! Command lines as charts write them.
//!
//! Linkerd's controllers are Go programs: their long flags have one dash (`-log-level=info`), listen addresses may lack a
//! host (`:8080`), and durations are compound (`24h0m0s`). Charts pass them verbatim, so ours accept them too.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

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

/// A duration that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write numbers with units, like 300ms, 20s or 24h0m0s")]
pub struct InvalidDuration(String);

/// Reads a duration in Go's syntax: `1h30m`, `1.5s`, `300ms`; no negative ones.
pub fn go_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut nanos = 0u128;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        nanos = nanos.checked_add(scaled(number, unit).ok_or_else(invalid)?).ok_or_else(invalid)?;
        rest = tail;
    }
    // Go counts in 63 bits of nanoseconds.
    let nanos = i64::try_from(nanos).map_err(|_| invalid())?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

fn scaled(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 || fraction.len() > 18 {
        return None;
    }
    let count = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let part = count(fraction)? * scale / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(count(whole)? * scale + part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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

    #[test]
    fn durations_of_go() {
        let check = |text: &str, millis: u64| assert_eq!(go_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        check("24h0m0s", 86_400_000);
        check("20s", 20_000);
        check("1.5s", 1_500);
        check("300ms", 300);
        check(".5m", 30_000);
        check("0", 0);
        for bad in ["", "5", "s", "1d", "-1s", "1h-1m", ".s", "1.2.3s", "9999999999999999999h"] {
            assert!(go_duration(bad).is_err(), "{bad}");
        }
    }
}
