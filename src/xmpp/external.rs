//! EXTERNAL (RFC 4422 appendix A, XEP-0178 §3): the certificate that the peer showed is its credential.

use std::time::Instant;

use crate::domain::{DeviceId, TenantId};

use super::{
    action::{Action, Pinned},
    error::LoginFailure,
    login::Who,
    stream::{ServerStream, Stage},
};

/// What the peer's certificate proves, as the gateway found it. Its presence has EXTERNAL offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The devices that it names and that an authority vouches for, each with its domain in lower case.
    pub proves: Vec<(DeviceId, String)>,
    /// SHA-256 of the certificate, which the registry may know.
    pub sha256: [u8; 32],
}

/// A login that waits for the registry.
pub(super) struct Asked {
    tenant: TenantId,
    device: DeviceId,
    /// The certificate names the device.
    proven: bool,
}

impl ServerStream {
    /// The peer showed that certificate in the handshake that just ended: told before anything else is received.
    pub fn certificate(&mut self, certificate: PeerCertificate) {
        if let Some(login) = &mut self.login {
            login.certificate = Some(Box::new(certificate));
        }
    }

    /// The device's one message: whom it wants to be, or nothing when its certificate says so already.
    pub(super) fn external(&mut self, authzid: &[u8]) {
        match self.named(authzid) {
            // XEP-0388 §2.2: what the header says must be the truth.
            Ok(asked) if self.says_another(&asked.device) => self.login_failed(LoginFailure::NotAuthorized),
            Ok(asked) => {
                let Some(login) = &mut self.login else { return };
                let Some(certificate) = &login.certificate else {
                    return self.login_failed(LoginFailure::InvalidMechanism);
                };
                self.stage = Stage::Waiting;
                self.actions.push_back(Action::CheckCertificate {
                    tenant: asked.tenant,
                    device: asked.device.clone(),
                    sha256: certificate.sha256,
                });
                login.external = Some(Box::new(asked));
            }
            Err(failure) => self.login_failed(failure),
        }
    }

    /// The header of a stream that logs in by SASL2 came from somebody else.
    fn says_another(&self, device: &DeviceId) -> bool {
        let Some(login) = &self.login else { return false };
        let (Some(_), Some(from), Some((domain, _))) = (&login.inline, &login.from, &login.host) else {
            return false;
        };
        let bare = from.split_once('/').map_or(from.as_str(), |(bare, _)| bare);
        let same =
            |(local, at): (&str, &str)| at.eq_ignore_ascii_case(domain) && local.parse().is_ok_and(|local: DeviceId| local == *device);
        !bare.rsplit_once('@').is_some_and(same)
    }

    fn named(&self, authzid: &[u8]) -> Result<Asked, LoginFailure> {
        let login = self.login.as_ref().ok_or(LoginFailure::InvalidMechanism)?;
        let (domain, tenant) = login.host.as_ref().ok_or(LoginFailure::NotAuthorized)?;
        let certificate = login.certificate.as_ref().ok_or(LoginFailure::InvalidMechanism)?;
        let here = |(_, at): &&(DeviceId, String)| **at == **domain;
        let mut proven: Vec<&DeviceId> = certificate.proves.iter().filter(here).map(|(device, _)| device).collect();
        proven.dedup();
        let asked = |device: DeviceId, proven| Asked {
            tenant: *tenant,
            device,
            proven,
        };
        let text = std::str::from_utf8(authzid).map_err(|_| LoginFailure::MalformedRequest)?;
        if text.contains('\0') {
            return Err(LoginFailure::MalformedRequest);
        }
        if text.is_empty() {
            // Which of several, or of none, it cannot tell (XEP-0178 §3, step 11).
            return match proven[..] {
                [device] => Ok(asked(device.clone(), true)),
                _ => Err(LoginFailure::InvalidAuthzid),
            };
        }
        let (local, at) = text.split_once('@').ok_or(LoginFailure::InvalidAuthzid)?;
        let device: DeviceId = local.parse().map_err(|_| LoginFailure::InvalidAuthzid)?;
        if !at.eq_ignore_ascii_case(domain) {
            return Err(LoginFailure::InvalidAuthzid);
        }
        let is_proven = proven.contains(&&device);
        Ok(asked(device, is_proven))
    }

    /// Answers `CheckCertificate`.
    pub fn certificate_checked(&mut self, found: Pinned, now: Instant) {
        if self.stage != Stage::Waiting {
            return;
        }
        let Some(asked) = self.login.as_mut().and_then(|login| login.external.take()) else {
            return;
        };
        let Asked { tenant, device, proven } = *asked;
        self.stage = Stage::Open;
        let who = |generation| Who {
            tenant,
            device,
            generation,
        };
        match found {
            Pinned::This { generation } => self.login_succeeded(who(generation), b"", None),
            Pinned::None { generation } if proven => self.login_succeeded(who(generation), b"", None),
            Pinned::Unread if proven => self.login_succeeded(who(0), b"", None),
            Pinned::Unavailable | Pinned::Unread => self.login_failed(LoginFailure::TemporaryAuthFailure),
            Pinned::Other | Pinned::Unknown if proven => self.login_failed(LoginFailure::NotAuthorized),
            // Whether there is such a device is nobody's business who cannot prove to be it.
            Pinned::None { .. } | Pinned::Other | Pinned::Unknown => self.login_failed(LoginFailure::InvalidAuthzid),
        }
        self.go_on(now);
    }
}
