//! Whom connections to Redis trust and what they show: files, looked at for each new connection, so that a renewed certificate or
//! password is taken without a restart.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::Config;

/// What is wrong with a file that connections to Redis need.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read, or does not hold what it should.
    #[error("{setting} = \"{}\" cannot be used: {why}", .path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system trusts nobody.
    #[error("the system has no certificates of authorities; name that of Redis in redis.tls_ca")]
    NoRoots,
    /// TLS cannot be set up with them.
    #[error("TLS to Redis cannot be set up: {0}")]
    Tls(String),
}

/// The files. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Access(Arc<Inner>);

#[derive(Default)]
struct Inner {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    password: PathBuf,
    made: Mutex<Option<Made>>,
}

/// TLS as the files said last.
struct Made {
    read: Read,
    tls: Arc<ClientConfig>,
}

/// What the files of TLS hold.
#[derive(PartialEq, Eq)]
struct Read {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Access {
    pub(super) fn of(config: &Config) -> Self {
        Self(Arc::new(Inner {
            ca: config.tls_ca.clone(),
            certificate: config.tls_certificate.clone(),
            key: config.tls_key.clone(),
            password: config.password_file.clone(),
            made: Mutex::default(),
        }))
    }

    /// The same without a password.
    pub(super) fn without_password(&self) -> Self {
        Self(Arc::new(Inner {
            ca: self.0.ca.clone(),
            certificate: self.0.certificate.clone(),
            key: self.0.key.clone(),
            ..Inner::default()
        }))
    }

    /// TLS as the files say now: the same as before while they are the same, so that sessions are resumed.
    pub(super) async fn tls(&self) -> Result<Arc<ClientConfig>, AccessError> {
        let access = self.clone();
        off_the_loop(move || access.make_tls()).await
    }

    /// The password that the file holds now. `None`: there is no file.
    pub(super) async fn password(&self) -> Result<Option<String>, AccessError> {
        if self.0.password.as_os_str().is_empty() {
            return Ok(None);
        }
        let access = self.clone();
        off_the_loop(move || {
            let (setting, path) = ("redis.password_file", &access.0.password);
            let bytes = read(setting, path)?;
            let text = String::from_utf8(bytes).map_err(|_| unusable(setting, path, "it is not UTF-8"))?;
            match text.trim_end_matches(['\r', '\n']) {
                "" => Err(unusable(setting, path, "it is empty")),
                password => Ok(Some(password.to_owned())),
            }
        })
        .await
    }

    fn make_tls(&self) -> Result<Arc<ClientConfig>, AccessError> {
        let files = &*self.0;
        let read = Read {
            ca: read("redis.tls_ca", &files.ca)?,
            certificate: read("redis.tls_certificate", &files.certificate)?,
            key: read("redis.tls_key", &files.key)?,
        };
        if let Some(made) = files.made.lock().as_ref().filter(|made| made.read == read) {
            return Ok(made.tls.clone());
        }
        let failed = |error: rustls::Error| AccessError::Tls(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(self.roots(&read.ca)?);
        let tls = if read.certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain = certificates("redis.tls_certificate", &files.certificate, &read.certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read.key)
                .map_err(|error| unusable("redis.tls_key", &files.key, format!("it holds no private key in PEM: {error}")))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                unusable(
                    "redis.tls_key",
                    &files.key,
                    format!("it does not fit redis.tls_certificate: {error}"),
                )
            })?
        };
        let tls = Arc::new(tls);
        *files.made.lock() = Some(Made { read, tls: tls.clone() });
        Ok(tls)
    }

    /// The authority of the file, or those that the system trusts.
    fn roots(&self, pem: &[u8]) -> Result<RootCertStore, AccessError> {
        let mut roots = RootCertStore::empty();
        if pem.is_empty() {
            // One certificate among many that cannot be used does not keep the others from being trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return if roots.is_empty() { Err(AccessError::NoRoots) } else { Ok(roots) };
        }
        let (setting, path) = ("redis.tls_ca", &self.0.ca);
        for certificate in certificates(setting, path, pem)? {
            roots.add(certificate).map_err(|error| unusable(setting, path, error))?;
        }
        Ok(roots)
    }
}

impl fmt::Debug for Access {
    /// Which files; never what they hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            ca,
            certificate,
            key,
            password,
            made: _,
        } = &*self.0;
        write!(f, "Access({ca:?}, {certificate:?}, {key:?}, {password:?})")
    }
}

/// Files are read where waiting for a disk holds nobody up.
async fn off_the_loop<T: Send + 'static>(work: impl FnOnce() -> Result<T, AccessError> + Send + 'static) -> Result<T, AccessError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(AccessError::Tls(error.to_string())))
}

/// What a file holds; of a setting that names none, nothing.
fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    std::fs::read(path).map_err(|error: io::Error| unusable(setting, path, error))
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(setting, path, "it holds no certificate in PEM")),
        Err(error) => Err(unusable(setting, path, format!("it holds no certificate in PEM: {error}"))),
    }
}

fn unusable(setting: &'static str, path: &Path, why: impl fmt::Display) -> AccessError {
    AccessError::File {
        setting,
        path: path.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(directory: &Path, with_key: bool) -> Access {
        let config = Config {
            tls_ca: directory.join("ca.pem"),
            tls_certificate: directory.join("own.pem"),
            tls_key: directory.join(if with_key { "own-key.pem" } else { "none.pem" }),
            password_file: directory.join("password"),
            ..Config::default()
        };
        Access::of(&config)
    }

    fn issue(directory: &Path) {
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(vec!["node".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        for file in ["ca.pem", "own.pem"] {
            std::fs::write(directory.join(file), own.pem()).unwrap();
        }
        std::fs::write(directory.join("own-key.pem"), key.serialize_pem()).unwrap();
    }

    #[tokio::test]
    async fn files_are_taken_anew_when_they_change_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        issue(directory.path());
        let access = access(directory.path(), true);
        let first = access.tls().await.unwrap();
        assert!(Arc::ptr_eq(&first, &access.tls().await.unwrap()));
        issue(directory.path());
        assert!(!Arc::ptr_eq(&first, &access.tls().await.unwrap()));

        std::fs::write(directory.path().join("password"), "hush\n").unwrap();
        assert_eq!(access.password().await.unwrap().as_deref(), Some("hush"));
        assert!(!format!("{access:?}").contains("hush"));
    }

    #[tokio::test]
    async fn each_file_that_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        issue(directory.path());
        let error = access(directory.path(), false).tls().await.unwrap_err().to_string();
        assert!(error.contains("redis.tls_key") && error.contains("none.pem"), "{error}");
        std::fs::write(directory.path().join("ca.pem"), "no PEM").unwrap();
        let error = access(directory.path(), true).tls().await.unwrap_err().to_string();
        assert!(error.contains("redis.tls_ca") && error.contains("no certificate in PEM"), "{error}");
        std::fs::write(directory.path().join("password"), "\n").unwrap();
        let error = access(directory.path(), true).password().await.unwrap_err().to_string();
        assert!(error.contains("redis.password_file") && error.contains("empty"), "{error}");
    }
}
