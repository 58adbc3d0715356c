//! Scenarios of the crate: a mesh makes its root and issuer, workloads ask for leaves, peers judge them.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use homarus_model::Identity;
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;

use crate::anchors::BundleError;
use crate::authority::Pair;
use crate::chain::{self, ChainError, Role};
use crate::credential::{CredentialError, refresh_in};
use crate::csr::{self, CsrError, Request};
use crate::files;
use crate::issuer::{IssueError, IssuerError, Validity};
use crate::x509::{self, Contents, Usage};
use crate::{Certificate, Credential, Issuer, Key, TrustAnchors, pem};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

/// Noon of 2026-11-21.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_262_400)
}

fn web() -> Identity {
    WEB.parse().unwrap()
}

struct Mesh {
    root: Pair,
    issuer: Pair,
    anchors: TrustAnchors,
}

impl Mesh {
    fn new() -> Self {
        Self::lasting(365 * DAY, 30 * DAY)
    }

    fn lasting(root: Duration, issuer: Duration) -> Self {
        let root = Pair::root("root.linkerd.cluster.local", root, now()).unwrap();
        let issuer = root.issuer("identity.linkerd.cluster.local", issuer, now()).unwrap();
        let anchors = TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
        Self { root, issuer, anchors }
    }

    fn issuer_at(&self, at: SystemTime) -> Result<Issuer, IssuerError> {
        let (cert, key) = (self.issuer.certificate.to_pem(), self.issuer.key_pem());
        Issuer::from_pem(&cert, &key, &self.anchors, Validity::default(), at)
    }

    fn credential(&self, key: &Key, at: SystemTime) -> Result<Credential, CredentialError> {
        let issuer = self.issuer_at(now()).unwrap();
        let der = csr::make(&web(), key).unwrap();
        let leaf = issuer.issue(&Request::parse(&der).unwrap(), WEB, now()).unwrap();
        let intermediates = issuer.intermediates().map(|der| der.to_vec()).collect();
        Credential::verified(&web(), key, leaf.der().to_vec(), intermediates, &self.anchors, at)
    }
}

#[test]
fn a_workload_gets_a_credential_that_peers_believe() {
    let mesh = Mesh::new();
    let credential = mesh.credential(&Key::generate().unwrap(), now()).unwrap();
    assert_eq!(credential.expiry(), now() + DAY + Duration::from_secs(20));
    assert_eq!(credential.leaf().not_before, now() - Duration::from_secs(20));
    assert_eq!(credential.leaf().names, [WEB]);
    assert!(!credential.leaf().is_ca);

    let certified = credential.certified_key();
    certified.keys_match().unwrap();
    let (leaf, rest) = certified.cert.split_first().unwrap();
    for role in [Role::Client, Role::Server] {
        chain::verify_chain(leaf, rest, &mesh.anchors, role, now()).unwrap();
        assert!(chain::verify_chain(leaf, rest, &mesh.anchors, role, now() + 2 * DAY).is_err());
        assert!(chain::verify_chain(leaf, rest, &mesh.anchors, role, now() - HOUR).is_err());
        assert!(chain::verify_chain(leaf, rest, &Mesh::new().anchors, role, now()).is_err());
    }
    assert_eq!(chain::peer_identity(leaf), Some(web()));
    chain::verify_name(leaf, &web()).unwrap();
    assert_eq!(chain::expiry(leaf), Ok(credential.expiry()));
    let other: Identity = "api.shop.serviceaccount.identity.linkerd.cluster.local".parse().unwrap();
    assert!(matches!(chain::verify_name(leaf, &other), Err(ChainError::OtherName { found, .. }) if found == [WEB]));
}

