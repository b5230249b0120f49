//! Channel binding (RFC 5056): facts about the TLS connection that a login can be tied to.

use std::sync::Arc;

/// What logins on one connection can be bound to. The gateway tells it after a TLS 1.3 handshake; nothing of it is known on
/// TLS 1.2, where clients take `-PLUS` to mean `tls-unique`, which is not available.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    /// `tls-exporter` (RFC 9266 §2).
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of the server's certificate.
    pub end_point: Option<Arc<[u8]>>,
}

impl Bindings {
    /// Whether there is any.
    pub(in crate::xmpp) fn any(&self) -> bool {
        self.exporter.is_some() || self.end_point.is_some()
    }

    /// The names of those that there are (XEP-0440).
    pub(in crate::xmpp) fn names(&self) -> impl Iterator<Item = &'static str> {
        let exporter = self.exporter.as_ref().map(|_| "tls-exporter");
        exporter.into_iter().chain(self.end_point.as_ref().map(|_| "tls-server-end-point"))
    }

    /// The bytes of the one with that name.
    pub(in crate::xmpp) fn find(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_ref().map(<[u8; 32]>::as_slice),
            "tls-server-end-point" => self.end_point.as_deref(),
            _ => None,
        }
    }
}
