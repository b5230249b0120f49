//! Stream management: acknowledgement and resumption (XEP-0198).

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use crate::domain::{SessionId, Timestamp};

use super::{
    action::Action,
    element::Tag,
    error::{Condition, StreamError, Unmanaged},
    event, ns,
    sasl2::Inline,
    session::Session,
    stream::{ServerStream, Stage},
    text::attribute,
    traffic::LifeSign,
    window::Replayed,
};

/// What nearly every library sends; the attribute may stand in either kind of quotes.
const SHORT: [&[u8]; 2] = [b"<a xmlns='urn:xmpp:sm:3' h='", b"<a xmlns=\"urn:xmpp:sm:3\" h=\""];

/// `true` of XML Schema.
fn is_true(value: Option<&str>) -> bool {
    matches!(value, Some("true" | "1"))
}

/// `<enable/>`, in a session or inside a bind (XEP-0386 §4).
pub(super) struct Enable {
    resume: bool,
    within: Option<Duration>,
}

impl Enable {
    pub(super) fn read(tag: Tag<'_>) -> Self {
        Self {
            resume: is_true(tag.attribute("resume")),
            within: tag.attribute("max").and_then(|max| max.parse().ok()).map(Duration::from_secs),
        }
    }
}

/// What `<resume/>` asks for: the session (none, if that is no id of ours) and the count of what was handled.
pub(super) type Resume = (Option<SessionId>, u32);

/// Reads `<resume/>`. `None`: it is malformed.
pub(super) fn read_resume(tag: Tag<'_>) -> Option<Resume> {
    let handled = tag.attribute("h")?.parse().ok()?;
    Some((session_id(tag.attribute("previd")?), handled))
}

/// The id that a text names, in the form in which we gave it out.
fn session_id(text: &str) -> Option<SessionId> {
    let lower = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    lower.then(|| u128::from_str_radix(text, 16).ok().map(SessionId)).flatten()
}

impl ServerStream {
    /// An `<a/>` in the usual shape, complete in the input: taken without a parser. False: it is something else.
    pub(super) fn acknowledged_shortly(&mut self, bytes: &mut &[u8], now: Instant) -> bool {
        if !matches!(self.stage, Stage::Bound | Stage::Leaving) || !self.framer.between_stanzas() {
            return false;
        }
        let Some(rest) = SHORT.iter().find_map(|start| bytes.strip_prefix(*start)) else {
            return false;
        };
        let quote = bytes.get(9).copied().unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = [quote, b'/', b'>'];
        let (Some(number), Some(behind)) = (rest.get(..digits), rest.get(digits..)) else {
            return false;
        };
        let handled = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        let (Some(handled), Some(behind)) = (handled, behind.strip_prefix(&end)) else {
            return false;
        };
        let length = bytes.len() - behind.len();
        *bytes = behind;
        let kind = self.acknowledged(handled, now);
        self.traffic.receive(kind, length);
        true
    }

    /// An element of XEP-0198 in a session.
    pub(super) fn manage(&mut self, tag: Tag<'_>, now: Instant) -> LifeSign {
        let managed = self.session.as_ref().is_some_and(|session| session.managed);
        match tag.name() {
            "enable" if !managed => {
                self.enable(tag);
                LifeSign::Connect
            }
            "r" if managed => {
                let handled = self.session.as_ref().map_or(0, |session| session.handled);
                // Writing to a Vec cannot fail.
                self.write_plain(LifeSign::Keepalive, |out| {
                    _ = write!(out, "<a xmlns='urn:xmpp:sm:3' h='{handled}'/>")
                });
                LifeSign::Keepalive
            }
            "a" if managed => match tag.attribute("h").and_then(|h| h.parse().ok()) {
                Some(handled) => self.acknowledged(handled, now),
                None => {
                    self.fail_with(&Condition::BadFormat);
                    LifeSign::Acknowledgement
                }
            },
            "enable" | "resume" | "r" | "a" => {
                self.write_plain(LifeSign::Connect, |out| Unmanaged::UnexpectedRequest.write(out));
                LifeSign::Connect
            }
            _ => {
                self.unexpected(tag);
                LifeSign::Connect
            }
        }
    }

    fn enable(&mut self, tag: Tag<'_>) {
        let enabled = self.enabled(&Enable::read(tag));
        self.write_plain(LifeSign::Connect, |out| out.extend_from_slice(enabled.as_bytes()));
    }

    /// Counts from here on, and says so.
    pub(super) fn enabled(&mut self, asked: &Enable) -> String {
        let ours = self.config.resume_within;
        let Some(session) = &mut self.session else { return String::new() };
        session.managed = true;
        session.handled = 0;
        session.window.count_from_here();
        session.resumable_for = if asked.resume {
            asked.within.unwrap_or(ours).min(ours)
        } else {
            Duration::ZERO
        };
        let (id, seconds) = (session.id, session.resumable_for.as_secs());
        if seconds > 0 {
            format!("<enabled xmlns='urn:xmpp:sm:3' id='{id}' resume='true' max='{seconds}'/>")
        } else {
            "<enabled xmlns='urn:xmpp:sm:3'/>".to_owned()
        }
    }

