//! A certification authority of the test, and who shows what it issued.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::SOON;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// A certificate and its key, in files.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
}

impl Authority {
    /// Its certificate is `NAME-ca.pem` in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            issuer,
            directory: directory.to_owned(),
        };
        fs::write(directory.join(format!("{name}-ca.pem")), authority.issuer.pem()).unwrap();
        authority
    }

    /// A certificate of a server, for `localhost`.
    pub fn server(&self, file: &str) -> Issued {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, params)
    }

    /// What these parameters say, as `FILE.pem` and `FILE-key.pem`.
    pub fn issue(&self, file: &str, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = certificate.der().clone();
        self.write(file, &certificate.pem(), &key, der)
    }

    /// The same, signed by itself.
    pub fn self_signed(&self, file: &str, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der().clone();
        self.write(file, &certificate.pem(), &key, der)
    }

    fn write(&self, file: &str, certificate: &str, key: &KeyPair, der: CertificateDer<'static>) -> Issued {
        let issued = Issued {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}-key.pem")),
            der,
        };
        fs::write(&issued.key, key.serialize_pem()).unwrap();
        fs::write(&issued.certificate, certificate).unwrap();
        issued
    }

    /// A list that revokes these serial numbers, in PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let now = std::time::SystemTime::now();
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + std::time::Duration::from_secs(86_400)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now.into(),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A client's TLS: whom it trusts, what it shows, and which version it speaks.
pub struct Client {
    config: Arc<rustls::ClientConfig>,
}

/// A connection with TLS, said by hand.
pub struct Secure(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Client {
    /// One that shows nothing, or the certificate that was issued.
    pub fn new(ca: &Path, alpn: &[u8], shows: Option<&Issued>, version: &'static rustls::SupportedProtocolVersion) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
                builder.with_client_auth_cert(vec![issued.der.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Self { config: Arc::new(config) }
    }

    /// Connects; `before` is what goes ahead of TLS, up to the answer that ends in its second part. A client resumes TLS when it can.
    pub fn connect(&self, address: SocketAddr, before: Option<(&str, &str)>) -> Secure {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        if let Some((said, until)) = before {
            socket.write_all(said.as_bytes()).unwrap();
            read_until(&mut socket, until);
        }
        let mut tls = rustls::ClientConnection::new(self.config.clone(), "localhost".try_into().unwrap()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).unwrap();
        }
        Secure(rustls::StreamOwned::new(tls, socket))
    }
}

impl Secure {
    /// The certificate that the service shows.
    pub fn peer(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Says that, and gives the answer up to `until`, which must come.
    #[track_caller]
    pub fn says(&mut self, text: &str, until: &str) -> String {
        self.0.write_all(text.as_bytes()).unwrap();
        read_until(&mut self.0, until)
    }
}

#[track_caller]
fn read_until(from: &mut impl Read, until: &str) -> String {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(until.as_bytes()) {
        if let Err(error) = from.read_exact(&mut byte) {
            panic!("{error} before {until} in {:?}", String::from_utf8_lossy(&answer));
        }
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

/// The certificate that the service at `address` shows.
pub fn peer(address: SocketAddr, ca: &Path, alpn: &[u8], before: Option<(&str, &str)>) -> CertificateDer<'static> {
    Client::new(ca, alpn, None, &rustls::version::TLS13).connect(address, before).peer()
}
