//! The stream header and the features behind it (RFC 6120 §4.2, §4.3.2).

use std::{io::Write as _, sync::Arc};

use super::{
    disco,
    element::Tag,
    error::Condition,
    framing::Framing,
    ns,
    sasl::{Mechanism, binding::Bindings},
    stream::{ServerStream, Stage},
    traffic::LifeSign,
};

/// The version that a header names: absent means 0.9.
fn speaks_1_0(tag: Tag<'_>) -> bool {
    let major = tag
        .attribute("version")
        .and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= 1)
}

fn write_limits(out: &mut Vec<u8>, bytes: usize, seconds: u64) {
    // Writing to a Vec cannot fail.
    _ = write!(
        out,
        "<limits xmlns='{}'><max-bytes>{bytes}</max-bytes><idle-seconds>{seconds}</idle-seconds></limits>",
        ns::LIMITS
    );
}

/// Appends the mechanisms of RFC 6120 §6, and what they can be bound to (XEP-0440).
fn write_mechanisms(out: &mut Vec<u8>, bindings: &Bindings, certified: bool) {
    out.extend_from_slice(b"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>");
    for mechanism in Mechanism::offered(bindings, certified) {
        // Writing to a Vec cannot fail.
        _ = write!(out, "<mechanism>{}</mechanism>", mechanism.name());
    }
    out.extend_from_slice(b"</mechanisms>");
    if bindings.any() {
        _ = write!(out, "<sasl-channel-binding xmlns='{}'>", ns::CHANNEL_BINDING);
        for name in bindings.names() {
            _ = write!(out, "<channel-binding type='{name}'/>");
        }
        out.extend_from_slice(b"</sasl-channel-binding>");
    }
}

impl ServerStream {
    /// The features of a session that was bound with its login (XEP-0386).
    pub(super) fn session_features(&mut self) {
        let managed = self.session.as_ref().is_some_and(|session| session.managed);
        let (bytes, seconds) = (self.config.stanza_max_bytes, u64::from(self.config.idle_secs));
        self.write_plain(LifeSign::Connect, |out| {
            out.extend_from_slice(b"<stream:features>");
            if !managed {
                out.extend_from_slice(b"<sm xmlns='urn:xmpp:sm:3'/>");
            }
            out.extend_from_slice(b"<csi xmlns='urn:xmpp:csi:0'/>");
            out.extend_from_slice(disco::caps().as_bytes());
            write_limits(out, bytes, seconds);
            out.extend_from_slice(b"</stream:features>");
        });
    }

    /// Answers the peer's header: ours and the features, or ours and an error.
    pub(super) fn header(&mut self, tag: Tag<'_>, content: Option<&str>) {
        let host = tag.attribute("to").map(str::to_ascii_lowercase);
        let tenant = host.as_deref().and_then(|host| (self.config.hosts)(host));
        let known = tenant.and(host.as_deref());
        self.open(known);
        let content_fits = matches!(content, None | Some(ns::CLIENT | ns::STREAM));
        let (name, namespace) = self.framing.opening();
        if tag.namespace() != namespace || !content_fits {
            return self.fail_with(&Condition::InvalidNamespace);
        }
        if tag.name() != name {
            return self.fail_with(&Condition::BadFormat);
        }
        let (Some(host), Some(tenant)) = (known, tenant) else {
            return self.fail_with(&Condition::HostUnknown);
        };
        if !speaks_1_0(tag) {
            return self.fail_with(&Condition::UnsupportedVersion);
        }
        let Some(login) = &mut self.login else { return };
        if login.who.as_ref().is_some_and(|who| who.tenant != tenant) {
            return self.fail_with(&Condition::HostUnknown);
        }
        login.host = Some((Arc::from(host), tenant));
        login.from = tag.attribute("from").map(str::to_owned);
        self.stage = Stage::Open;
        self.features();
    }

    pub(super) fn features(&mut self) {
        let Some(login) = &self.login else { return };
        let bindings = login.bindings.clone();
        let (secured, logged_in) = (login.secured, login.who.is_some());
        let certified = login.certificate.is_some();
        let config = self.config.clone();
        // TLS is the business of what carries a WebSocket (RFC 7395 §3.9).
        let can_start_tls = !secured && self.framing == Framing::Stream;
        self.write_plain(LifeSign::Connect, |out| {
            out.extend_from_slice(b"<stream:features>");
            if can_start_tls && !logged_in {
                out.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'>");
                out.extend_from_slice(if config.allow_plaintext {
                    b"</starttls>".as_slice()
                } else {
                    b"<required/></starttls>".as_slice()
                });
            }
            let mut limits = None;
            if logged_in {
                out.extend_from_slice(
                    b"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>\
                      <session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>\
                      <sm xmlns='urn:xmpp:sm:3'/><csi xmlns='urn:xmpp:csi:0'/>",
                );
                out.extend_from_slice(disco::caps().as_bytes());
                limits = Some((config.stanza_max_bytes, u64::from(config.idle_secs)));
            } else if secured || config.allow_plaintext {
                write_mechanisms(out, &bindings, certified);
                super::sasl2::write_feature(out, &bindings, certified, !config.fast_token.is_zero());
                limits = Some((config.stanza_max_bytes_before_login, config.login_within.as_secs().max(1)));
            }
            if let Some((bytes, seconds)) = limits {
                write_limits(out, bytes, seconds);
            }
            out.extend_from_slice(b"</stream:features>");
        });
    }
}
