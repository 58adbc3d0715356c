//! Networks: where a client may come from.

use ipnet::IpNet;
use std::net::IpAddr;

/// A block of addresses, less some of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// The block.
    pub net: IpNet,
    /// What is taken out of it.
    pub except: Vec<IpNet>,
}

impl Network {
    /// Whether the address is in the block and in none of its exceptions.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.net.contains(&addr) && !self.except.iter().any(|e| e.contains(&addr))
    }

    /// Every IPv4 and IPv6 address.
    pub fn everywhere() -> Vec<Self> {
        vec![IpNet::from(ipnet::Ipv4Net::default()).into(), IpNet::from(ipnet::Ipv6Net::default()).into()]
    }
}

impl From<IpNet> for Network {
    fn from(net: IpNet) -> Self {
        Self { net, except: Vec::new() }
    }
}

/// Parses a comma list of CIDR blocks; white space and empty items are allowed (proxy-wire §2).
pub fn parse_list(text: &str) -> Result<Vec<IpNet>, ipnet::AddrParseError> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exceptions_are_left_out() {
        let network = Network { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
        assert!(network.contains("10.0.0.1".parse().unwrap()));
        assert!(!network.contains("10.1.0.1".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn lists() {
        assert_eq!(parse_list(" 10.0.0.0/8, ,fd00::/8,").unwrap().len(), 2);
        assert!(parse_list("10.0.0.0").is_err());
    }
}
