//! What a TLS listener serves with: made whole, replaced whole.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::{
    ServerConfig, SupportedCipherSuite,
    crypto::{aws_lc_rs, hash::HashAlgorithm},
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, ProducesTickets},
};

use super::{
    Clients, TicketSecrets,
    end_point::end_point,
    exporter::Exporter,
    names::{ByName, Names},
};
use crate::certificate::Identity;

/// Certificates, as all TLS listeners serve them.
#[derive(Debug)]
pub struct Served {
    /// For devices: ALPN `xmpp-client`. A client without ALPN is taken, too; one that offers only other protocols is not
    /// (XEP-0368 §3).
    pub devices: Arc<ServerConfig>,
    /// For HTTPS: ALPN `http/1.1`.
    pub web: Arc<ServerConfig>,
    /// The first certificate, in DER.
    pub leaf: CertificateDer<'static>,
    /// `tls-server-end-point` of each certificate, which logins can be bound to.
    end_points: Vec<Option<Arc<[u8]>>>,
    names: Arc<Names>,
    /// Judges certificates of devices, if they are asked for one.
    pub clients: Option<Clients>,
}

/// Makes what seals the tickets of a listener.
type MakeTicketer<'a> = dyn Fn(&'static str) -> Result<Arc<dyn ProducesTickets>, rustls::Error> + 'a;

impl Served {
    /// TLS 1.2 and 1.3 with that one certificate, and stateless tickets of its own.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or the system gives no random bytes.
    pub fn new(identity: &Identity, clients: Option<Clients>) -> Result<Self, rustls::Error> {
        Self::of(std::slice::from_ref(identity), clients)
    }

    /// The same with a certificate for each of several domains: the first is for all that ask for no other.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(identities: &[Identity], clients: Option<Clients>) -> Result<Self, rustls::Error> {
        Self::with(identities, clients, &|_| aws_lc_rs::Ticketer::new())
    }

    /// The same with tickets that all nodes take which have these secrets and serve with the same. `digest`: of what is served with.
    ///
    /// # Errors
    /// When the key does not fit the certificate.
    pub fn sharing(
        identities: &[Identity],
        clients: Option<Clients>,
        secrets: &TicketSecrets,
        digest: [u8; 32],
    ) -> Result<Self, rustls::Error> {
        Self::with(identities, clients, &|listener| Ok(secrets.ticketer(listener, digest)))
    }

    /// `tls-server-end-point` of the certificate that a handshake took ([`super::take_chosen`]).
    pub fn end_point(&self, chosen: u16) -> Option<Arc<[u8]>> {
        self.end_points.get(usize::from(chosen)).cloned().flatten()
    }

    /// Whether one of the certificates is good for that domain, in lower case.
    pub fn covers(&self, domain: &str) -> bool {
        self.names.find(domain).is_some()
    }

    fn with(identities: &[Identity], clients: Option<Clients>, ticketer: &MakeTicketer<'_>) -> Result<Self, rustls::Error> {
        let first = identities.first().and_then(|identity| identity.chain.first());
        let leaf = first.cloned().ok_or(rustls::Error::NoCertificatesPresented)?;
        let names = Arc::new(Names::of(identities));
        let shown = |tells| ByName::new(names.clone(), identities, tells).map(Arc::new);
        let mut devices = config(shown(true)?, clients.as_ref(), b"xmpp-client", ticketer("devices")?)?;
        devices.key_log = Arc::new(Exporter);
        devices.ignore_client_order = true;
        Ok(Self {
            devices: Arc::new(devices),
            web: Arc::new(config(shown(false)?, None, b"http/1.1", ticketer("web")?)?),
            end_points: identities.iter().map(|identity| end_point(&identity.chain)).collect(),
            names,
            leaf,
            clients,
        })
    }
}

/// X25519 goes before X25519MLKEM768: it saves 14 µs of the 92 µs that a handshake costs the server, and logins come in storms.
/// A client that insists on the hybrid gets it. So does one that insists on SHA-384: processors have instructions for SHA-256
/// only, and most clients name AES-256-GCM with SHA-384 first; it took a thirteenth of a login's CPU.
fn config(
    certificates: Arc<ByName>,
    clients: Option<&Clients>,
    protocol: &[u8],
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    provider.cipher_suites.sort_by_key(|suite| hash(suite) == HashAlgorithm::SHA384);
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.asking()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![protocol.to_vec()];
    // A fleet that comes back resumes from tickets; a table of sessions would hold a few hundred.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ticketer;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn hash(suite: &SupportedCipherSuite) -> HashAlgorithm {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.algorithm(),
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.algorithm(),
    }
}

/// The [`Served`] of the moment. Cheap to clone; all clones see a replacement.
#[derive(Clone, Debug)]
pub struct Current(Arc<RwLock<Arc<Served>>>);

impl Current {
    /// Begins with `served`.
    pub fn new(served: Served) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(served))))
    }

    /// What a connection that begins now is served with.
    pub fn get(&self) -> Arc<Served> {
        self.0.read().clone()
    }

    /// Serves every connection that begins from now on with `served`.
    pub(super) fn replace(&self, served: Served) {
        *self.0.write() = Arc::new(served);
    }
}
