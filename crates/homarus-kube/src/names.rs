//! Names as Kubernetes allows them (RFC 1123, lower case).

const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;

/// Lower-case letters and digits, and dashes between them; of any length.
pub fn is_part(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    let inner = |c: &u8| edge(Some(c)) || *c == b'-';
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

/// The name of a namespace or a service account's part of an identity: one part of at most 63 bytes.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_part(text)
}

/// The name of most objects: parts with dots between, at most 253 bytes.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b", "0", "9-a"] {
            assert!(is_part(good) && is_label(good) && is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä"] {
            assert!(!is_part(bad) && !is_label(bad) && !is_subdomain(bad), "{bad}");
        }
        assert!(is_subdomain("a.b-c.d") && !is_label("a.b") && !is_subdomain("a..b") && !is_subdomain("a."));
        assert!(is_label(&"a".repeat(63)) && !is_label(&"a".repeat(64)) && is_part(&"a".repeat(64)));
        assert!(is_subdomain(&"a".repeat(253)) && !is_subdomain(&"a".repeat(254)));
    }
}