#[test]
fn an_answer_for_someone_else_is_refused() {
    let mesh = Mesh::new();
    let (key, other_key) = (Key::generate().unwrap(), Key::generate().unwrap());
    let issuer = mesh.issuer_at(now()).unwrap();
    let der = csr::make(&web(), &key).unwrap();
    let leaf = issuer.issue(&Request::parse(&der).unwrap(), WEB, now()).unwrap().der().to_vec();
    let above: Vec<Vec<u8>> = issuer.intermediates().map(|der| der.to_vec()).collect();
    let accept = |name: &Identity, key: &Key, anchors: &TrustAnchors| {
        Credential::verified(name, key, leaf.clone(), above.clone(), anchors, now())
    };
    accept(&web(), &key, &mesh.anchors).unwrap();
    assert_eq!(accept(&web(), &other_key, &mesh.anchors).unwrap_err(), CredentialError::OtherKey);
    let other: Identity = "other.example".parse().unwrap();
    assert!(matches!(accept(&other, &key, &mesh.anchors), Err(CredentialError::Chain(ChainError::OtherName { .. }))));
    assert!(matches!(accept(&web(), &key, &Mesh::new().anchors), Err(CredentialError::Chain(ChainError::Untrusted(_)))));
    let garbage = Credential::verified(&web(), &key, vec![1, 2, 3], Vec::new(), &mesh.anchors, now());
    assert!(matches!(garbage, Err(CredentialError::Unreadable(_))));
}

#[test]
fn leaves_never_outlive_what_they_depend_on() {
    let mesh = Mesh::lasting(365 * DAY, 2 * HOUR);
    let credential = mesh.credential(&Key::generate().unwrap(), now()).unwrap();
    assert_eq!(credential.expiry(), mesh.issuer.certificate.not_after);
    // The root ends first, although certificates below it say otherwise.
    let mesh = Mesh::lasting(HOUR, 30 * DAY);
    let issuer = mesh.issuer_at(now()).unwrap();
    assert_eq!(issuer.expiry(), mesh.root.certificate.not_after);
    assert!(issuer.verify_current(now() + 2 * HOUR).is_err());
}

#[test]
fn expired_issuers_are_named() {
    let mesh = Mesh::lasting(365 * DAY, HOUR);
    let issuer = mesh.issuer_at(now()).unwrap();
    let der = csr::make(&web(), &Key::generate().unwrap()).unwrap();
    let request = Request::parse(&der).unwrap();
    issuer.issue(&request, WEB, now() + HOUR).unwrap();
    let error = issuer.issue(&request, WEB, now() + 2 * HOUR).unwrap_err();
    assert!(matches!(error, IssueError::Issuer(IssuerError::NotCurrent { how: "expired", .. })), "{error}");
    assert!(matches!(mesh.issuer_at(now() + DAY), Err(IssuerError::NotCurrent { how: "expired", .. })));
    assert!(matches!(mesh.issuer_at(now() - DAY), Err(IssuerError::NotCurrent { how: "not valid yet", .. })));
}

#[test]
fn issuer_material_is_checked() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let read = |cert: &Pair, key: &Pair, anchors| {
        Issuer::from_pem(&cert.certificate.to_pem(), &key.key_pem(), anchors, Validity::default(), now())
    };
    read(&mesh.issuer, &mesh.issuer, &mesh.anchors).unwrap();
    // One certificate as anchor and issuer: what `install` without files makes.
    read(&mesh.root, &mesh.root, &mesh.anchors).unwrap();
    assert!(matches!(read(&mesh.issuer, &other.issuer, &mesh.anchors), Err(IssuerError::OtherKey { .. })));
    assert!(matches!(read(&mesh.issuer, &mesh.issuer, &other.anchors), Err(IssuerError::Untrusted { .. })));
    let leaf = Pair::server(&["a.b"], DAY, now()).unwrap();
    assert!(matches!(read(&leaf, &leaf, &mesh.anchors), Err(IssuerError::NotCa { .. })));
    let key = mesh.issuer.key_pem();
    let empty = Issuer::from_pem("nothing", &key, &mesh.anchors, Validity::default(), now()).unwrap_err();
    assert!(empty.to_string().contains("no certificate found"), "{empty}");
    let no_key = Issuer::from_pem(&mesh.issuer.certificate.to_pem(), "x", &mesh.anchors, Validity::default(), now());
    assert!(matches!(no_key, Err(IssuerError::Key(_))));
}

