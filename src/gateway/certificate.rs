//! Certificates of devices: whom they name, and what the registry says of them.

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use super::{shared::Shared, wire::Secured};
use crate::{
    domain::{Credential, DeviceId, TenantId},
    store::Device,
    tls::ClientCertificate,
    xmpp::{PeerCertificate, Pinned},
};

/// What stands for the device in a pattern.
const DEVICE: &str = "{device}";
/// What stands for the domain of its tenant.
const DOMAIN: &str = "{domain}";

/// Where a certificate without `id-on-xmppAddr` names its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateIdentity {
    /// Nowhere else.
    #[default]
    XmppAddr,
    /// In a URI among its alternative names.
    SanUri,
    /// In the common name of its subject.
    Cn,
}

/// How certificates are read.
pub(super) struct Reading<'a> {
    pub(super) identity: CertificateIdentity,
    pub(super) pattern: &'a str,
    /// The domain of the default tenant, of which a device is whose domain the certificate does not name.
    pub(super) domain: Option<&'a str>,
}

impl Reading<'_> {
    /// The devices that the certificate names, if an authority vouches for it.
    fn proves(&self, certificate: &ClientCertificate) -> Vec<(DeviceId, String)> {
        if !certificate.trusted {
            return Vec::new();
        }
        let addresses = certificate.xmpp_addresses.iter().filter_map(|address| {
            let (local, domain) = address.split_once('@')?;
            Some((local.parse().ok()?, domain.to_ascii_lowercase()))
        });
        let addresses: Vec<_> = addresses.collect();
        if !certificate.xmpp_addresses.is_empty() {
            return addresses;
        }
        let device = |text: &str| {
            let (device, domain) = named(text, self.pattern)?;
            Some((device, domain.or_else(|| self.domain.map(str::to_owned))?))
        };
        match self.identity {
            CertificateIdentity::XmppAddr => Vec::new(),
            CertificateIdentity::SanUri => certificate.uris.iter().filter_map(|uri| device(uri)).collect(),
            CertificateIdentity::Cn => certificate.common_name.iter().filter_map(|name| device(name)).collect(),
        }
    }
}

/// The device in `text`, which must be the pattern with a device for `{device}`, and its domain if the pattern has a place for it.
fn named(text: &str, pattern: &str) -> Option<(DeviceId, Option<String>)> {
    let Places { before, between, after } = Places::of(pattern)?;
    let text = text.strip_prefix(before)?.strip_suffix(after)?;
    let (device, domain) = match between {
        None => (text, None),
        Some(Between::DeviceFirst(between)) => text.split_once(between).map(|(device, domain)| (device, Some(domain)))?,
        Some(Between::DomainFirst(between)) => text.split_once(between).map(|(domain, device)| (device, Some(domain)))?,
    };
    Some((device.parse().ok()?, domain.map(str::to_ascii_lowercase)))
}

/// A pattern, taken apart.
struct Places<'a> {
    before: &'a str,
    between: Option<Between<'a>>,
    after: &'a str,
}

/// What is between device and domain.
enum Between<'a> {
    DeviceFirst(&'a str),
    DomainFirst(&'a str),
}

impl<'a> Places<'a> {
    /// `None`: it has no place for the device, or several of one kind.
    fn of(pattern: &'a str) -> Option<Self> {
        if pattern.matches(DEVICE).count() != 1 || pattern.matches(DOMAIN).count() > 1 {
            return None;
        }
        let (before, after) = pattern.split_once(DEVICE)?;
        let (before, between, after) = match (before.split_once(DOMAIN), after.split_once(DOMAIN)) {
            (Some((before, between)), _) => (before, Some(Between::DomainFirst(between)), after),
            (None, Some((between, after))) => (before, Some(Between::DeviceFirst(between)), after),
            (None, None) => (before, None, after),
        };
        Some(Self { before, between, after })
    }
}

/// Whether a pattern has one place for the device, and none or one for its domain, which something tells apart that is in neither.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let tells_apart = |between: &str| between.contains(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '_' | '-'));
    Places::of(pattern).is_some_and(|places| match places.between {
        None => true,
        Some(Between::DeviceFirst(between) | Between::DomainFirst(between)) => tells_apart(between),
    })
}

