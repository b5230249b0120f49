//! `tls-server-end-point` (RFC 5929 §4.1): what a login is bound to when it is bound to the certificate.

use std::sync::Arc;

use aws_lc_rs::digest::{self, Algorithm};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    oid_registry::{
        OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
    },
    prelude::{FromDer, X509Certificate},
};

/// The hash of the first certificate of a chain by the hash of its own signature, SHA-256 for MD5 and SHA-1. `None` where the
/// RFC defines nothing (Ed25519, RSA-PSS): then logins are bound to the exporter alone.
pub fn end_point(chain: &[CertificateDer<'_>]) -> Option<Arc<[u8]>> {
    let leaf = chain.first()?;
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let oid = certificate.signature_algorithm.oid();
    let is = |known: &[_]| known.contains(oid);
    let hash: &'static Algorithm = if is(&[
        OID_PKCS1_SHA256WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_PKCS1_MD5WITHRSAENC,
        OID_PKCS1_SHA1WITHRSA,
    ]) {
        &digest::SHA256
    } else if is(&[OID_PKCS1_SHA384WITHRSA, OID_SIG_ECDSA_WITH_SHA384]) {
        &digest::SHA384
    } else if is(&[OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA512]) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(Arc::from(digest::digest(hash, leaf).as_ref()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> CertificateDer<'static> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let check = |algorithm, hash: &'static Algorithm| {
            let certificate = certificate(algorithm);
            let expected = digest::digest(hash, &certificate);
            assert_eq!(end_point(&[certificate]).as_deref(), Some(expected.as_ref()));
        };
        check(&rcgen::PKCS_ECDSA_P256_SHA256, &digest::SHA256);
        check(&rcgen::PKCS_ECDSA_P384_SHA384, &digest::SHA384);
        assert_eq!(end_point(&[certificate(&rcgen::PKCS_ED25519)]), None);
        assert_eq!(end_point(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }
}