#[test]
fn a_longer_chain_in_the_issuer_file_holds() {
    let mesh = Mesh::new();
    let root = &mesh.root;
    // An issuer below an issuer: the middle one must allow it, so it is a root in its own right, cross-signed.
    let middle_key = Key::generate().unwrap();
    let subject = x509::common_name("middle");
    let middle = Contents {
        serial: [1; 16],
        issuer: &root.certificate.subject_raw,
        not_before: now(),
        not_after: now() + 10 * DAY,
        subject: &subject,
        public: middle_key.public(),
        usage: Usage::Authority { path_length: Some(1) },
        dns_names: &[],
        authority_key_id: root.certificate.subject_key_id.as_deref(),
        subject_key_id: None,
    };
    let middle = Certificate::parse(x509::certificate(&middle, &root.key).unwrap().into()).unwrap();
    let middle = Pair { certificate: middle, key: middle_key };
    let issuer = middle.issuer("lower", 20 * DAY, now()).unwrap();
    let file = issuer.certificate.to_pem() + &middle.certificate.to_pem();
    let read = |file: &str| Issuer::from_pem(file, &issuer.key_pem(), &mesh.anchors, Validity::default(), now());
    let whole = read(&file).unwrap();
    assert_eq!(whole.expiry(), middle.certificate.not_after);
    assert_eq!(whole.intermediates().count(), 2);
    assert!(matches!(read(&issuer.certificate.to_pem()), Err(IssuerError::Untrusted { .. })));
    let reversed = middle.certificate.to_pem() + &issuer.certificate.to_pem();
    assert!(matches!(read(&reversed), Err(IssuerError::OtherKey { .. })));
}

#[test]
fn issuers_with_rsa_keys_and_odd_names_work() {
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let key = Key::from_pkcs8(pkcs8.as_ref()).unwrap();
    // DC=local,DC=cluster: two attributes of one type, which must be repeated byte for byte.
    let component = [0x31, 0x15, 0x30, 0x13, 6, 10, 9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25, 0x16, 5];
    let mut subject = vec![0x30, 46];
    for name in [b"local", b"other"] {
        subject.extend_from_slice(&component);
        subject.extend_from_slice(name);
    }
    let contents = Contents {
        serial: [1; 16],
        issuer: &subject,
        not_before: now(),
        not_after: now() + DAY,
        subject: &subject,
        public: key.public(),
        usage: Usage::Authority { path_length: None },
        dns_names: &[],
        authority_key_id: None,
        subject_key_id: None,
    };
    let der = x509::certificate(&contents, &key).unwrap();
    let cert = pem::certificate(&der);
    let anchors = TrustAnchors::from_pem(&cert).unwrap();
    let key = pem::private_key(pkcs8.as_ref());
    let issuer = Issuer::from_pem(&cert, &key, &anchors, Validity::default(), now()).unwrap();
    let leaf_key = Key::generate().unwrap();
    let csr = csr::make(&web(), &leaf_key).unwrap();
    let leaf = issuer.issue(&Request::parse(&csr).unwrap(), WEB, now()).unwrap();
    Credential::verified(&web(), &leaf_key, leaf.der().to_vec(), vec![der], &anchors, now()).unwrap();
}

#[test]
fn requests_must_ask_for_one_name_with_an_ecdsa_key() {
    let key = Key::generate().unwrap();
    let der = csr::make(&web(), &key).unwrap();
    let request = Request::parse(&der).unwrap();
    request.check_names(WEB).unwrap();
    request.check_key().unwrap();
    assert!(matches!(request.check_names("other.example"), Err(CsrError::Names { .. })));

    let mut forged = der.clone();
    let at = forged.windows(3).position(|w| w == b"web").unwrap();
    forged[at] = b'x';
    assert_eq!(Request::parse(&forged).unwrap_err(), CsrError::Signature);

    let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let der = csr::make(&web(), &Key::from_pkcs8(pkcs8.as_ref()).unwrap()).unwrap();
    assert_eq!(Request::parse(&der).unwrap().check_key(), Err(CsrError::NotEcdsa));

    let uri: Identity = "spiffe://root/a".parse().unwrap();
    assert!(csr::make(&uri, &key).is_err());
    assert!(matches!(Request::parse(&vec![0x30; csr::MAX_CSR_BYTES + 1]), Err(CsrError::Unreadable(_))));
}