impl Shared {
    /// What a connection's certificate proves; `None`: it showed none that is worth anything.
    pub(super) fn proven(&self, secured: &Secured<'_>) -> Option<PeerCertificate> {
        let clients = secured.served.clients.as_ref()?;
        let chain = secured.chain?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.clock.now().0));
        let certificate = clients.examine(chain, now)?;
        let tenants = self.store.tenants();
        let default = tenants.iter().find(|tenant| TenantId(tenant.id) == TenantId::default());
        let reading = Reading {
            identity: self.config.certificate_identity,
            pattern: &self.config.certificate_pattern,
            domain: default.map(|tenant| tenant.domain.as_str()),
        };
        Some(PeerCertificate {
            proves: reading.proves(&certificate),
            sha256: certificate.sha256,
        })
    }
}

/// What the device's credentials say of that certificate.
pub(super) fn pinned(device: &Device, sha256: [u8; 32]) -> Pinned {
    let generation = device.credential_generation;
    let mut pins = device.credentials.iter().filter_map(Credential::certificate).peekable();
    if pins.peek().is_none() {
        return Pinned::None { generation };
    }
    if pins.any(|pin| pin.sha256 == sha256) {
        Pinned::This { generation }
    } else {
        Pinned::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_devices_by_address_or_by_the_pattern() {
        let certificate = |addresses: &[&str], uris: &[&str], name: Option<&str>| ClientCertificate {
            trusted: true,
            sha256: [0; 32],
            xmpp_addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            uris: uris.iter().map(|text| (*text).to_owned()).collect(),
            common_name: name.map(str::to_owned),
        };
        let check = |identity, pattern, certificate: &ClientCertificate, expected: &[&str]| {
            let reading = Reading {
                identity,
                pattern,
                domain: Some("push.example"),
            };
            let found: Vec<String> = reading
                .proves(certificate)
                .iter()
                .map(|(device, at)| format!("{device}@{at}"))
                .collect();
            assert_eq!(found, expected, "{certificate:?}");
        };
        use CertificateIdentity::{Cn, SanUri, XmppAddr};
        let named = certificate(
            &["Box-7@Push.Example", "box-8@other.example", "nobody"],
            &["urn:x:a"],
            Some("box-9"),
        );
        for identity in [XmppAddr, SanUri, Cn] {
            check(identity, "{device}", &named, &["box-7@push.example", "box-8@other.example"]);
        }
        let plain = certificate(&[], &["urn:box:7", "urn:other:8"], Some("box-9.factory"));
        check(XmppAddr, "{device}", &plain, &[]);
        check(SanUri, "urn:box:{device}", &plain, &["7@push.example"]);
        check(Cn, "{device}.factory", &plain, &["box-9@push.example"]);
        check(Cn, "{device}", &plain, &["box-9.factory@push.example"]);
        check(Cn, "x{device}", &plain, &[]);
        let untrusted = ClientCertificate { trusted: false, ..named };
        check(Cn, "{device}", &untrusted, &[]);
        // The domain of its tenant, too.
        let of_tv = certificate(&[], &["urn:TV.example:box:7", "urn::box:8", "urn:box:9"], Some("box-9@tv.example"));
        check(SanUri, "urn:{domain}:box:{device}", &of_tv, &["7@tv.example", "8@"]);
        check(Cn, "{device}@{domain}", &of_tv, &["box-9@tv.example"]);
        check(Cn, "{domain}@{device}", &of_tv, &["tv.example@box-9"]);
        check(Cn, "{device}/{domain}", &of_tv, &[]);
    }

    #[test]
    fn a_pattern_tells_device_and_domain_apart() {
        for good in [
            "{device}",
            "a{device}b",
            "{device}@{domain}",
            "urn:{domain}:{device}",
            "x{device}/y{domain}z",
        ] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "device",
            "{device}{device}",
            "{domain}",
            "{device}{domain}",
            "{device}.{domain}",
            "{domain}-x_{device}",
            "{device}@{domain}@{domain}",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
