//! The certificate of the TLS listeners: the operator's files, or one that the service makes for itself.
//!
//! The one it makes comes from a certification authority of its own, kept in the data directory: `ca.pem` is what devices
//! and callers are given to trust, and it stays the same for ten years; `certificate.pem` and `key.pem` are the service's,
//! renewed when less than 30 days are left.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The file of the authority's certificate in the data directory: give it to whoever connects.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
/// The file with the service's own certificate there.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
/// The file with its private key there.
pub const KEY_FILE: &str = "key.pem";
/// The directory there with a directory for each other domain.
const DOMAINS_DIRECTORY: &str = "domains";

const DAY: Duration = Duration::from_secs(86_400);
/// The longest that clients accept for a certificate of a server (CA/Browser Forum's limit is 398 days).
const LEAF_DAYS: u32 = 397;
const CA_DAYS: u32 = 3_653;
/// Renewed when less is left.
const RENEW_DAYS: u32 = 30;
/// Dates start a day early, for clients whose clock is behind.
const BACKDATED_DAYS: u32 = 1;

/// A certificate chain, the service's own first, and its private key.
#[derive(Debug)]
pub struct Identity {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

/// Why there is no certificate. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file or directory that cannot be read or written.
    #[error("{path} cannot be {done}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read or written.
        done: &'static str,
        /// Why.
        error: io::Error,
    },
    /// A file without the PEM that is wanted.
    #[error("{path} holds no {wanted} in PEM: {why}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Certificate or private key.
        wanted: &'static str,
        /// What the parser says.
        why: String,
    },
    /// Certificate and key that are not a pair, or that TLS cannot use.
    #[error("{certificate} and {key} cannot be used together: {why}")]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        why: rustls::Error,
    },
    /// No certificate could be made.
    #[error("no certificate can be made for {domain}: {why}")]
    Make {
        /// For which domain.
        domain: String,
        /// Why.
        why: rcgen::Error,
    },
}

/// Reads the operator's certificate chain and private key.
///
/// # Errors
/// When a file cannot be read, holds no PEM, or the two are no pair.
pub fn load(certificate: &Path, key: &Path) -> Result<Identity, CertificateError> {
    let pem = |path: &Path, wanted, why: String| CertificateError::Pem {
        path: path.to_owned(),
        wanted,
        why,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(certificate, "certificate", error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(certificate, "certificate", "there is no CERTIFICATE section".into()));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| pem(key, "private key", error.to_string()))?;
    let identity = Identity { chain, key: secret };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider).map_err(|why| {
        CertificateError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            why,
        }
    })?;
    Ok(identity)
}

