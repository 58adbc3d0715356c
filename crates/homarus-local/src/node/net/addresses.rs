//! Which pod has which address.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The first addresses of the network are the node's own: its gateway, the machine, and room for more.
const RESERVED: u32 = 10;

/// Hands out the addresses of a network in turn, so that one that was given back is not soon used again.
#[derive(Debug)]
pub(super) struct Addresses {
    network: Ipv4Net,
    next: u32,
    taken: HashSet<Ipv4Addr>,
}

impl Addresses {
    pub(super) fn new(network: Ipv4Net) -> Self {
        Self { network, next: RESERVED, taken: HashSet::new() }
    }

    /// A free address; none when all are taken.
    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        let bits = u32::from(self.network.network());
        let size = 1u32.checked_shl(32 - u32::from(self.network.prefix_len()))?;
        // The last address is the broadcast one.
        let usable = size.checked_sub(RESERVED + 1)?;
        for _ in 0..usable {
            let address = Ipv4Addr::from(bits + self.next);
            self.next = if self.next + 2 < size { self.next + 1 } else { RESERVED };
            if self.taken.insert(address) {
                return Some(address);
            }
        }
        None
    }

    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_go_round_and_end() {
        let mut addresses = Addresses::new("10.1.2.0/28".parse().unwrap());
        let all: Vec<_> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!(all.first(), Some(&Ipv4Addr::new(10, 1, 2, 10)));
        assert_eq!(all.last(), Some(&Ipv4Addr::new(10, 1, 2, 14)));
        assert_eq!(all.len(), 5);
        addresses.give_back(all[1]);
        assert_eq!(addresses.take(), Some(all[1]));
    }

    #[test]
    fn a_fresh_address_comes_before_one_given_back() {
        let mut addresses = Addresses::new("10.1.0.0/24".parse().unwrap());
        let first = addresses.take().unwrap();
        addresses.give_back(first);
        assert_ne!(addresses.take(), Some(first));
    }
}
