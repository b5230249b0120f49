//! What a device may say in its session, and the answers (RFC 6121; XEP-0030, 0080, 0092, 0184, 0199, 0352).

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use crate::domain::{Outcome, Reason};

use super::{
    action::Action,
    disco,
    element::Tag,
    error::{Condition, Refused, write_refusal, write_result},
    keepalive, ns,
    outcome::Untold,
    reported,
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

/// How an IQ is answered.
enum Answer {
    Result(String),
    Refused(Refused),
    /// `bad-request`, and why.
    Bad(String),
}

impl From<Result<String, Refused>> for Answer {
    fn from(answer: Result<String, Refused>) -> Self {
        answer.map_or_else(Self::Refused, Self::Result)
    }
}

fn answer(kind: &str, to: To, asked: Tag<'_>, location: bool) -> Answer {
    let result = |payload: &str| Answer::Result(payload.to_owned());
    let (get, node) = (kind == "get", asked.attribute("node"));
    match (asked.name(), asked.namespace()) {
        _ if to == To::Other => Answer::Refused(Refused::ServiceUnavailable),
        ("ping", ns::PING) if get => result(""),
        ("query", ns::DISCO_INFO) if get => disco::info(to == To::Account, location, node).into(),
        ("query", ns::DISCO_ITEMS) if get => disco::items(node).into(),
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
            (Some((id, "set")), Some(outcome), None) if place != To::Other && outcome.is("outcome", ns::EVENT) => {
                match self.outcome(id, to, outcome) {
                    Ok(()) => return LifeSign::Acknowledgement,
                    Err(Untold::Refused(refused)) => Answer::Refused(refused),
                    Err(Untold::Bad(why)) => Answer::Bad(why),
                }
            }
            (Some((_, kind)), Some(child), None) => {
                let published = (kind == "set" && place != To::Other)
                    .then(|| reported::of_iq(child, place == To::Account, &self.config))
                    .flatten();
                match published {
                    Some(Ok(published)) => {
                        self.actions.push_back(Action::Reported(Box::new(published.report)));
                        Answer::Result(published.answer.to_owned())
                    }
                    Some(Err(why)) => Answer::Bad(why),
                    None => answer(kind, place, child, self.config.location),
                }
            }
            _ => Answer::Refused(Refused::BadRequest),
        };
        let ping = tag.child("ping", ns::PING).is_some();
        let kind = if ping { LifeSign::Keepalive } else { LifeSign::Connect };
        self.write(kind, |out| match answer {
            Answer::Refused(refused) => write_refusal(out, "iq", id, to, &full, refused, None),
            Answer::Bad(why) => write_refusal(out, "iq", id, to, &full, Refused::BadRequest, Some(&why)),
            Answer::Result(payload) => {
                write_result(out, id, to, &full);
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
                write_refusal(out, "message", id, to, &full, Refused::ServiceUnavailable, None);
            });
            return LifeSign::Connect;
        }
        self.receipt(tag);
        LifeSign::Acknowledgement
    }

    /// A message to the service: a receipt (XEP-0184), or an error in answer to an event.
    pub(super) fn receipt(&mut self, tag: Tag<'_>) {
        let refused = tag.attribute("type") == Some("error");
        let id = if refused {
            tag.attribute("id")
        } else {
            let received = tag.child("received", ns::RECEIPTS);
            received.and_then(|received| received.attribute("id"))
        };
        // Receipts for what we do not know are ignored: they may come twice, or after a resumption.
        let (Some(id), Some(session)) = (id.and_then(|id| id.parse().ok()), &mut self.session) else {
            return;
        };
        let end = if refused {
            session.window.settle(id, Outcome::Rejected(Reason::DeviceError))
        } else {
            session.window.receive(id)
        };
        if let Some(end) = end {
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
                self.reported(tag);
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

    /// Takes what a presence reports. What is wrong with that is told, and the presence counts all the same.
    fn reported(&mut self, presence: Tag<'_>) {
        match reported::of_presence(presence, &self.config) {
            Ok(report) => {
                self.actions.extend(reported::polling(&report).map(Action::Polls));
                if !report.is_empty() {
                    self.actions.push_back(Action::Reported(Box::new(report)));
                }
            }
            Err(why) => {
                let Some(session) = &self.session else { return };
                let (id, full) = (presence.attribute("id"), session.jid.full().to_owned());
                self.write(LifeSign::Presence, |out| {
                    write_refusal(out, "presence", id, None, &full, Refused::BadRequest, Some(&why));
                });
            }
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
