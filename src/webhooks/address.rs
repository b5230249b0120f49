//! Which addresses webhooks may reach: public ones, and those of the networks that the operator names.
//!
//! A name is resolved here and nowhere else, and a connection goes to the addresses that were judged: a name that is public when it is
//! looked at and private when it is connected to (DNS rebinding) reaches nothing. One address that is not allowed among several refuses
//! the name.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Where names become addresses.
pub(super) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Addresses that webhooks may not reach.
#[derive(Debug, thiserror::Error)]
#[error("its address is not public, and webhooks.allow_networks does not name it")]
pub(super) struct Blocked;

/// What webhooks may reach.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    networks: Arc<[IpNet]>,
    /// Only the networks that are named: for what is not encrypted.
    only_named: bool,
}

impl Reach {
    /// Public addresses, and `networks`.
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self {
            networks: networks.into(),
            only_named: false,
        }
    }

    /// Nothing but the networks.
    pub(super) fn only_named(&self) -> Self {
        Self {
            networks: Arc::clone(&self.networks),
            only_named: true,
        }
    }

    /// Whether an address may be connected to.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let named = self.networks.iter().any(|network| network.contains(&address));
        named || !self.only_named && is_public(address)
    }

    /// Whether this address of a webhook can be right, as far as it tells without asking for names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        let reach = match url.scheme() {
            "https" => self.clone(),
            "http" => self.only_named(),
            other => return Err(format!("its scheme is {other}; use https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a user name or password, which would be sent to whoever answers; the signature proves who sends".into());
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err("it has no host".into());
        };
        let refused = || Err(format!("{Blocked}").replace("its address", host));
        match literal(host) {
            Some(address) if !reach.allows(address) => refused(),
            Some(_) => Ok(()),
            None if is_local(host)
                && ![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                    .iter()
                    .any(|ip| reach.allows(*ip)) =>
            {
                refused()
            }
            None if reach.only_named && self.networks.is_empty() => Err("http is readable and changeable on its way; use https".into()),
            None => Ok(()),
        }
    }
}

/// The address that a host of an URL is, if it is one: the URL's parser has read all spellings of it.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Names of this machine (RFC 6761 §6.3).
fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether an address is one of the public internet, by the registries of special addresses of IANA (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224 // multicast, reserved, broadcast
        || (a == 100 && (64..128).contains(&b)) // behind the NAT of a carrier, RFC 6598
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 (RFC 6052): the IPv4 address behind it is what is reached.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments, Teredo and ORCHID among them; documentation.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        // Global unicast is this and nothing else so far.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Resolves names for the HTTP client, and hands on what may be reached.
#[derive(Clone)]
pub(super) struct Guard {
    reach: Reach,
    lookup: Lookup,
}

impl Guard {
    pub(super) fn new(reach: Reach, lookup: Lookup) -> Self {
        Self { reach, lookup }
    }

    /// Refuses an URL whose host is an address that may not be reached: the client asks for no name then.
    pub(super) fn judge(&self, url: &Url) -> Result<(), Blocked> {
        match url.host_str().and_then(literal) {
            Some(address) if !self.reach.allows(address) => Err(Blocked),
            _ => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, lookup) = (self.reach.clone(), Arc::clone(&self.lookup));
        Box::pin(async move {
            let found = lookup(name.as_str().to_owned()).await?;
            if found.iter().any(|address| !reach.allows(address.ip())) {
                return Err(Box::new(Blocked) as Box<dyn Error + Send + Sync>);
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The system's resolver.
pub(super) fn system_lookup() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }))
}

/// Whether an error of the client comes from an address that may not be reached.
pub(super) fn is_blocked(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Blocked>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
