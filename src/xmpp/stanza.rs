//! What a device may say in its session, and the answers (RFC 6121; XEP-0030, 0092, 0184, 0199, 0352).

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use crate::domain::{Outcome, Polling, Reason};

use super::{
    action::Action,
    element::Tag,
    error::{Condition, Refused, write_refusal},
    keepalive, ns,
    session::FullJid,
    stream::{ServerStream, Stage},
    text::{attribute, escape},
    traffic::LifeSign,
};

/// Whom a stanza is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// The service: its domain.
    Service,
    /// The device's own account, or nobody: the server answers for it.
    Account,
    /// Anybody else.
    Other,
}

fn addressee(jid: &FullJid, to: Option<&str>) -> To {
    let Some(to) = to else { return To::Account };
    let bare = to.split_once('/').map_or(to, |(bare, _)| bare);
    if bare.eq_ignore_ascii_case(jid.domain()) {
        To::Service
    } else if bare.eq_ignore_ascii_case(jid.bare()) {
        To::Account
    } else {
        To::Other
    }
}

/// Features of the service, exactly what it answers.
const SERVICE_INFO: &str = "<identity category='server' type='im' name='unpoll'/>\
    <feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/>\
    <feature var='jabber:iq:version'/><feature var='urn:xmpp:ping'/><feature var='urn:xmpp:receipts'/>\
    <feature var='msgoffline'/>";
/// The same of an account.
const ACCOUNT_INFO: &str = "<identity category='account' type='registered'/>\
    <feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/>\
    <feature var='urn:xmpp:ping'/>";

/// How an IQ is answered.
enum Answer {
    Result(String),
    Refused(Refused),
}

fn answer(kind: &str, to: To, asked: Tag<'_>) -> Answer {
    let result = |payload: &str| Answer::Result(payload.to_owned());
    let get = kind == "get";
    match (asked.name(), asked.namespace()) {
        _ if to == To::Other => Answer::Refused(Refused::ServiceUnavailable),
        ("ping", ns::PING) if get => result(""),
        ("query", ns::DISCO_INFO | ns::DISCO_ITEMS) if get && asked.attribute("node").is_some() => Answer::Refused(Refused::ItemNotFound),
        ("query", ns::DISCO_INFO) if get => {
            let info = if to == To::Service { SERVICE_INFO } else { ACCOUNT_INFO };
            Answer::Result(format!("<query xmlns='{}'>{info}</query>", ns::DISCO_INFO))
        }
        ("query", ns::DISCO_ITEMS) if get => Answer::Result(format!("<query xmlns='{}'/>", ns::DISCO_ITEMS)),
        ("query", ns::VERSION) if get => Answer::Result(format!(
            "<query xmlns='{}'><name>unpoll</name><version>{}</version></query>",
            ns::VERSION,
            env!("CARGO_PKG_VERSION")
        )),
        ("query", ns::ROSTER) if get => Answer::Result(format!("<query xmlns='{}'/>", ns::ROSTER)),
        ("query", ns::ROSTER) | ("bind", ns::BIND) => Answer::Refused(Refused::NotAllowed),
        ("session", ns::SESSION) if !get => result(""),
        _ => Answer::Refused(Refused::ServiceUnavailable),
    }
}

/// What a presence says of polling: `<attributes xmlns='urn:unpoll:event:1'><json>{"polling":"off"}</json></attributes>`; the
/// container may be the one of XEP-0335. Anything but `on` and `off` means that nobody knows.
fn reported_polling(presence: Tag<'_>) -> Option<Polling> {
    let attributes = presence.child("attributes", ns::EVENT)?;
    let json = attributes.child("json", ns::JSON).or_else(|| attributes.child("json", ns::EVENT))?;
    let reported: serde_json::Value = serde_json::from_str(&json.text()).ok()?;
    Some(match reported.get("polling")?.as_str() {
        Some("off") => Polling::Off,
        Some("on") => Polling::On,
        _ => Polling::Unknown,
    })
}

impl ServerStream {
    /// A top-level element in a session.
    pub(super) fn in_session(&mut self, tag: Tag<'_>, now: Instant) -> LifeSign {
        let kind = match (tag.namespace(), tag.name()) {
            (ns::SM, _) => return self.manage(tag, now),
            (ns::CSI, state @ ("active" | "inactive")) => {
                self.indicated(state == "inactive");
                return LifeSign::Presence;
            }
            (ns::CLIENT, "iq" | "message" | "presence") if !self.own(tag) => {
                self.fail_with(&Condition::InvalidFrom);
                LifeSign::Connect
            }
            (ns::CLIENT, "iq") => self.iq(tag, now),
            (ns::CLIENT, "message") => self.message(tag),
            (ns::CLIENT, "presence") => {
                self.presence(tag);
                LifeSign::Presence
            }
            _ => {
                self.unexpected(tag);
                return LifeSign::Connect;
            }
        };
        if let Some(session) = self
            .session
            .as_mut()
            .filter(|session| session.managed && self.stage == Stage::Bound)
        {
            session.handled = session.handled.wrapping_add(1);
        }
        kind
    }

    /// Whether the `from` of a stanza, if it has one, is the device's own (RFC 6120 §8.1.2.1).
    fn own(&self, tag: Tag<'_>) -> bool {
        let (Some(from), Some(session)) = (tag.attribute("from"), &self.session) else {
            return true;
        };
        let jid = &session.jid;
        let (bare, resource) = from.split_once('/').map_or((from, None), |(bare, resource)| (bare, Some(resource)));
        let own = jid.full().split_once('/').map(|(_, resource)| resource);
        bare.eq_ignore_ascii_case(jid.bare()) && (resource.is_none() || resource == own)
    }

