//! Identities: the names that certificates prove.

use crate::name::{DnsName, InvalidName};
use std::{fmt, str::FromStr, sync::Arc};

/// A name that a certificate proves: a DNS name or a SPIFFE URI (proxy-wire §5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// `<sa>.<ns>.serviceaccount.identity.<control-plane-ns>.<trust-domain>`, or any other DNS name.
    Dns(DnsName),
    /// `spiffe://…`, compared byte by byte.
    Uri(Arc<str>),
}

/// Why a text is not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Neither a URI nor a DNS name.
    #[error("an identity is a DNS name or a spiffe:// URI")]
    Name(#[from] InvalidName),
    /// A URI without a trust domain, or with characters that SPIFFE forbids.
    #[error("a SPIFFE identity is spiffe://<trust domain>/<path> of at most 2048 bytes without query or fragment")]
    Uri,
}

/// SPIFFE-ID §2.3: the longest URI that has to be supported.
const MAX_URI_BYTES: usize = 2048;

impl Identity {
    /// The identity as text, as it stands in labels and headers.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) => name.as_str(),
            Self::Uri(uri) => uri,
        }
    }

    /// The name as a DNS name, unless it is a URI.
    pub fn dns_name(&self) -> Option<&DnsName> {
        match self {
            Self::Dns(name) => Some(name),
            Self::Uri(_) => None,
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Ok(Self::Dns(text.parse()?));
        };
        let domain = rest.split('/').next().unwrap_or_default();
        let domain_ok =
            !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let path_ok = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
        if text.len() > MAX_URI_BYTES || !domain_ok || !path_ok {
            return Err(InvalidIdentity::Uri);
        }
        Ok(Self::Uri(text.into()))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What identities of a mesh are made of: the control plane's namespace and the trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The control plane's namespace.
    pub control_plane_ns: Arc<str>,
    /// The trust domain, `cluster.local` by default.
    pub trust_domain: Arc<str>,
}

impl Naming {
    /// The identity of a service account.
    pub fn service_account(&self, namespace: &str, account: &str) -> Result<Identity, InvalidIdentity> {
        let Self { control_plane_ns, trust_domain } = self;
        format!("{account}.{namespace}.serviceaccount.identity.{control_plane_ns}.{trust_domain}").parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parses_both_kinds() {
        let naming = Naming { control_plane_ns: "linkerd".into(), trust_domain: "cluster.local".into() };
        let web = naming.service_account("shop", "web").unwrap();
        assert_eq!(web.as_str(), "web.shop.serviceaccount.identity.linkerd.cluster.local");
        assert!(matches!("spiffe://root/ns/a".parse(), Ok(Identity::Uri(_))));
        for bad in ["", "spiffe://", "spiffe://Root/x", "spiffe://r/x?y", "a b"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