/// The service's own certificate for `domain`, `localhost` and the loopback addresses, made in `directory` unless a good one
/// is there: it stays the same from start to start. The key files have mode 0600.
///
/// # Errors
/// When a file cannot be read or written, or the domain fits no certificate.
pub fn generated(directory: &Path, domain: &str, now: SystemTime) -> Result<Identity, CertificateError> {
    let (certificate, key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    let ca_is_new = ensure_ca(directory, domain, now)?;
    if ca_is_new || !serves(&certificate, &key, domain, now) {
        make_leaf(directory, directory, domain, names(domain), now)?;
    }
    load(&certificate, &key)
}

/// One for another domain that the service answers for, by the same authority, which [`generated`] made: for that domain alone, so
/// that it tells of no other. It is kept in `directory/domains/DOMAIN`.
///
/// # Errors
/// As [`generated`].
pub fn generated_for(directory: &Path, domain: &str, now: SystemTime) -> Result<Identity, CertificateError> {
    let own = directory.join(DOMAINS_DIRECTORY).join(domain);
    let (certificate, key) = (own.join(CERTIFICATE_FILE), own.join(KEY_FILE));
    let authority = load(&directory.join(CA_FILE), &directory.join(CA_KEY_FILE))?;
    let by_this_authority = |identity: &Identity| identity.chain.last() == authority.chain.last();
    if !serves(&certificate, &key, domain, now) || !load(&certificate, &key).is_ok_and(|identity| by_this_authority(&identity)) {
        fs::create_dir_all(&own).map_err(|error| CertificateError::File {
            path: own.clone(),
            done: "made",
            error,
        })?;
        make_leaf(directory, &own, domain, vec![domain.to_owned()], now)?;
    }
    load(&certificate, &key)
}

/// Makes the authority if there is none that lasts longer than a certificate it would issue. Answers whether it did.
fn ensure_ca(directory: &Path, domain: &str, now: SystemTime) -> Result<bool, CertificateError> {
    let (ca, key) = (directory.join(CA_FILE), directory.join(CA_KEY_FILE));
    if load(&ca, &key).is_ok_and(|ca| lasts(&ca, now, LEAF_DAYS)) {
        return Ok(false);
    }
    fs::create_dir_all(directory).map_err(|error| CertificateError::File {
        path: directory.to_owned(),
        done: "made",
        error,
    })?;
    let made = || -> Result<(String, String), rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = dated(now, CA_DAYS, &format!("unpoll authority of {domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok((params.self_signed(&pair)?.pem(), pair.serialize_pem()))
    };
    let (certificate, secret) = made().map_err(|why| CertificateError::Make {
        domain: domain.to_owned(),
        why,
    })?;
    write(&key, &secret, 0o600)?;
    write(&ca, &certificate, 0o644)?;
    Ok(true)
}

/// Makes a certificate in `directory`, good for `names`, by the authority in `authority`.
fn make_leaf(authority: &Path, directory: &Path, domain: &str, names: Vec<String>, now: SystemTime) -> Result<(), CertificateError> {
    let text = |file: &str| -> Result<String, CertificateError> {
        let path = authority.join(file);
        fs::read_to_string(&path).map_err(|error| CertificateError::File { path, done: "read", error })
    };
    let (ca, ca_key) = (text(CA_FILE)?, text(CA_KEY_FILE)?);
    let made = || -> Result<(String, String), rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&ca_key)?)?;
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = dated(now, LEAF_DAYS, domain);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&pair, &issuer)?.pem(), pair.serialize_pem()))
    };
    let (leaf, secret) = made().map_err(|why| CertificateError::Make {
        domain: domain.to_owned(),
        why,
    })?;
    // A crash between the two leaves no pair, which the next start notices and makes anew.
    write(&directory.join(KEY_FILE), &secret, 0o600)?;
    write(&directory.join(CERTIFICATE_FILE), &format!("{leaf}{ca}"), 0o644)
}

fn dated(now: SystemTime, days: u32, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - DAY * BACKDATED_DAYS).into();
    params.not_after = (now + DAY * days).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// What the certificate is good for.
fn names(domain: &str) -> Vec<String> {
    let mut names = vec![domain.to_owned(), "localhost".into(), "127.0.0.1".into(), "::1".into()];
    names.dedup();
    names
}

/// Whether the files hold a pair that names the domain and is not due for renewal.
fn serves(certificate: &Path, key: &Path, domain: &str, now: SystemTime) -> bool {
    load(certificate, key).is_ok_and(|identity| lasts(&identity, now, RENEW_DAYS) && names_domain(&identity, domain))
}

fn lasts(identity: &Identity, now: SystemTime, days: u32) -> bool {
    let Ok(until) = (now + DAY * days).duration_since(SystemTime::UNIX_EPOCH) else {
        return false;
    };
    leaf(identity).is_some_and(|leaf| u64::try_from(leaf.validity().not_after.timestamp()).is_ok_and(|end| end > until.as_secs()))
}

fn names_domain(identity: &Identity, domain: &str) -> bool {
    dns_names(identity).iter().any(|name| name == domain)
}

/// The DNS names that the certificate is good for, in lower case; one may begin with `*.` (RFC 9525 §6.3).
pub fn dns_names(identity: &Identity) -> Vec<String> {
    let Some(leaf) = leaf(identity) else { return Vec::new() };
    let Ok(Some(names)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

/// When the service's own certificate expires, in seconds since 1970.
pub fn expires_at(identity: &Identity) -> Option<i64> {
    Some(leaf(identity)?.validity().not_after.timestamp())
}

fn leaf(identity: &Identity) -> Option<X509Certificate<'_>> {
    let (_, leaf) = X509Certificate::from_der(identity.chain.first()?).ok()?;
    Some(leaf)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|error| CertificateError::File {
        path: path.to_owned(),
        done: "read",
        error,
    })
}

