//! The settings of `[tls]`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A certificate of the operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// A file with the chain in PEM.
    pub certificate: PathBuf,
    /// A file with the private key in PEM.
    pub key: PathBuf,
}

/// The certificate of all TLS listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file with the certificate chain in PEM, the service's own first. Default: "", which makes one and keeps it in the data directory.
    pub certificate: PathBuf,
    /// A file with the private key in PEM. Default: "".
    pub key: PathBuf,
    /// More certificates, for the domains of other tenants: `[{certificate = "tv.pem", key = "tv-key.pem"}]`. A client is shown the one
    /// that is good for the name it asks for (SNI), else the first. Default: [].
    pub certificates: Vec<Pair>,
    /// A file with the authorities that vouch for certificates of devices, in PEM. TLS then asks for a certificate and does not demand
    /// one; who shows a good one may log in by it (EXTERNAL). Default: "", which asks for none.
    pub client_ca: PathBuf,
    /// A file with what those authorities revoked: CRLs in PEM, or serial numbers in hexadecimal, one a line. Default: "".
    pub client_revoked: PathBuf,
    /// Ask for certificates that no authority vouches for, too, such as self-signed ones: one opens the door to the device whose
    /// credentials name its SHA-256, and to no other. Default: false.
    pub client_pinned: bool,
    /// How often the files are looked at for a change, in seconds; SIGHUP has them looked at at once. Default: 60.
    pub reload_secs: u64,
    /// Serve beyond loopback with the generated certificate: who does not hold its `ca.pem` cannot tell the service from an impostor. Default: false.
    pub risk_impostors_beyond_loopback: bool,
    /// Serve HTTP, or the admin listener, without TLS beyond loopback: API keys and events can be read on the way. Default: false.
    pub risk_readable_keys_beyond_loopback: bool,
    /// Let devices log in without TLS beyond loopback: passwords and events can be read on the way. Default: false.
    pub risk_readable_passwords_beyond_loopback: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            certificates: Vec::new(),
            client_ca: PathBuf::new(),
            client_revoked: PathBuf::new(),
            client_pinned: false,
            reload_secs: 60,
            risk_impostors_beyond_loopback: false,
            risk_readable_keys_beyond_loopback: false,
            risk_readable_passwords_beyond_loopback: false,
        }
    }
}

impl Config {
    /// Whether the certificate is the one that the service makes itself.
    pub fn generates_certificate(&self) -> bool {
        self.certificate.as_os_str().is_empty() && self.key.as_os_str().is_empty()
    }

    /// Where it says whose certificates are good.
    pub fn client_files(&self) -> super::ClientFiles {
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        super::ClientFiles {
            ca: given(&self.client_ca),
            revoked: given(&self.client_revoked),
            pinned: self.client_pinned,
        }
    }

    /// [`Self::reload_secs`] as a duration.
    pub fn reload_every(&self) -> Duration {
        Duration::from_secs(self.reload_secs.max(1))
    }
}
