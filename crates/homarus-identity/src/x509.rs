//! Writes certificates and requests (RFC 5280, RFC 2986).

use std::time::SystemTime;

use rustls_pki_types::AlgorithmIdentifier;
use time::OffsetDateTime;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSeq, Tag};

use crate::key::{Key, KeyError};

const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];
const SUBJECT_KEY_ID: [u64; 4] = [2, 5, 29, 14];
const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
const AUTHORITY_KEY_ID: [u64; 4] = [2, 5, 29, 35];
const EXT_KEY_USAGE: [u64; 4] = [2, 5, 29, 37];
const SERVER_AUTH: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];
const EXTENSION_REQUEST: [u64; 7] = [1, 2, 840, 113549, 1, 9, 14];

/// Key usage bits, first bit first, with the number of bits that count.
#[derive(Clone, Copy)]
pub(crate) enum Usage {
    /// digitalSignature, keyEncipherment.
    Leaf,
    /// keyCertSign, cRLSign; as a CA, which may be limited in the number of CAs below it.
    Authority { path_length: Option<u8> },
}

/// What a certificate says.
pub(crate) struct Contents<'a> {
    pub(crate) serial: [u8; 16],
    /// The issuer's name, DER.
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The subject's name, DER.
    pub(crate) subject: &'a [u8],
    /// The subject's public key, DER.
    pub(crate) public: &'a [u8],
    pub(crate) usage: Usage,
    pub(crate) dns_names: &'a [&'a str],
    /// The id of the issuer's key, if it has one.
    pub(crate) authority_key_id: Option<&'a [u8]>,
    pub(crate) subject_key_id: Option<&'a [u8]>,
}

/// A certificate, DER, signed by the issuer's key.
pub(crate) fn certificate(contents: &Contents<'_>, signer: &Key) -> Result<Vec<u8>, KeyError> {
    let signature_id = signer.algorithm().signature_id();
    let tbs = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            w.next().write_bigint_bytes(&contents.serial, true);
            algorithm(w.next(), signature_id);
            w.next().write_der(contents.issuer);
            w.next().write_sequence(|w| {
                write_time(w.next(), contents.not_before);
                write_time(w.next(), contents.not_after);
            });
            w.next().write_der(contents.subject);
            w.next().write_der(contents.public);
            w.next().write_tagged(Tag::context(3), |w| w.write_sequence(|w| extensions(w, contents)));
        });
    });
    signed(&tbs, signer)
}

/// A PKCS#10 request, DER, with a common name and one DNS name.
pub(crate) fn request(name: &str, key: &Key) -> Result<Vec<u8>, KeyError> {
    let info = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_u8(0);
            w.next().write_der(&common_name(name));
            w.next().write_der(key.public());
            w.next().write_tagged_implicit(Tag::context(0), |w| {
                w.write_set(|w| {
                    w.next().write_sequence(|w| {
                        oid(w.next(), &EXTENSION_REQUEST);
                        w.next().write_set(|w| w.next().write_sequence(|w| alt_names(w, &[name], false)));
                    });
                });
            });
        });
    });
    signed(&info, key)
}

/// A distinguished name of one common name, DER.
pub(crate) fn common_name(name: &str) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_set(|w| {
                w.next().write_sequence(|w| {
                    oid(w.next(), &COMMON_NAME);
                    w.next().write_utf8_string(name);
                });
            });
        });
    })
}

/// The name that consists of nothing, DER.
const EMPTY_NAME: [u8; 2] = [0x30, 0];

fn signed(to_sign: &[u8], signer: &Key) -> Result<Vec<u8>, KeyError> {
    let signature = signer.sign(to_sign)?;
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_der(to_sign);
            algorithm(w.next(), signer.algorithm().signature_id());
            w.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

fn algorithm(w: DERWriter<'_>, id: AlgorithmIdentifier) {
    w.write_sequence(|w| w.next().write_der(&id));
}

fn oid(w: DERWriter<'_>, components: &[u64]) {
    w.write_oid(&ObjectIdentifier::from_slice(components));
}

/// RFC 5280 §4.1.2.5: two digits of the year until 2049.
fn write_time(w: DERWriter<'_>, at: SystemTime) {
    let at = OffsetDateTime::from(at);
    let (y, m, d) = (at.year(), u8::from(at.month()), at.day());
    let rest = format!("{m:02}{d:02}{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
    let (tag, text) = match y {
        1950..2050 => (23, format!("{:02}{rest}", y % 100)),
        _ => (24, format!("{y:04}{rest}")),
    };
    w.write_tagged_implicit(Tag { tag_class: yasna::TagClass::Universal, tag_number: tag }, |w| w.write_bytes(text.as_bytes()));
}

fn extensions(w: &mut DERWriterSeq<'_>, contents: &Contents<'_>) {
    match contents.usage {
        Usage::Leaf => {
            extension(w, &KEY_USAGE, true, |w| w.write_bitvec_bytes(&[0b1010_0000], 3));
            extension(w, &EXT_KEY_USAGE, false, ext_key_usage);
            extension(w, &BASIC_CONSTRAINTS, true, |w| w.write_sequence(|_| {}));
        }
        Usage::Authority { path_length } => {
            extension(w, &KEY_USAGE, true, |w| w.write_bitvec_bytes(&[0b0000_0110], 7));
            extension(w, &BASIC_CONSTRAINTS, true, |w| {
                w.write_sequence(|w| {
                    w.next().write_bool(true);
                    if let Some(below) = path_length {
                        w.next().write_u8(below);
                    }
                });
            });
        }
    }
    if let Some(id) = contents.subject_key_id {
        extension(w, &SUBJECT_KEY_ID, false, |w| w.write_bytes(id));
    }
    if let Some(id) = contents.authority_key_id {
        extension(w, &AUTHORITY_KEY_ID, false, |w| {
            w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id)));
        });
    }
    if !contents.dns_names.is_empty() {
        // RFC 5280 §4.2.1.6: critical if it is the only name there is.
        alt_names(w, contents.dns_names, contents.subject == EMPTY_NAME);
    }
}

fn ext_key_usage(w: DERWriter<'_>) {
    w.write_sequence(|w| {
        oid(w.next(), &SERVER_AUTH);
        oid(w.next(), &CLIENT_AUTH);
    });
}

fn alt_names(w: &mut DERWriterSeq<'_>, dns_names: &[&str], critical: bool) {
    extension(w, &SUBJECT_ALT_NAME, critical, |w| {
        w.write_sequence(|w| {
            for name in dns_names {
                w.next().write_tagged_implicit(Tag::context(2), |w| w.write_bytes(name.as_bytes()));
            }
        });
    });
}

fn extension(w: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    w.next().write_sequence(|w| {
        oid(w.next(), id);
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(&yasna::construct_der(value));
    });
}