/// Writes beside the file and renames: a reader sees the old or the new, whole.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let wrote = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    wrote().map_err(|error| CertificateError::File {
        path: path.to_owned(),
        done: "written",
        error,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    #[test]
    fn the_certificate_stays_the_same_from_start_to_start() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let first = generated(&data, "push.example", now()).unwrap();
        let second = generated(&data, "push.example", now() + DAY * 300).unwrap();
        assert_eq!(first.chain, second.chain);
        assert_eq!(first.chain.len(), 2);
        for secret in [KEY_FILE, CA_KEY_FILE] {
            assert_eq!(fs::metadata(data.join(secret)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn close_to_its_end_it_is_renewed_by_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let first = generated(directory.path(), "push.example", now()).unwrap();
        let ca = fs::read(directory.path().join(CA_FILE)).unwrap();
        let renewed = generated(directory.path(), "push.example", now() + DAY * (LEAF_DAYS - RENEW_DAYS + 1)).unwrap();
        assert_ne!(first.chain[0], renewed.chain[0]);
        assert_eq!(first.chain[1], renewed.chain[1]);
        assert_eq!(ca, fs::read(directory.path().join(CA_FILE)).unwrap());
    }

    #[test]
    fn another_domain_has_a_certificate_of_its_own_by_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let first = generated(directory.path(), "push.example", now()).unwrap();
        let other = generated_for(directory.path(), "tv.example", now()).unwrap();
        assert_eq!(dns_names(&other), ["tv.example"]);
        assert_eq!(first.chain[1], other.chain[1]);
        assert_eq!(generated_for(directory.path(), "tv.example", now()).unwrap().chain, other.chain);
        // A new authority makes it anew.
        fs::remove_file(directory.path().join(CA_FILE)).unwrap();
        let first = generated(directory.path(), "push.example", now()).unwrap();
        let again = generated_for(directory.path(), "tv.example", now()).unwrap();
        assert!(again.chain[0] != other.chain[0] && again.chain[1] == first.chain[1]);
    }

    #[test]
    fn another_domain_or_a_key_cut_short_makes_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let first = generated(directory.path(), "localhost", now()).unwrap();
        assert!(names_domain(&first, "localhost"));
        let other = generated(directory.path(), "push.example", now()).unwrap();
        assert!(names_domain(&other, "push.example") && names_domain(&other, "localhost"));
        fs::write(directory.path().join(KEY_FILE), "-----BEGIN").unwrap();
        let again = generated(directory.path(), "push.example", now()).unwrap();
        assert_ne!(other.chain[0], again.chain[0]);
    }

    #[test]
    fn a_client_that_trusts_the_authority_trusts_the_service() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let identity = generated(directory.path(), "push.example", now).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(directory.path().join(CA_FILE)).unwrap())
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        for name in ["push.example", "localhost", "127.0.0.1", "::1"] {
            let name = rustls_pki_types::ServerName::try_from(name).unwrap();
            use rustls::client::danger::ServerCertVerifier;
            let time = rustls_pki_types::UnixTime::now();
            verifier
                .verify_server_cert(&identity.chain[0], &identity.chain[1..], &name, &[], time)
                .unwrap();
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        generated(directory.path(), "a.example", now()).unwrap();
        let file = |name: &str| directory.path().join(name);
        fs::write(file("empty"), "").unwrap();
        let check = |certificate: &str, key: &str, expected: &str| {
            let error = load(&file(certificate), &file(key)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("missing", KEY_FILE, "missing cannot be read");
        check("empty", KEY_FILE, "empty holds no certificate in PEM");
        check(CERTIFICATE_FILE, "empty", "empty holds no private key in PEM");
        check(CERTIFICATE_FILE, CA_KEY_FILE, "certificate.pem and ");
    }
}
