//! XML namespaces of the protocol.

/// RFC 6120 §4.8.2: the content of client streams.
pub(super) const CLIENT: &str = "jabber:client";
/// RFC 6120 §4.8.1: the stream itself.
pub(super) const STREAM: &str = "http://etherx.jabber.org/streams";
/// RFC 7395 §3.4.
pub(super) const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// RFC 6120 §4.9.
pub(super) const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// RFC 6120 §8.3.
pub(super) const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// RFC 6120 §5.
pub(super) const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// RFC 6120 §6.
pub(super) const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// XEP-0388.
pub(super) const SASL2: &str = "urn:xmpp:sasl:2";
/// XEP-0386.
pub(super) const BIND2: &str = "urn:xmpp:bind:0";
/// XEP-0484.
pub(super) const FAST: &str = "urn:xmpp:fast:0";
/// XEP-0440.
pub(super) const CHANNEL_BINDING: &str = "urn:xmpp:sasl-cb:0";
/// RFC 6120 §7.
pub(super) const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// RFC 3921 §3.
pub(super) const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// XEP-0198.
pub(super) const SM: &str = "urn:xmpp:sm:3";
/// XEP-0352.
pub(super) const CSI: &str = "urn:xmpp:csi:0";
/// XEP-0478.
pub(super) const LIMITS: &str = "urn:xmpp:stream-limits:0";
/// XEP-0199.
pub(super) const PING: &str = "urn:xmpp:ping";
/// XEP-0184.
pub(super) const RECEIPTS: &str = "urn:xmpp:receipts";
/// XEP-0030.
pub(super) const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// XEP-0030.
pub(super) const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// XEP-0115.
pub(super) const CAPS: &str = "http://jabber.org/protocol/caps";
/// XEP-0080.
pub(super) const GEOLOC: &str = "http://jabber.org/protocol/geoloc";
/// XEP-0060.
pub(super) const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
/// XEP-0060 §10: one may publish.
pub(super) const PUBSUB_PUBLISH: &str = "http://jabber.org/protocol/pubsub#publish";
/// XEP-0092.
pub(super) const VERSION: &str = "jabber:iq:version";
/// RFC 6121 §2.
pub(super) const ROSTER: &str = "jabber:iq:roster";
/// XEP-0335.
pub(super) const JSON: &str = "urn:xmpp:json:0";
/// Our own: the wrapper of an event, and hints beside errors.
pub(super) const EVENT: &str = "urn:unpoll:event:1";
/// XML 1.0: what the prefix `xml` always means.
pub(super) const XML: &str = "http://www.w3.org/XML/1998/namespace";