/// The trust anchor of a real installation of Linkerd, as its injector wrote it into a pod.
const LINKERD_ROOT: &str = "-----BEGIN CERTIFICATE-----\nMIIBiTCCAS6gAwIBAgIBATAKBggqhkjOPQQDAjAcMRowGAYDVQQDExFpZGVudGl0\neS5saW5rZXJkLjAeFw0yNjExMjExMjEyMzlaFw0yNzExMjExMjEyNTlaMBwxGjAY\nBgNVBAMTEWlkZW50aXR5LmxpbmtlcmQuMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD\nQgAErCB5wnM5ppKLMdufuz1UDfFKacPBCrLIelMR06Cz/qccQbs/lWDUa47evFZM\nTINUih3XQmpp7+b8/3mdVsyVrKNhMF8wDgYDVR0PAQH/BAQDAgEGMB0GA1UdJQQW\nMBQGCCsGAQUFBwMBBggrBgEFBQcDAjAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQW\nBBTiU9cOn1GXApJgbVYGm4pgwxYLjjAKBggqhkjOPQQDAgNJADBGAiEAuKPh4hCq\ntwExrfjwq3b/s53CBPgDFvRTduGVFVhFL04CIQC//JX33C7e/pKv4binDkzwTjdC\neh0giB9s/8UohCdkSQ==\n-----END CERTIFICATE-----\n";

#[test]
fn a_bundle_of_linkerd_is_read_and_summed_as_linkerd_does() {
    // The chart trims the text that is summed; the pod's environment has one more newline.
    let anchors = TrustAnchors::from_pem(LINKERD_ROOT.trim_end()).unwrap();
    assert_eq!(anchors.sha256_hex(), "1bac4ca2f1226d8748a7e1865c519d7d47b4bf78365af78f6da8e0c320cd03a1");
    assert_eq!(anchors.certificates()[0].subject, "CN=identity.linkerd.");
    assert_eq!(anchors.certificates()[0].to_pem(), LINKERD_ROOT);
}

#[test]
fn a_bad_bundle_says_which_certificate_is_bad() {
    let good = Mesh::new().root.certificate.to_pem();
    let not_der = pem::certificate(b"not a certificate");
    let leaf = Pair::server(&["web.example"], DAY, now()).unwrap().certificate.to_pem();
    let check = |text: String, says: &[&str]| {
        let error = TrustAnchors::from_pem(&text).unwrap_err().to_string();
        assert!(says.iter().all(|words| error.contains(words)), "{error}");
    };
    check(String::new(), &["no certificate found"]);
    check(format!("{good}{not_der}{good}"), &["certificate 2 of 3", "not an X.509 certificate"]);
    check(format!("{good}{leaf}"), &["certificate 2 of 2 (CN=web.example)", "not a CA"]);
    check(format!("{good}-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"), &["certificate 2", "PEM"]);
    check(good.repeat(pem::MAX_CERTIFICATES + 1), &["more than"]);
    check("x".repeat(pem::MAX_PEM_BYTES + 1), &["longer than"]);

    let (anchors, bad) = TrustAnchors::from_pem_lossy(&format!("{good}{not_der}")).unwrap();
    assert_eq!(anchors.certificates().len(), 1);
    assert!(matches!(bad.as_slice(), [BundleError::Certificate { index: 2, total: 2, .. }]));
    assert!(TrustAnchors::from_pem_lossy(&not_der).is_err());
}

#[test]
fn a_bundle_of_two_roots_lets_both_meshes_in() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let both = old.root.certificate.to_pem() + &new.root.certificate.to_pem();
    let both = TrustAnchors::from_pem(&both).unwrap();
    for mesh in [&old, &new] {
        let credential = mesh.credential(&Key::generate().unwrap(), now()).unwrap();
        let certified = credential.certified_key();
        let (leaf, above) = certified.cert.split_first().unwrap();
        chain::verify_chain(leaf, above, &both, Role::Client, now()).unwrap();
    }
}

