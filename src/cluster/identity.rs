//! Who a node is to the others: a certificate that it made at its start, known by its fingerprint in the table of nodes.

use std::sync::Arc;

use parking_lot::RwLock;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::default_provider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::BindError;
use crate::{domain::sha256, store::Peer};

/// The protocol and its version: nodes that speak another one do not talk to each other.
const PROTOCOL: &[u8] = b"unpoll-cluster/1";

/// SHA-256 of a certificate.
pub(super) type Fingerprint = [u8; 32];

/// The nodes that live, as the store knows them.
pub(super) type Known = Arc<RwLock<Arc<[Peer]>>>;

/// The certificate and key of this node, in memory only.
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(super) fn make() -> Result<Self, BindError> {
        let made = || {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = CertificateParams::new(vec!["node.unpoll.invalid".to_owned()])?.self_signed(&pair)?;
            Ok::<_, rcgen::Error>((certificate.der().clone(), pair.serialize_der()))
        };
        let (certificate, key) = made().map_err(|error| BindError::Identity(error.to_string()))?;
        Ok(Self {
            certificate,
            key: PrivatePkcs8KeyDer::from(key).into(),
            provider: Arc::new(default_provider()),
        })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        sha256(&self.certificate)
    }

    /// For connections of others: a certificate that no live node published ends the handshake.
    pub(super) fn server(&self, known: Known) -> Result<ServerConfig, Error> {
        let trust = Arc::new(Trust {
            known,
            wanted: None,
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(trust)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Each connection shows its certificate: a node that is out of the table does not come back by a ticket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For a connection to the node with that certificate.
    pub(super) fn client(&self, wanted: Fingerprint) -> Result<ClientConfig, Error> {
        let trust = Arc::new(Trust {
            known: Known::default(),
            wanted: Some(wanted),
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(trust)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// Trusts exactly the certificates of live nodes, or the one of the node that was dialled. Names and dates in them mean nothing; that
/// the other side has the key is proved by its signature of the handshake.
#[derive(Debug)]
struct Trust {
    known: Known,
    wanted: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let shown = sha256(certificate);
        let trusted = match self.wanted {
            Some(wanted) => shown == wanted,
            None => self.known.read().iter().any(|peer| peer.fingerprint == shown),
        };
        if trusted {
            Ok(())
        } else {
            Err(Error::General("the certificate is of no live node".into()))
        }
    }

    fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nodes speak TLS 1.3".into()))
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
