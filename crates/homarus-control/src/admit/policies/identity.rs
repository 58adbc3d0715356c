//! Identities as policies name them.

use homarus_kube::names::is_part;

/// `*`, `*.suffix`, a DNS name, or a SPIFFE ID.
pub(super) fn pattern(text: &str) -> Result<(), String> {
    let fits = match text.strip_prefix("spiffe://") {
        Some(rest) => spiffe(rest),
        None => text.split('.').enumerate().all(|(i, part)| is_part(part) || (i == 0 && part == "*")),
    };
    match fits {
        true => Ok(()),
        false => Err(format!("{text:?} is no identity; write *, *.suffix, a DNS name in lower case, or spiffe://domain/path")),
    }
}

/// What follows the scheme of a SPIFFE ID: a trust domain, and segments of a path.
fn spiffe(rest: &str) -> bool {
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let domain_fits =
        !domain.is_empty() && domain.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c));
    let segment =
        |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    domain_fits && path.is_none_or(|path| path.split('/').all(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_what_looks_like_them() {
        for good in ["*", "*.shop.cluster.local", "web.shop.serviceaccount", "a", "spiffe://root", "spiffe://ro.ot/ns/a_B"] {
            assert!(pattern(good).is_ok(), "{good}");
        }
        for bad in ["", "**", "a.*", "*a", "Web", "a..b", "a.", "spiffe://", "spiffe://Root/a", "spiffe://r/", "spiffe://r/a//b"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
        assert!(pattern("spiffe://r/../a").is_err() && pattern("spiffe://r/a?b").is_err());
    }
}
