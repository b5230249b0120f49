//! Login in one round trip (XEP-0388), with binding (XEP-0386), resumption (XEP-0198) and a token for the next time
//! (XEP-0484) inside. Resumption goes first; where it fails, the bind in the same request is done.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::domain::{FastAgent, FastChange, FastMechanism, FastToken, Timestamp};

use super::{
    action::Action,
    bind::Binding,
    bind2::{self, Bind2},
    element::Tag,
    error::{LoginFailure, Unmanaged},
    management::{Resume, read_resume},
    ns,
    sasl::{Mechanism, binding::Bindings, ht},
    stream::{ServerStream, Stage},
    text::{attribute, escape},
    traffic::LifeSign,
};

/// A FAST token older than this is replaced when it is used (XEP-0484 §3.4 leaves the time to the server).
const ROTATED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A FAST token that logged somebody in.
pub(super) struct Used {
    pub(super) mechanism: FastMechanism,
    pub(super) issued_at: Timestamp,
    pub(super) first_use: bool,
}

/// What came inside `<authenticate/>`, and what becomes of it.
pub(super) struct Inline {
    /// Which program it is.
    pub(super) agent: Option<FastAgent>,
    /// It asks for a token of that mechanism.
    request: Option<FastMechanism>,
    /// The token that it uses shall be good for nothing from now on.
    invalidate: bool,
    resume: Option<Option<Resume>>,
    bind: Option<Bind2>,
    /// The server's last word of the mechanism, in base64.
    additional: String,
    /// A token change that is not stored yet.
    change: Option<Box<FastChange>>,
    /// It is being stored, apart from a claim.
    changing: bool,
    /// The token that it is given.
    token: Option<FastToken>,
    /// Why nothing was resumed.
    failed: Option<Unmanaged>,
}

impl Inline {
    /// Reads `<authenticate/>`. False: something in it cannot be.
    fn read(tag: Tag<'_>, bindings: &Bindings) -> (Self, bool) {
        let agent = tag.child("user-agent", ns::SASL2).and_then(|agent| agent.attribute("id"));
        let request = tag
            .child("request-token", ns::FAST)
            .and_then(|request| request.attribute("mechanism"));
        let fast = tag.child("fast", ns::FAST);
        let bind = tag.child("bind", ns::BIND2).map(Bind2::read);
        let fits = !matches!(bind, Some(None));
        let inline = Self {
            agent: agent.filter(|id| !id.is_empty()).map(FastAgent::of),
            request: ht::offered(bindings).find(|mechanism| request == Some(mechanism.name())),
            invalidate: fast.is_some_and(|fast| matches!(fast.attribute("invalidate"), Some("true" | "1"))),
            resume: tag.child("resume", ns::SM).map(read_resume),
            bind: bind.flatten(),
            additional: String::new(),
            change: None,
            changing: false,
            token: None,
            failed: None,
        };
        (inline, fits)
    }

    /// Appends the beginning of `<success/>` for `jid`.
    pub(super) fn write_success(&self, out: &mut Vec<u8>, jid: &str) {
        out.extend_from_slice(b"<success xmlns='urn:xmpp:sasl:2'>");
        if !self.additional.is_empty() {
            // Writing to a Vec cannot fail.
            _ = write!(out, "<additional-data>{}</additional-data>", self.additional);
        }
        out.extend_from_slice(b"<authorization-identifier>");
        escape(out, jid);
        out.extend_from_slice(b"</authorization-identifier>");
        if let Some(failed) = self.failed {
            failed.write(out);
        }
    }

    /// Appends its end, with the token for the next time.
    pub(super) fn write_end(&self, out: &mut Vec<u8>) {
        if let Some(token) = &self.token {
            out.extend_from_slice(b"<token xmlns='urn:xmpp:fast:0'");
            attribute(out, "token", token.reveal());
            attribute(out, "expiry", &token.expires_at.to_string());
            out.extend_from_slice(b"/>");
        }
        out.extend_from_slice(b"</success>");
    }
}

/// Appends what is offered: the mechanisms, and what may come with them.
pub(super) fn write_feature(out: &mut Vec<u8>, bindings: &Bindings, certified: bool, fast: bool) {
    out.extend_from_slice(b"<authentication xmlns='urn:xmpp:sasl:2'>");
    for mechanism in Mechanism::offered(bindings, certified) {
        // Writing to a Vec cannot fail.
        _ = write!(out, "<mechanism>{}</mechanism>", mechanism.name());
    }
    out.extend_from_slice(b"<inline><sm xmlns='urn:xmpp:sm:3'/>");
    bind2::write_feature(out);
    if fast {
        out.extend_from_slice(b"<fast xmlns='urn:xmpp:fast:0'>");
        for mechanism in ht::offered(bindings) {
            _ = write!(out, "<mechanism>{}</mechanism>", mechanism.name());
        }
        out.extend_from_slice(b"</fast>");
    }
    out.extend_from_slice(b"</inline></authentication>");
}

impl ServerStream {
    /// `<authenticate/>`.
    pub(super) fn authenticate(&mut self, tag: Tag<'_>) {
        let Some(login) = &mut self.login else { return };
        let (inline, fits) = Inline::read(tag, &login.bindings);
        // A refusal must be of this protocol, too.
        login.inline = Some(Box::new(inline));
        if !fits {
            return self.login_failed(LoginFailure::MalformedRequest);
        }
        let first = tag.child("initial-response", ns::SASL2).map(Tag::text);
        self.begin(tag, first.as_deref().map(str::trim));
    }

