//! Live TLS configurations: made anew for each credential, shared by all workers.

use super::verify::{ClientVerifier, ServerVerifier};
use homarus_identity::{Credential, TrustAnchors};
use homarus_model::{Identity, endpoint::ServerTls};
use homarus_wire::transport;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, NamedGroup, ServerConfig,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::ServerName;
use std::{
    collections::VecDeque,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A generation of keys lives at most this long, so that tickets do.
const GENERATION: Duration = Duration::from_secs(3600);

/// Tickets kept for one endpoint; each is used once.
const MAX_TICKETS: usize = 8;

/// What our TLS stands on: who we are and whom we believe.
#[derive(Clone, Debug)]
pub struct Material {
    /// Our leaf and key.
    pub credential: Credential,
    /// Whom we believe.
    pub anchors: TrustAnchors,
}

/// One generation of TLS configurations.
pub struct Keys {
    generation: usize,
    material: Material,
    server: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
    resuming: Arc<ServerConfig>,
    client: ClientConfig,
}

/// The current generation, wherever it is needed.
#[derive(Clone)]
pub struct Keyring {
    current: watch::Receiver<Option<Arc<Keys>>>,
}

/// X25519MLKEM768 first; the suites in the order that hardware likes (proxy-wire §5).
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::{cipher_suite as suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography that all TLS of this process uses.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

static GENERATIONS: AtomicUsize = AtomicUsize::new(0);

impl Keys {
    /// A new generation: new configurations, no ticket of an older one is good for it.
    pub fn new(material: Material) -> Result<Self, rustls::Error> {
        let server = server_config(&material, &[], None)?;
        let direct = server_config(&material, &[transport::ALPN], None)?;
        let tickets = aws_lc_rs::Ticketer::new()?;
        let resuming = server_config(&material, &[transport::ALPN_RESUMING, transport::ALPN], Some(tickets))?;
        let client = client_config(&material)?;
        let generation = GENERATIONS.fetch_add(1, Relaxed);
        Ok(Self { generation, material, server: server.into(), direct: direct.into(), resuming: resuming.into(), client })
    }

    /// What it stands on.
    pub fn material(&self) -> &Material {
        &self.material
    }

    /// For TLS on an application's own port: no ALPN.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For connections to the inbound port itself; `resumes` if the client offers our own ALPN.
    pub fn direct(&self, resumes: bool) -> Arc<ServerConfig> {
        if resumes { self.resuming.clone() } else { self.direct.clone() }
    }
}

impl Keyring {
    /// Follows a stream of material. The returned future publishes generations; it runs on the admin thread.
    pub fn follow(mut material: watch::Receiver<Option<Material>>) -> (Self, impl Future<Output = ()>) {
        let (publish, current) = watch::channel(None);
        let run = async move {
            loop {
                let now = material.borrow_and_update().clone();
                match now.map(Keys::new) {
                    Some(Ok(keys)) => _ = publish.send_replace(Some(Arc::new(keys))),
                    Some(Err(error)) => tracing::error!(%error, "credential is unusable; keeping the one before"),
                    None => {}
                }
                // Wakes on new material, or when the generation is old.
                if let Some(Err(_)) = crate::net::timeout(GENERATION, material.changed()).await {
                    return;
                }
            }
        };
        (Self { current }, run)
    }

    /// The current generation; none before the first certificate.
    pub fn current(&self) -> Option<Arc<Keys>> {
        self.current.borrow().clone()
    }

    /// Waits for another generation; false when the process is ending.
    pub async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }

    /// Waits for the first certificate; none when the process is ending.
    pub async fn ready(&mut self) -> Option<Arc<Keys>> {
        self.current.wait_for(Option::is_some).await.ok().and_then(|keys| keys.clone())
    }
}

/// The client's side of TLS with one endpoint address: its expectation, and the tickets it gave.
pub struct EndpointTls {
    expect: ServerTls,
    direct: bool,
    keyring: Keyring,
    made: Mutex<Option<(usize, Made)>>,
}

#[derive(Clone)]
struct Made {
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
}

impl EndpointTls {
    /// For an endpoint of this identity; `direct` connections go to its inbound port and speak the transport header.
    pub fn new(keyring: Keyring, expect: ServerTls, direct: bool) -> Self {
        Self { expect, direct, keyring, made: Mutex::new(None) }
    }

    /// Whom to expect.
    pub fn expect(&self) -> &ServerTls {
        &self.expect
    }

    /// The configuration of the current generation, and where its tickets are. None before the first certificate.
    pub(super) fn config(&self) -> Option<(Arc<ClientConfig>, Arc<Tickets>)> {
        let keys = self.keyring.current()?;
        let mut made = self.made.lock();
        if let Some((generation, made)) = &*made
            && *generation == keys.generation
        {
            return Some((made.config.clone(), made.tickets.clone()));
        }
        let tickets = Arc::new(Tickets::default());
        let mut config = keys.client.clone();
        let verifier = ServerVerifier { anchors: keys.material.anchors.clone(), expect: self.expect.id.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        if self.direct {
            config.alpn_protocols = vec![transport::ALPN_RESUMING.to_vec(), transport::ALPN.to_vec()];
            config.resumption = Resumption::store(tickets.clone());
        }
        let config = Arc::new(config);
        *made = Some((keys.generation, Made { config: config.clone(), tickets: tickets.clone() }));
        Some((config, tickets))
    }
}

/// Session tickets of one endpoint address. They are used only once the endpoint has shown that it is one of ours.
#[derive(Default)]
pub(super) struct Tickets {
    /// The endpoint negotiated our own ALPN.
    pub(super) trusted: AtomicBool,
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        // Always the first group: a peer that can't do it asks for another.
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if !self.trusted.load(Relaxed) {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.len() == MAX_TICKETS {
            kept.pop_front();
        }
        kept.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().pop_back()
    }
}

/// Shows the same certificate to everyone.
#[derive(Debug)]
pub(super) struct OneCertificate(pub(super) Arc<CertifiedKey>);

/// A side shows its certificate only to peers that can verify P-256 (proxy-wire §5).
fn understands(schemes: &[rustls::SignatureScheme]) -> bool {
    schemes.contains(&rustls::SignatureScheme::ECDSA_NISTP256_SHA256)
}

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        understands(hello.signature_schemes()).then(|| self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        understands(schemes).then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn server_config(
    material: &Material,
    alpn: &[&[u8]],
    tickets: Option<Arc<dyn rustls::server::ProducesTickets>>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier { anchors: material.anchors.clone() }))
        .with_cert_resolver(Arc::new(OneCertificate(material.credential.certified_key())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Ok(config)
}

fn client_config(material: &Material) -> Result<ClientConfig, rustls::Error> {
    // The verifier is replaced for each endpoint; one that believes nobody stands in until then.
    let nobody = ServerVerifier { anchors: material.anchors.clone(), expect: Identity::Uri("".into()) };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(OneCertificate(material.credential.certified_key())));
    config.resumption = Resumption::disabled();
    Ok(config)
}
