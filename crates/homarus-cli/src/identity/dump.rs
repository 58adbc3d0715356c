//! A certificate as text, in the manner of `openssl x509 -text`, line by line as `linkerd identity` prints it.

use serde_json::{Value, json};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OidRegistry, format_oid};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

/// Bytes in a line of a key, and of a signature.
const KEY_BYTES: usize = 15;
const SIGNATURE_BYTES: usize = 18;

/// A certificate, read.
pub(super) struct Dump<'a>(X509Certificate<'a>);

impl<'a> Dump<'a> {
    /// None if it is no certificate.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        X509Certificate::from_der(der).ok().map(|(_, certificate)| Self(certificate))
    }

    /// Whether it signs others.
    pub(super) fn is_authority(&self) -> bool {
        self.0.is_ca()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let cert = &self.0;
        json!({
            "serial": cert.raw_serial_as_string(),
            "subject": cert.subject().to_string(),
            "issuer": cert.issuer().to_string(),
            "notBefore": rfc3339(cert.validity().not_before),
            "notAfter": rfc3339(cert.validity().not_after),
            "names": cert.extensions().iter().flat_map(names).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let cert = &self.0;
        let algorithm = algorithm(&cert.signature_algorithm.algorithm);
        let mut text = format!(
            "Certificate:\n    Data:\n        Version: {} ({:#x})\n        Serial Number: {} ({:#x})\n",
            cert.version().0 + 1,
            cert.version().0,
            cert.serial,
            cert.serial,
        );
        text += &format!(
            "    Signature Algorithm: {algorithm}\n        Issuer: {}\n        Validity\n            Not Before: {}\n            Not After : {}\n        Subject: {}\n",
            cert.issuer(),
            date(cert.validity().not_before),
            date(cert.validity().not_after),
            cert.subject(),
        );
        text += &self.public_key();
        text += "        X509v3 extensions:\n";
        text.extend(cert.extensions().iter().map(extension));
        text += &format!(
            "    Signature Algorithm: {algorithm}\n{}\n",
            hex_lines(&cert.signature_value.data, SIGNATURE_BYTES, "         ")
        );
        text
    }

    fn public_key(&self) -> String {
        let info = self.0.public_key();
        let mut text = format!(
            "        Subject Public Key Info:\n            Public Key Algorithm: {}\n",
            algorithm(&info.algorithm.algorithm)
        );
        match info.parsed() {
            Ok(PublicKey::EC(point)) => {
                text += &format!("                Public-Key: ({} bit)\n", point.key_size());
                text += &coordinates(point.data());
                if let Some(curve) = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok()) {
                    text += &format!("                Curve: {}\n", algorithm(&curve));
                }
            }
            Ok(PublicKey::RSA(key)) => {
                text += &format!("                Public-Key: ({} bit)\n                Modulus:\n", key.key_size());
                text += &hex_lines(key.modulus, KEY_BYTES, "                    ");
            }
            _ => text += &hex_lines(&info.subject_public_key.data, KEY_BYTES, "                    "),
        }
        text
    }
}

/// Both numbers of a point, as Go writes numbers: without zeros in front. A compressed point is shown as it is.
fn coordinates(point: &[u8]) -> String {
    let lines =
        |name: &str, bytes: &[u8]| format!("                {name}:\n{}", hex_lines(bytes, KEY_BYTES, "                    "));
    match point {
        [4, numbers @ ..] => {
            let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
            let (x, y) = numbers.split_at(numbers.len() / 2);
            lines("X", &number(x)) + &lines("Y", &number(y))
        }
        point => lines("pub", point),
    }
}

/// Names that Go gives to algorithms and curves, or their numbers.
fn algorithm(oid: &x509_parser::der_parser::Oid<'_>) -> String {
    match oid.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" => "ECDSA-SHA256".to_owned(),
        "1.2.840.10045.4.3.3" => "ECDSA-SHA384".to_owned(),
        "1.2.840.113549.1.1.11" => "SHA256-RSA".to_owned(),
        "1.2.840.10045.2.1" => "ECDSA".to_owned(),
        "1.2.840.113549.1.1.1" => "RSA".to_owned(),
        "1.2.840.10045.3.1.7" => "P-256".to_owned(),
        "1.3.132.0.34" => "P-384".to_owned(),
        _ => format_oid(oid, &OidRegistry::default().with_all_crypto().with_x509()),
    }
}

fn date(at: ASN1Time) -> String {
    let at = jiff::Timestamp::from_second(at.timestamp()).unwrap_or_default();
    at.strftime("%b %-d %H:%M:%S %Y UTC").to_string()
}