    /// `<a h=…/>`.
    fn acknowledged(&mut self, handled: u32, now: Instant) -> LifeSign {
        let Some(session) = self.session.as_mut().filter(|session| session.managed) else {
            if self.stage == Stage::Bound {
                self.write_plain(LifeSign::Connect, |out| Unmanaged::UnexpectedRequest.write(out));
            }
            return LifeSign::Keepalive;
        };
        let before = session.window.in_flight();
        match session.window.acknowledge(handled) {
            Ok(ends) => {
                let left = session.window.in_flight();
                self.live.answered(before > left, left > 0, now);
                self.ended(ends);
                if before > left {
                    LifeSign::Acknowledgement
                } else {
                    LifeSign::Keepalive
                }
            }
            Err(too_high) => {
                self.fail_with(&Condition::HandledCountTooHigh {
                    handled,
                    sent: too_high.sent,
                });
                LifeSign::Acknowledgement
            }
        }
    }

    /// While the node stops, acknowledgements and receipts still count.
    pub(super) fn while_leaving(&mut self, tag: Tag<'_>) {
        let now = self.live.last_heard();
        if tag.is("a", ns::SM) {
            if let Some(handled) = tag.attribute("h").and_then(|h| h.parse().ok()) {
                self.acknowledged(handled, now);
            }
        } else if tag.is("message", ns::CLIENT) {
            self.receipt(tag);
        }
    }

    /// `<resume/>` before there is a session.
    pub(super) fn ask_resume(&mut self, tag: Tag<'_>) {
        match read_resume(tag) {
            Some(resume) => self.find_session(resume),
            None => self.write_plain(LifeSign::Connect, |out| Unmanaged::BadRequest.write(out)),
        }
    }

    /// Asks for the session that is to go on here.
    pub(super) fn find_session(&mut self, (previous, handled): Resume) {
        let Some(login) = &mut self.login else { return };
        let Some(who) = login.who.clone() else { return };
        login.resuming = Some(handled);
        self.stage = Stage::Waiting;
        self.actions.push_back(Action::Resume {
            tenant: who.tenant,
            device: who.device,
            previous,
        });
    }

    fn resuming(&mut self) -> Option<u32> {
        if self.stage != Stage::Waiting {
            return None;
        }
        self.login.as_mut()?.resuming.take()
    }

    /// Answers `Resume`: here is the session, taken from its old connection. Yields `<resumed/>`, replay, `Ready`.
    pub fn resume(&mut self, session: Box<Session>, now: Instant, time: Timestamp) {
        let Some(handled) = self.resuming() else {
            // Nobody waits for it: whoever closes this stream gives its events back.
            self.session.get_or_insert(session);
            return;
        };
        let who = self.login.as_ref().and_then(|login| login.who.as_ref());
        let own = who.is_some_and(|who| who.tenant == session.tenant && who.device == session.device);
        let inline = self.login.as_mut().and_then(|login| login.inline.take());
        self.session = Some(session);
        if !own {
            return self.fail_with(&Condition::Asked(StreamError::InternalServerError));
        }
        self.login = None;
        self.traffic.connect_was_resume();
        self.stage = Stage::Bound;
        self.wake_up();
        self.replay(handled, inline, now, time);
        self.go_on(now);
    }

    fn replay(&mut self, handled: u32, inline: Option<Box<Inline>>, now: Instant, time: Timestamp) {
        let Some(session) = &mut self.session else { return };
        let before = self.out.len();
        if let Some(inline) = &inline {
            inline.write_success(&mut self.out, session.jid.full());
        }
        self.out.extend_from_slice(b"<resumed xmlns='urn:xmpp:sm:3'");
        attribute(&mut self.out, "previd", &session.id.to_string());
        attribute(&mut self.out, "h", &session.handled.to_string());
        self.out.extend_from_slice(b"/>");
        if let Some(inline) = &inline {
            inline.write_end(&mut self.out);
        }
        self.traffic.send(LifeSign::Resume, self.out.len() - before);
        let mut ends = match session.window.acknowledge(handled) {
            Ok(ends) => ends,
            Err(too_high) => {
                return self.fail_with(&Condition::HandledCountTooHigh {
                    handled,
                    sent: too_high.sent,
                });
            }
        };
        let before = self.out.len();
        let (out, jid) = (&mut self.out, &session.jid);
        ends.extend(session.window.replay(time, |stanza| match stanza {
            Replayed::Event { event, waited } => event::write(out, event, jid.domain(), jid.bare(), waited),
            Replayed::Other(bytes) => out.extend_from_slice(bytes),
        }));
        self.traffic.again(self.out.len() - before);
        let (in_flight, available) = (session.window.in_flight(), session.available);
        self.refused = None;
        self.ended(ends);
        self.tell_again();
        self.ask(LifeSign::Resume);
        if in_flight > 0 {
            self.live.asked(now);
        }
        if available {
            self.actions.push_back(Action::Ready);
        }
    }

    /// Answers `Resume`: there is none. `handled` is the count of that session if it is still known.
    pub fn not_resumed(&mut self, handled: Option<u32>, now: Instant) {
        if self.resuming().is_some() {
            self.stage = Stage::Open;
            // Clients exist that cannot read `<failed/>` without an `h` (tokio-xmpp 6 connects again for ever). A count that is
            // not known is told as 0: the client then sends again what it had sent, and each of those is idempotent here.
            let failed = Unmanaged::ItemNotFound {
                handled: Some(handled.unwrap_or(0)),
            };
            if !self.not_resumed_inline(failed) {
                self.write_plain(LifeSign::Connect, |out| failed.write(out));
            }
            self.go_on(now);
        }
    }
}
