//! Sets of ports, as annotations and environment variables list them.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(BTreeSet<u16>);

/// An item of a port list that is neither a port nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{item:?} is not a port (1-65535) or a range of ports (first-last)")]
pub struct InvalidPort {
    /// The item, as written.
    pub item: String,
}

impl PortSet {
    /// Parses a comma list of `N` and `A-B`; blank items are ignored, a reversed range is refused.
    pub fn parse(text: &str) -> Result<Self, InvalidPort> {
        let mut ports = BTreeSet::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            ports.extend(parse_range(item).ok_or_else(|| InvalidPort { item: item.into() })?);
        }
        Ok(Self(ports))
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(ports.into_iter().collect())
    }
}

impl Extend<u16> for PortSet {
    fn extend<I: IntoIterator<Item = u16>>(&mut self, ports: I) {
        self.0.extend(ports);
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, port) in self.0.iter().enumerate() {
            write!(f, "{}{port}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Parses one item of a list: `N` or `A-B`, both from 1, not reversed.
pub fn parse_range(item: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|p| *p != 0);
    match item.split_once('-') {
        None => port(item).map(|p| p..=p),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some(first..=last)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parses_lists() {
        assert_eq!(PortSet::parse("25, 587,,100-102").unwrap().to_string(), "25,100,101,102,587");
        assert!(PortSet::parse("").unwrap().is_empty());
        for bad in ["a", "0", "65536", "9-8", "1-", "-1", "1-2-3"] {
            assert_eq!(PortSet::parse(bad).unwrap_err().item, bad);
        }
    }
}