#[test]
fn files_are_made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let made = files::ensure(dir.path(), &web()).unwrap();
    let mode = std::fs::metadata(dir.path().join(files::KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = files::ensure(dir.path(), &web()).unwrap();
    assert_eq!(made.key.secret_der(), again.key.secret_der());
    assert_eq!(made.csr, again.csr);
    Request::parse(&again.csr).unwrap().check_names(WEB).unwrap();

    let other: Identity = "other.example".parse().unwrap();
    assert!(matches!(files::ensure(dir.path(), &other), Err(files::FileError::Csr { .. })));
    std::fs::write(dir.path().join(files::CSR_FILE), b"").unwrap();
    assert_eq!(files::ensure(dir.path(), &other).unwrap().key.secret_der(), made.key.secret_der());
    std::fs::write(dir.path().join(files::KEY_FILE), b"garbage").unwrap();
    assert!(matches!(files::ensure(dir.path(), &other), Err(files::FileError::Key { .. })));
    assert!(matches!(files::ensure(&dir.path().join("missing"), &other), Err(files::FileError::Io { .. })));
}

#[test]
fn leaves_are_refreshed_in_time() {
    let (min, max) = (Duration::from_secs(10), DAY);
    let check = |left: Option<Duration>, wait: Duration| {
        assert_eq!(refresh_in(left.map(|left| now() + left), now(), min, max), wait, "{left:?}");
    };
    check(Some(Duration::from_secs(100)), Duration::from_secs(70));
    check(Some(Duration::from_secs(1)), min);
    check(Some(30 * DAY), max);
    check(None, min);
    assert_eq!(refresh_in(Some(now() - HOUR), now(), min, max), min);
}

#[test]
fn times_beyond_2049_are_written_as_they_must_be() {
    let root = Pair::root("long", 50 * 365 * DAY, now()).unwrap();
    assert_eq!(root.certificate.not_after, now() + 50 * 365 * DAY);
    TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap();
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..400, value: u8) {
        let _ = Request::parse(&bytes).is_ok();
        let _ = Certificate::parse(bytes.clone().into()).is_ok();
        let _ = chain::peer_identity(&CertificateDer::from(bytes.clone()));
        let _ = TrustAnchors::from_pem(&String::from_utf8_lossy(&bytes)).is_ok();
        // One byte of a good request changed: either refused or without effect on what was signed.
        let mut der = good_request();
        let at = at % der.len();
        der[at] = value;
        if let Ok(request) = Request::parse(&der) {
            prop_assert_eq!(request.check_names(WEB), Ok(()));
        }
    }
}

proptest! {
    /// Files and peers' certificates of any content: refused, or something that can be used.
    #[test]
    fn hostile_text_and_peers_never_panic(
        text in "\\PC{0,200}|(-{3,6}(BEGIN|END) (CERTIFICATE|PRIVATE KEY|EC PRIVATE KEY)-{3,6}\n[A-Za-z0-9+/=\n]{0,80}){0,3}",
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let _ = pem::certificates(&text).is_ok();
        let _ = TrustAnchors::from_pem_lossy(&text).is_ok();
        prop_assert!(Key::from_pem(&text).is_err());
        let (mesh, leaf) = good_leaf();
        let mut der = leaf.to_vec();
        for (at, value) in changes {
            let at = at.index(der.len());
            der[at] = value;
        }
        let changed = CertificateDer::from(der);
        let _ = (Certificate::parse(changed.clone()).is_ok(), chain::peer_identity(&changed), chain::expiry(&changed).is_ok());
        let named = chain::verify_name(&changed, &web()).is_ok();
        let trusted = chain::verify_chain(&changed, &[mesh.issuer.certificate.der().clone()], &mesh.anchors, Role::Server, now());
        // Whoever is believed after a change was not changed where it counts.
        prop_assert!(trusted.is_err() || named);
    }
}