fn rfc3339(at: ASN1Time) -> String {
    jiff::Timestamp::from_second(at.timestamp()).unwrap_or_default().to_string()
}

/// Bytes in lines of so many, each ending in a newline.
fn hex_lines(bytes: &[u8], per_line: usize, indent: &str) -> String {
    let lines = bytes.chunks(per_line).map(|line| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{indent}{}", hex.join(":"))
    });
    lines.collect::<Vec<_>>().join(":\n") + "\n"
}

fn names(extension: &X509Extension<'_>) -> Vec<String> {
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { return Vec::new() };
    let texts = names.general_names.iter().map(|name| match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(name) => format!("URI:{name}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        other => other.to_string(),
    });
    texts.collect()
}

fn extension(extension: &X509Extension<'_>) -> String {
    let (name, value) = match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => ("X509v3 Key Usage", usages(&usage.to_string())),
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let words =
                [("TLS Web Server Authentication", usage.server_auth), ("TLS Web Client Authentication", usage.client_auth)];
            (
                "X509v3 Extended Key Usage",
                words.into_iter().filter(|(_, is)| *is).map(|(word, _)| word).collect::<Vec<_>>().join(", "),
            )
        }
        ParsedExtension::BasicConstraints(constraints) => {
            ("X509v3 Basic Constraints", format!("CA:{}", if constraints.ca { "TRUE" } else { "FALSE" }))
        }
        ParsedExtension::SubjectKeyIdentifier(id) => ("X509v3 Subject Key Identifier", hex(id.0)),
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            let id = id.key_identifier.as_ref().map(|id| hex(id.0)).unwrap_or_default();
            ("X509v3 Authority Key Identifier", format!("keyid:{id}"))
        }
        ParsedExtension::SubjectAlternativeName(_) => ("X509v3 Subject Alternative Name", names(extension).join(", ")),
        _ => return format!("            {}\n                {}\n", extension.oid.to_id_string(), hex(extension.value)),
    };
    let critical = if extension.critical { " critical" } else { "" };
    format!("            {name}:{critical}\n                {value}\n")
}

/// `Key Cert Sign` as words of OpenSSL; what it has no word for stays.
fn usages(text: &str) -> String {
    text.split(", ").map(str::trim).collect::<Vec<_>>().join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_point_is_two_numbers() {
        let text = |point: &[u8]| coordinates(point).replace(' ', "");
        assert_eq!(text(&[4, 0, 0xAB, 1, 2]), "X:\nab\nY:\n01:02\n");
        assert_eq!(text(&[2, 0, 0xAB]), "pub:\n02:00:ab\n");
    }

    #[test]
    fn what_people_grep_for() {
        let pair =
            Pair::server(&["web.ns.serviceaccount.identity.linkerd.cluster.local"], Duration::from_secs(3600), SystemTime::now())
                .unwrap();
        let dump = Dump::read(pair.certificate.der()).unwrap();
        assert!(!dump.is_authority());
        let text = dump.text();
        for line in [
            "Certificate:",
            "        Version: 3 (0x2)",
            "    Signature Algorithm: ECDSA-SHA256",
            "        Subject: CN=web.ns.serviceaccount.identity.linkerd.cluster.local",
            "                Public-Key: (256 bit)",
            "                X:",
            "                Y:",
            "                Curve: P-256",
            "                TLS Web Server Authentication, TLS Web Client Authentication",
            "                DNS:web.ns.serviceaccount.identity.linkerd.cluster.local",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let serial = text.lines().find_map(|line| line.trim().strip_prefix("Serial Number: ")).unwrap();
        let (decimal, hex) = serial.trim_end_matches(')').split_once(" (0x").unwrap();
        assert!(decimal.bytes().all(|digit| digit.is_ascii_digit()), "{serial}");
        assert_eq!(hex.trim_start_matches('0'), dump.json()["serial"].as_str().unwrap().replace(':', "").trim_start_matches('0'));
        let signature: Vec<_> = text.lines().skip_while(|line| !line.starts_with("         3")).collect();
        assert_eq!(signature[0].trim().trim_end_matches(':').split(':').count(), SIGNATURE_BYTES, "{text}");
        assert_eq!(dump.json()["names"][0], "DNS:web.ns.serviceaccount.identity.linkerd.cluster.local");
        assert!(Dump::read(b"nonsense").is_none());
        let root = Pair::root("root", Duration::from_secs(60), SystemTime::now()).unwrap();
        assert!(Dump::read(root.certificate.der()).unwrap().is_authority());
    }
}
