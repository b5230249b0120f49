//! Certificates of clients: asked for, never demanded, and judged after the handshake.
//!
//! TLS takes any certificate whose key the client has, so that a box with an expired one can still log in by its password and
//! be told in words. What a certificate is worth is said by [`Clients::examine`], at every connection anew: a resumed one
//! brings its certificate along, and may have been revoked since.

use std::{collections::HashSet, fs, path::PathBuf, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    asn1_rs::{TaggedExplicit, Utf8String, oid},
    prelude::{FromDer, GeneralName, X509Certificate},
};

use super::TlsError;
use crate::domain::sha256;

/// The most names of one kind that are read from a certificate.
const NAMES_MAX: usize = 16;

/// Where it says whose certificates are good.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// The authorities, in PEM.
    pub ca: Option<PathBuf>,
    /// What they revoked: CRLs in PEM, or serial numbers in hexadecimal, one a line.
    pub revoked: Option<PathBuf>,
    /// Certificates that nobody vouches for are told, too: the registry may know them.
    pub pinned: bool,
}

/// What a client's certificate says, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// An authority of the operator vouches for it, for the authentication of clients.
    pub trusted: bool,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// Its `id-on-xmppAddr` (RFC 6120 §13.7.1.4).
    pub xmpp_addresses: Vec<String>,
    /// Its URIs.
    pub uris: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
}

/// The files, as they are read.
#[derive(Debug, Default)]
pub(super) struct ClientMaterial {
    pub(super) ca: Vec<u8>,
    pub(super) revoked: Vec<u8>,
    pinned: bool,
    asked: bool,
}

impl ClientFiles {
    pub(super) fn load(&self) -> Result<ClientMaterial, TlsError> {
        let read = |path: &Option<PathBuf>| match path {
            Some(path) => fs::read(path).map_err(|error| TlsError::ClientFile {
                path: path.clone(),
                why: error.to_string(),
            }),
            None => Ok(Vec::new()),
        };
        Ok(ClientMaterial {
            ca: read(&self.ca)?,
            revoked: read(&self.revoked)?,
            pinned: self.pinned,
            asked: self.pinned || self.ca.is_some(),
        })
    }

    fn unusable(path: &Option<PathBuf>, why: impl ToString) -> TlsError {
        TlsError::ClientFile {
            path: path.clone().unwrap_or_default(),
            why: why.to_string(),
        }
    }

    /// What judges certificates; `None` when none are asked for.
    pub(super) fn clients(&self, material: &ClientMaterial) -> Result<Option<Clients>, TlsError> {
        if !material.asked {
            return Ok(None);
        }
        let Revoked { crls, serials } = revocations(&material.revoked).map_err(|why| Self::unusable(&self.revoked, why))?;
        let authority = match &self.ca {
            Some(_) => Some(authority(&material.ca, crls).map_err(|why| Self::unusable(&self.ca, why))?),
            None => None,
        };
        Ok(Some(Clients {
            authority,
            serials,
            pinned: material.pinned,
        }))
    }
}

/// The authorities in `pem`, and the certificates that they revoked.
fn authority(pem: &[u8], crls: Vec<CertificateRevocationListDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate.map_err(|error| error.to_string());
        added.and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::new(provider::default_provider()))
        .with_crls(crls)
        // An authority without a list has revoked nothing.
        .allow_unknown_revocation_status();
    verifier.build().map_err(|error| error.to_string())
}

/// What the authorities revoked, in one way or the other.
#[derive(Default)]
struct Revoked {
    crls: Vec<CertificateRevocationListDer<'static>>,
    serials: HashSet<Vec<u8>>,
}

/// Reads CRLs, or a list of serial numbers.
fn revocations(text: &[u8]) -> Result<Revoked, String> {
    let words = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    if words.contains("-----BEGIN") {
        let crls = CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let crls = crls.map_err(|error| error.to_string())?;
        if crls.is_empty() {
            return Err("it holds no X509 CRL in PEM".into());
        }
        return Ok(Revoked {
            crls,
            ..Revoked::default()
        });
    }
    let lines = words.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let serials = lines.filter(|line| !line.is_empty()).map(|line| {
        let digits: String = line.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        let even = if digits.len().is_multiple_of(2) {
            digits
        } else {
            format!("0{digits}")
        };
        let serial = data_encoding::HEXLOWER.decode(even.as_bytes());
        serial
            .map(|serial| number(&serial))
            .map_err(|_| format!("{line:?} is no serial number in hexadecimal"))
    });
    Ok(Revoked {
        serials: serials.collect::<Result<_, _>>()?,
        ..Revoked::default()
    })
}

/// A serial number without leading zeros.
fn number(serial: &[u8]) -> Vec<u8> {
    serial.iter().copied().skip_while(|byte| *byte == 0).collect()
}

/// Judges certificates of clients.
#[derive(Debug)]
pub struct Clients {
    authority: Option<Arc<dyn ClientCertVerifier>>,
    serials: HashSet<Vec<u8>>,
    pinned: bool,
}

impl Clients {
    /// What the chain that a client showed is worth now; `None`: nothing.
    pub fn examine(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<ClientCertificate> {
        let (leaf, intermediates) = chain.split_first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        if self.serials.contains(&number(parsed.raw_serial())) {
            return None;
        }
        let verdict = self
            .authority
            .as_ref()
            .map(|authority| authority.verify_client_cert(leaf, intermediates, now));
        let trusted = matches!(verdict, Some(Ok(_)));
        if !trusted {
            use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, Revoked};
            let over = matches!(
                verdict,
                Some(Err(Error::InvalidCertificate(
                    Revoked | Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
                )))
            );
            let now = i64::try_from(now.as_secs()).ok()?;
            let validity = parsed.validity();
            let in_time = validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp();
            if !self.pinned || over || !in_time {
                return None;
            }
        }
        let mut found = ClientCertificate {
            trusted,
            sha256: sha256(leaf),
            xmpp_addresses: Vec::new(),
            uris: Vec::new(),
            common_name: None,
        };
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::OtherName(kind, value) if *kind == oid!(1.3.6.1.5.5.7.8.5) => {
                        found.xmpp_addresses.extend(utf8(value));
                    }
                    GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
                    _ => {}
                }
            }
        }
        found.xmpp_addresses.truncate(NAMES_MAX);
        found.uris.truncate(NAMES_MAX);
        let mut names = parsed.subject().iter_common_name();
        found.common_name = match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().ok().map(str::to_owned),
            _ => None,
        };
        Some(found)
    }

    /// What asks for certificates in the handshake.
    pub(super) fn asking(&self) -> Arc<dyn ClientCertVerifier> {
        let hints = match &self.authority {
            // A client that is told whose certificates are wanted would not show one of its own.
            Some(authority) if !self.pinned => authority.root_hint_subjects().to_vec(),
            _ => Vec::new(),
        };
        Arc::new(Asking {
            hints,
            provider: provider::default_provider(),
        })
    }
}

/// The value of an `id-on-xmppAddr`: `[0] EXPLICIT UTF8String`.
fn utf8(value: &[u8]) -> Option<String> {
    let (_, text) = TaggedExplicit::<Utf8String<'_>, x509_parser::asn1_rs::Error, 0>::from_der(value).ok()?;
    Some(text.into_inner().string())
}

/// Asks for a certificate and takes any whose key the client has.
#[derive(Debug)]
struct Asking {
    hints: Vec<DistinguishedName>,
    provider: CryptoProvider,
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