    /// The device proved who it is. `last`: the mechanism's last word.
    pub(super) fn authenticated(&mut self, last: &[u8], used: Option<Used>) {
        let (lives, agents_max) = (self.config.fast_token, self.config.fast_agents_max);
        let Some(login) = &mut self.login else { return };
        let secret = data_encoding::BASE64URL_NOPAD.encode(login.draw().as_ref());
        let now = login.time;
        let Some(inline) = &mut login.inline else { return };
        inline.additional = BASE64_STANDARD.encode(last);
        let old = used
            .as_ref()
            .filter(|used| !inline.invalidate && used.issued_at.plus(ROTATED_AFTER) <= now);
        let wanted = inline.request.or(old.map(|used| used.mechanism)).filter(|_| !lives.is_zero());
        if let Some(agent) = &inline.agent {
            inline.token = wanted.map(|_| FastToken::new(secret, now, now.plus(lives)));
            let promote = used.as_ref().is_some_and(|used| used.first_use);
            let invalidate = inline.invalidate && used.is_some();
            let mechanism = used.map(|used| used.mechanism).or(wanted);
            if let Some(mechanism) = mechanism
                && (promote || invalidate || inline.token.is_some())
            {
                inline.change = Some(Box::new(FastChange {
                    agent: agent.clone(),
                    mechanism,
                    promote,
                    invalidate,
                    fresh: wanted.zip(inline.token.clone()),
                    agents_max,
                }));
            }
        }
        // A claim takes the change along; without one it is a step of its own.
        let claims = inline.bind.is_some() && inline.resume.as_ref().is_none_or(Option::is_none);
        match inline.change.take_if(|_| !claims) {
            Some(change) => {
                inline.changing = true;
                let Some(who) = login.who.clone() else { return };
                self.stage = Stage::Waiting;
                self.actions.push_back(Action::ChangeTokens {
                    tenant: who.tenant,
                    device: who.device,
                    generation: who.generation,
                    change,
                });
            }
            None => self.settle_in(),
        }
    }

    /// Answers `ChangeTokens`: they are changed, or not. A token that is not stored is not given out.
    pub fn tokens_changed(&mut self, changed: bool, now: Instant) {
        let inline = self.login.as_mut().and_then(|login| login.inline.as_mut());
        let Some(inline) = inline.filter(|inline| inline.changing) else {
            return;
        };
        inline.changing = false;
        if !changed {
            inline.token = None;
        }
        self.stage = Stage::Open;
        self.settle_in();
        self.go_on(now);
    }

    /// The claim took no change of tokens along: none is given out.
    pub fn tokens_withheld(&mut self) {
        if let Some(inline) = self.login.as_mut().and_then(|login| login.inline.as_mut()) {
            inline.token = None;
        }
    }

    /// Resumes, else binds, else only says that the login succeeded.
    fn settle_in(&mut self) {
        let Some(login) = &mut self.login else { return };
        let (Some(who), random) = (login.who.clone(), login.draw()) else {
            return;
        };
        let Some(inline) = &mut login.inline else { return };
        match inline.resume.take() {
            Some(Some(resume)) => return self.find_session(resume),
            Some(None) => inline.failed = Some(Unmanaged::BadRequest),
            None => {}
        }
        if let Some(bind) = &inline.bind {
            let resource = bind.resource(inline.agent.as_ref(), random.as_ref());
            let fast = inline.change.take();
            login.binding = Some(Binding { id: None, resource });
            self.stage = Stage::Waiting;
            self.actions.push_back(Action::Claim {
                tenant: who.tenant,
                device: who.device,
                generation: who.generation,
                fast,
            });
            return;
        }
        let domain = login.host.as_ref().map(|(domain, _)| domain.clone()).unwrap_or_default();
        let Some(inline) = login.inline.take() else { return };
        self.stage = Stage::Open;
        self.write_plain(LifeSign::Connect, |out| {
            inline.write_success(out, &format!("{}@{domain}", who.device));
            inline.write_end(out);
        });
        self.features();
    }

    /// Nothing was resumed: goes on with the bind of the same request. False: that was no resumption within a login.
    pub(super) fn not_resumed_inline(&mut self, failed: Unmanaged) -> bool {
        let Some(inline) = self.login.as_mut().and_then(|login| login.inline.as_mut()) else {
            return false;
        };
        inline.failed = Some(failed);
        self.settle_in();
        true
    }

    /// The seat is taken: the whole answer at once.
    pub(super) fn bound_inline(&mut self, inline: &Inline) {
        let enabled = inline
            .bind
            .as_ref()
            .and_then(|bind| bind.enable.as_ref())
            .map(|asked| self.enabled(asked));
        let jid = self
            .session
            .as_ref()
            .map(|session| session.jid.full().to_owned())
            .unwrap_or_default();
        self.write_plain(LifeSign::Connect, |out| {
            inline.write_success(out, &jid);
            out.extend_from_slice(b"<bound xmlns='urn:xmpp:bind:0'>");
            out.extend_from_slice(enabled.unwrap_or_default().as_bytes());
            out.extend_from_slice(b"</bound>");
            inline.write_end(out);
        });
        self.session_features();
        if inline.bind.as_ref().is_some_and(|bind| bind.inactive) {
            self.indicated(true);
        }
    }
}