fn good_leaf() -> &'static (Mesh, CertificateDer<'static>) {
    static LEAF: std::sync::OnceLock<(Mesh, CertificateDer<'static>)> = std::sync::OnceLock::new();
    LEAF.get_or_init(|| {
        let mesh = Mesh::new();
        let der = csr::make(&web(), &Key::generate().unwrap()).unwrap();
        let leaf = mesh.issuer_at(now()).unwrap().issue(&Request::parse(&der).unwrap(), WEB, now()).unwrap();
        (mesh, leaf.der().clone())
    })
}

fn good_request() -> Vec<u8> {
    static DER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    DER.get_or_init(|| csr::make(&web(), &Key::generate().unwrap()).unwrap()).clone()
}

fn anchors(root: &Pair) -> TrustAnchors {
    TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap()
}

#[test]
fn a_cross_signed_root_is_believed_by_those_who_know_only_the_old_one() {
    let (old, new) = (Pair::root("old", 10 * DAY, now()).unwrap(), Pair::root("new", 365 * DAY, now()).unwrap());
    let issuer = new.issuer("issuer", 5 * DAY, now()).unwrap();
    let cross = old.cross_sign(&new.certificate, now()).unwrap();
    let both = TrustAnchors::from_pem(&format!("{}{}", old.certificate.to_pem(), new.certificate.to_pem())).unwrap();
    let chain = format!("{}{}", issuer.certificate.to_pem(), cross.to_pem());
    let signer = Issuer::from_pem(&chain, &issuer.key_pem(), &both, Validity::default(), now()).unwrap();
    let (name, key) = (web(), Key::generate().unwrap());
    let request = csr::make(&name, &key).unwrap();
    let leaf = signer.issue(&Request::parse(&request).unwrap(), WEB, now()).unwrap();
    let believed = |anchors: &TrustAnchors, above: Vec<Vec<u8>>| {
        Credential::verified(&name, &key, leaf.der().to_vec(), above, anchors, now()).map(|credential| credential.issuer())
    };
    let with_cross: Vec<Vec<u8>> = signer.intermediates().map(|der| der.to_vec()).collect();
    let (only_old, only_new) = (anchors(&old), anchors(&new));
    for anchors in [&only_old, &only_new, &both] {
        assert_eq!(believed(anchors, with_cross.clone()).unwrap(), Some(issuer.certificate.fingerprint()));
    }
    assert!(believed(&only_old, with_cross[..1].to_vec()).is_err(), "without the cross-signed root it isn't");
    assert!(believed(&anchors(&Pair::root("stranger", DAY, now()).unwrap()), with_cross).is_err());
}

#[test]
fn anchors_are_kept_for_the_same_environment_only() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] = ["a", "b", "c"].map(|name| anchors(&Pair::root(name, DAY, now()).unwrap()));
    assert!(files::kept_anchors(dir.path(), &first).unwrap().is_none());
    files::keep_anchors(dir.path(), &second, &first).unwrap();
    let kept = files::kept_anchors(dir.path(), &first).unwrap().unwrap();
    assert_eq!((kept.fingerprint(), kept.pem()), (second.fingerprint(), second.pem()));
    assert!(files::kept_anchors(dir.path(), &third).unwrap().is_none(), "a newer environment counts");
    for garbage in ["", "in-place-of: ", "nonsense", &format!("in-place-of: {}\nnonsense", first.fingerprint())] {
        std::fs::write(dir.path().join(files::ANCHORS_FILE), garbage).unwrap();
        assert!(files::kept_anchors(dir.path(), &first).unwrap().is_none(), "{garbage}");
    }
    // The largest bundle that may be told may be kept, and no larger one is read.
    let largest = format!("{}{}", second.pem(), "\n".repeat(pem::MAX_PEM_BYTES - second.pem().len()));
    files::keep_anchors(dir.path(), &TrustAnchors::from_pem(&largest).unwrap(), &first).unwrap();
    assert_eq!(files::kept_anchors(dir.path(), &first).unwrap().unwrap().pem().len(), pem::MAX_PEM_BYTES);
    std::fs::write(dir.path().join(files::ANCHORS_FILE), vec![b' '; 2 * pem::MAX_PEM_BYTES]).unwrap();
    assert!(files::kept_anchors(dir.path(), &first).is_err());
}

#[test]
fn bundles_are_the_same_whatever_their_text() {
    let [a, b] = ["a", "b"].map(|name| Pair::root(name, DAY, now()).unwrap().certificate.to_pem());
    let of = |text: String| TrustAnchors::from_pem(&text).unwrap().fingerprint();
    assert_eq!(of(format!("{a}{b}")), of(format!("# two\n\n{b}\n{a}{a}")));
    assert_ne!(of(format!("{a}{b}")), of(a.clone()));
    assert!(
        TrustAnchors::from_pem(&a)
            .unwrap()
            .contains(TrustAnchors::from_pem(&format!("{b}{a}")).unwrap().certificates().last().unwrap())
    );
}

#[test]
fn a_kept_pair_is_read_again_and_a_mixed_one_refused() {
    let [a, b] = ["a", "b"].map(|name| Pair::root(name, DAY, now()).unwrap());
    let read = Pair::from_pem(&a.certificate.to_pem(), &a.key_pem()).unwrap();
    assert_eq!(read.certificate.fingerprint(), a.certificate.fingerprint());
    assert!(Pair::from_pem(&a.certificate.to_pem(), &b.key_pem()).is_err());
    assert!(Pair::from_pem("nonsense", &a.key_pem()).is_err() && Pair::from_pem(&a.certificate.to_pem(), "").is_err());
}