    fn iq(&mut self, tag: Tag<'_>, now: Instant) -> LifeSign {
        let (id, to) = (tag.attribute("id"), tag.attribute("to"));
        let asked = match (id, tag.attribute("type")) {
            (Some(id), Some("result" | "error")) => return self.pong(id, now),
            (None, Some("result" | "error")) => return LifeSign::Connect,
            (Some(id), Some(kind @ ("get" | "set"))) => Some((id, kind)),
            _ => None,
        };
        let Some(session) = &self.session else {
            return LifeSign::Connect;
        };
        let place = addressee(&session.jid, to);
        let full = session.jid.full().to_owned();
        let mut children = tag.children();
        let answer = match (asked, children.next(), children.next()) {
            (Some((_, kind)), Some(child), None) => answer(kind, place, child),
            _ => Answer::Refused(Refused::BadRequest),
        };
        let ping = tag.child("ping", ns::PING).is_some();
        let kind = if ping { LifeSign::Keepalive } else { LifeSign::Connect };
        self.write(kind, |out| match answer {
            Answer::Refused(refused) => write_refusal(out, "iq", id, to, &full, refused),
            Answer::Result(payload) => {
                out.extend_from_slice(b"<iq type='result'");
                for (name, value) in [("id", id), ("from", to), ("to", Some(full.as_str()))] {
                    if let Some(value) = value {
                        attribute(out, name, value);
                    }
                }
                out.push(b'>');
                out.extend_from_slice(payload.as_bytes());
                out.extend_from_slice(b"</iq>");
            }
        });
        kind
    }

    fn message(&mut self, tag: Tag<'_>) -> LifeSign {
        let Some(session) = &self.session else {
            return LifeSign::Connect;
        };
        let to = tag.attribute("to");
        let foreign = addressee(&session.jid, to) == To::Other;
        if foreign && tag.attribute("type") != Some("error") {
            // A device can address nothing but the service.
            let (id, full) = (tag.attribute("id"), session.jid.full().to_owned());
            self.write(LifeSign::Connect, |out| {
                write_refusal(out, "message", id, to, &full, Refused::ServiceUnavailable);
            });
            return LifeSign::Connect;
        }
        self.receipt(tag);
        LifeSign::Acknowledgement
    }

    /// A message to the service: a receipt (XEP-0184), or an error in answer to an event.
    pub(super) fn receipt(&mut self, tag: Tag<'_>) {
        let (id, outcome) = if tag.attribute("type") == Some("error") {
            (tag.attribute("id"), Outcome::Rejected(Reason::DeviceError))
        } else {
            let received = tag.child("received", ns::RECEIPTS);
            (received.and_then(|received| received.attribute("id")), Outcome::Delivered)
        };
        // Receipts for what we do not know are ignored: they may come twice, or after a resumption.
        let Some(id) = id.and_then(|id| id.parse().ok()) else { return };
        if let Some(end) = self.session.as_mut().and_then(|session| session.window.settle(id, outcome)) {
            self.ended(vec![end]);
        }
    }

    fn presence(&mut self, tag: Tag<'_>) {
        match (tag.attribute("to"), tag.attribute("type")) {
            (None, None) => {
                let priority = tag.child("priority", ns::CLIENT).map(Tag::text);
                let priority: i8 = priority.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                let keepalive = self.negotiate_keepalive(tag);
                self.echo(tag.attribute("id"), priority, keepalive);
                self.actions.extend(reported_polling(tag).map(Action::Polls));
                self.set_available(priority >= 0);
            }
            (None, Some("unavailable")) => self.set_available(false),
            (Some(to), Some("subscribe")) => {
                let Some(session) = &self.session else { return };
                let bare = session.jid.bare().to_owned();
                let to = to.split_once('/').map_or(to, |(bare, _)| bare);
                self.write(LifeSign::Presence, |out| {
                    out.extend_from_slice(b"<presence type='unsubscribed'");
                    attribute(out, "from", to);
                    attribute(out, "to", &bare);
                    out.extend_from_slice(b"/>");
                });
            }
            // Directed presence, probes and the rest of subscriptions concern nobody here.
            _ => {}
        }
    }

    /// The device sees its own presence (RFC 6121 §4.2.2).
    fn echo(&mut self, id: Option<&str>, priority: i8, keepalive: Option<Duration>) {
        let Some(session) = &self.session else { return };
        let full = session.jid.full().to_owned();
        self.write(LifeSign::Presence, |out| {
            out.extend_from_slice(b"<presence from='");
            escape(out, &full);
            out.extend_from_slice(b"' to='");
            escape(out, &full);
            out.push(b'\'');
            if let Some(id) = id {
                attribute(out, "id", id);
            }
            if priority == 0 && keepalive.is_none() {
                return out.extend_from_slice(b"/>");
            }
            out.push(b'>');
            if priority != 0 {
                // Writing to a Vec cannot fail.
                _ = write!(out, "<priority>{priority}</priority>");
            }
            if let Some(keepalive) = keepalive {
                keepalive::write(out, keepalive);
            }
            out.extend_from_slice(b"</presence>");
        });
    }

    fn set_available(&mut self, available: bool) {
        if self.stage != Stage::Bound {
            return;
        }
        let Some(session) = &mut self.session else { return };
        if std::mem::replace(&mut session.available, available) != available {
            self.refused = None;
            self.actions.push_back(if available { Action::Ready } else { Action::Unavailable });
        }
    }
}
