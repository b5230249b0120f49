//! One connection's stream: negotiation, login, session (RFC 6120, RFC 6121, XEP-0198).

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::domain::Timestamp;

use super::{
    action::{Action, Ended, SessionEnd},
    config::StreamConfig,
    element::Tag,
    error::{Condition, StreamError},
    flood::Flood,
    framer::{Frame, Framer},
    framing::{self, Framing},
    liveness::Liveness,
    login::Login,
    ns,
    sasl::{binding::Bindings, scram},
    session::Session,
    traffic::{LifeSign, Traffic},
};

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The stream header comes next.
    Header,
    /// Negotiation: TLS, login, bind, resume.
    Open,
    /// Waits for an answer of the gateway. Input is kept.
    Waiting,
    /// Waits for the TLS handshake. Input is thrown away.
    Tls,
    /// There is a session.
    Bound,
    /// The session was taken away: input is thrown away, and only an error is still said.
    Taken,
    /// The node stops: acknowledgements are still read, nothing is answered.
    Leaving,
    /// Nothing is read or written any more.
    Closed,
}

/// One connection's stream.
pub struct ServerStream {
    pub(super) config: Arc<StreamConfig>,
    pub(super) framing: Framing,
    pub(super) framer: Framer,
    pub(super) stage: Stage,
    /// Our header was written, so that an error needs none.
    pub(super) opened: bool,
    pub(super) out: Vec<u8>,
    pub(super) actions: VecDeque<Action>,
    /// Input that came while an action waited for its answer.
    kept: Vec<u8>,
    /// What only matters until there is a session.
    pub(super) login: Option<Box<Login>>,
    pub(super) session: Option<Box<Session>>,
    pub(super) live: Liveness,
    pub(super) flood: Flood,
    /// The connection ends then; whether that was put off.
    pub(super) retires: Option<(Instant, bool)>,
    pub(super) traffic: Traffic,
    /// Bytes of the frame that is being read.
    reading: usize,
    /// Something was refused for lack of room, when the window held that many bytes.
    pub(super) refused: Option<usize>,
    /// Events were written since the last request for an acknowledgement.
    pub(super) unasked: bool,
}

impl ServerStream {
    /// A stream on a fresh connection. `secured`: direct TLS is up. `random` is 32 fresh random bytes for ids and nonces.
    pub fn new(config: Arc<StreamConfig>, secured: bool, random: [u8; 32], now: Instant) -> Self {
        scram::seed_fakes(&random);
        Self {
            login: Some(Box::new(Login::new(secured, &random, now + config.login_within))),
            config,
            framing: Framing::Stream,
            framer: Framer::default(),
            stage: Stage::Header,
            opened: false,
            out: Vec::new(),
            actions: VecDeque::new(),
            kept: Vec::new(),
            session: None,
            live: Liveness::new(now),
            flood: Flood::new(now),
            retires: None,
            traffic: Traffic::default(),
            reading: 0,
            refused: None,
            unasked: false,
        }
    }

    /// The same, carried as `framing` says.
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self.framer = framing.framer();
        self
    }

    /// What logins on this connection can be bound to, once TLS is up and before anything said inside it is read.
    pub fn bound_to(&mut self, bindings: Bindings) {
        if let Some(login) = &mut self.login {
            login.bindings = bindings;
        }
    }

    /// Takes bytes that the peer sent: any cut, any number of stanzas; with WebSocket exactly one message. Output and actions follow. While an action waits
    /// for its answer the rest is kept (bounded by the stanza limit) and read after the answer.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, time: Timestamp) {
        if bytes.is_empty() || self.stage == Stage::Closed {
            return;
        }
        self.live.heard(now);
        if let Some(login) = &mut self.login {
            login.time = time;
        }
        if let Some(session) = &mut self.session {
            let ends = session.window.expire(time);
            self.ended(ends);
        }
        self.read(bytes, now);
        self.count_flood(bytes.len(), now);
    }

    /// The peer closed its side without `</stream:stream>`, or the connection broke. Yields `Close`.
    pub fn disconnected(&mut self, _now: Instant) {
        if matches!(self.stage, Stage::Closed | Stage::Leaving) {
            self.stage = Stage::Closed;
            return;
        }
        self.close(self.end_of_lost_connection());
    }

    /// TLS is up after `StartTls`.
    pub fn tls_started(&mut self, random: [u8; 32], now: Instant) {
        if self.stage == Stage::Tls
            && let Some(login) = &mut self.login
        {
            login.secure(&random);
            self.live.heard(now);
            self.restart();
        }
    }

    /// Ends the stream with that error.
    pub fn fail(&mut self, error: &StreamError, _now: Instant) {
        let leaving = *error == StreamError::SystemShutdown && self.stage == Stage::Bound && self.session.is_some();
        if !leaving {
            return self.fail_with(&Condition::Asked(error.clone()));
        }
        // Closing drops the parser; what it has half read goes on here.
        let framer = std::mem::take(&mut self.framer);
        self.fail_with(&Condition::Asked(error.clone()));
        self.framer = framer;
        self.stage = Stage::Leaving;
    }

    /// Bytes to send, in order. The caller takes what it wrote off the front (or clears it).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What to do next, oldest first.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The session, once bound or resumed.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// The same, to tell it what happened elsewhere.
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    /// Takes the session away: for resumption elsewhere, or to hibernate. The stream can only `fail` after that.
    pub fn take_session(&mut self) -> Option<Box<Session>> {
        if self.stage == Stage::Bound {
            self.stage = Stage::Taken;
        }
        self.session.take()
    }

    /// Time of the last proof of life: any inbound byte.
    pub fn last_heard(&self) -> Instant {
        self.live.last_heard()
    }

    /// Bytes by kind since the last call. What a login costs is told once it is known whether it resumed.
    pub fn traffic(&mut self) -> Traffic {
        if self.login.is_some() && self.stage != Stage::Closed {
            return Traffic::default();
        }
        std::mem::take(&mut self.traffic)
    }

    /// Frees buffers that an idle session does not need. Called when nothing is in flight.
    pub fn rest(&mut self) {
        self.framer.rest();
        self.actions.shrink_to_fit();
        self.kept.shrink_to_fit();
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if let Some(session) = &mut self.session {
            session.window.rest();
        }
    }

    /// Bytes of memory held now.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.framer.memory()
            + self.out.capacity()
            + self.kept.capacity()
            + self.actions.capacity() * size_of::<Action>()
            + self.login.as_ref().map_or(0, |login| login.memory())
            + self.session.as_ref().map_or(0, |session| session.memory())
    }

    /// A new stream within the connection, with a new parser (RFC 6120 §4.3.3).
    pub(super) fn restart(&mut self) {
        self.framer = self.framing.framer();
        self.stage = Stage::Header;
        self.opened = false;
    }

    /// An answer came: goes on with what was kept.
    pub(super) fn go_on(&mut self, now: Instant) {
        let kept = std::mem::take(&mut self.kept);
        for piece in framing::pieces(self.framing, &kept) {
            self.read(piece, now);
        }
    }

    fn read(&mut self, mut bytes: &[u8], now: Instant) {
        if self.framing == Framing::WebSocket {
            return self.read_message(bytes, now);
        }
        loop {
            match self.stage {
                Stage::Closed | Stage::Tls | Stage::Taken => return,
                Stage::Waiting => return self.keep(bytes),
                Stage::Header | Stage::Open | Stage::Bound | Stage::Leaving => {}
            }
            if self.acknowledged_shortly(&mut bytes, now) {
                self.flood.element();
                continue;
            }
            let bounds = self.config.bounds(self.logged_in());
            let before = bytes.len();
            let frame = self.framer.next(&mut bytes, &bounds);
            self.reading += before - bytes.len();
            let read = std::mem::take(&mut self.reading);
            match frame {
                Ok(Some(Frame::Header(element, content))) => {
                    self.traffic.receive(LifeSign::Connect, read);
                    self.header(element.top(), content.as_deref());
                }
                Ok(Some(Frame::Stanza(element))) => {
                    self.flood.element();
                    let kind = self.stanza(element.top(), now);
                    self.traffic.receive(kind, read);
                }
                Ok(Some(Frame::End)) => return self.finished(),
                Ok(None) => {
                    if self.framer.between_stanzas() {
                        self.traffic.receive(LifeSign::Keepalive, read);
                    } else {
                        self.reading = read;
                    }
                    return;
                }
                Err(fault) => return self.fail_with(&fault.into()),
            }
        }
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() > self.config.bounds(self.logged_in()).bytes {
            return self.fail_with(&Condition::PolicyViolation("too much was sent ahead"));
        }
        framing::keep(self.framing, &mut self.kept, bytes);
    }

    /// Whether the peer has proved who it is.
    pub(super) fn logged_in(&self) -> bool {
        self.login.as_ref().is_none_or(|login| login.who.is_some())
    }

    pub(super) fn stanza(&mut self, tag: Tag<'_>, now: Instant) -> LifeSign {
        match self.stage {
            Stage::Bound => self.in_session(tag, now),
            Stage::Leaving => {
                self.while_leaving(tag);
                LifeSign::Acknowledgement
            }
            _ => {
                self.negotiate(tag);
                LifeSign::Connect
            }
        }
    }

    /// The peer closed its stream in order (RFC 6120 §4.4): that ends the session, too.
    pub(super) fn finished(&mut self) {
        if self.stage == Stage::Leaving {
            self.stage = Stage::Closed;
            return;
        }
        self.framing.write_close(&mut self.out);
        self.close(SessionEnd::Over);
    }

    /// Ends the stream with a stream error of ours (RFC 6120 §4.9).
    pub(super) fn fail_with(&mut self, condition: &Condition) {
        self.fail_and_end(condition, SessionEnd::Over);
    }

    /// The same, with what becomes of the session.
    pub(super) fn fail_and_end(&mut self, condition: &Condition, end: SessionEnd) {
        match self.stage {
            Stage::Closed => return,
            Stage::Leaving => {
                self.stage = Stage::Closed;
                return;
            }
            // Nothing can be said in the middle of a handshake.
            Stage::Tls => {}
            _ => {
                if !self.opened {
                    self.open(None);
                }
                let before = self.out.len();
                condition.write(&mut self.out);
                self.framing.write_close(&mut self.out);
                self.traffic.send(LifeSign::Connect, self.out.len() - before);
            }
        }
        self.close(end);
    }

    /// Nothing is read or written from here on.
    pub(super) fn close(&mut self, end: SessionEnd) {
        self.stage = Stage::Closed;
        self.kept = Vec::new();
        self.framer = Framer::default();
        self.actions.push_back(Action::Close(end));
    }

    /// What becomes of the session when its connection breaks.
    pub(super) fn end_of_lost_connection(&self) -> SessionEnd {
        match &self.session {
            Some(session) if session.managed && !session.resumable_for.is_zero() => SessionEnd::Hibernate(session.resumable_for),
            _ => SessionEnd::Over,
        }
    }

    /// Writes our stream header.
    pub(super) fn open(&mut self, from: Option<&str>) {
        let id = self.login.as_mut().map(|login| login.random_hex()).unwrap_or_default();
        let before = self.out.len();
        self.framing.write_open(&mut self.out, &id, from);
        self.traffic.send(LifeSign::Connect, self.out.len() - before);
        self.opened = true;
    }

    /// Writes a stanza of the session that is no event. With XEP-0198 it is kept until it is acknowledged.
    pub(super) fn write(&mut self, kind: LifeSign, render: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        render(&mut self.out);
        let stanza = self.out.get(before..).unwrap_or_default();
        self.traffic.send(kind, stanza.len());
        let fits = match &mut self.session {
            Some(session) if session.managed => session.window.other(stanza),
            _ => true,
        };
        if !fits {
            self.fail_with(&Condition::PolicyViolation("too much is not acknowledged"));
        }
    }

    /// Writes what is no stanza, so that it is not counted.
    pub(super) fn write_plain(&mut self, kind: LifeSign, render: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        render(&mut self.out);
        self.traffic.send(kind, self.out.len() - before);
    }

    /// Deliveries ended: tells so, and that there is room again if something was refused.
    pub(super) fn ended(&mut self, ends: Vec<Ended>) {
        if !ends.is_empty() {
            self.flood.ended(ends.len());
            self.actions.push_back(Action::Ended(ends));
        }
        let held = self.session.as_ref().map_or(0, |session| session.window.bytes());
        if self.refused.is_some_and(|before| held < before) && self.room() > 0 {
            self.refused = None;
            self.actions.push_back(Action::Ready);
        }
    }

    /// An element of a namespace that only makes sense at another time, or never.
    pub(super) fn unexpected(&mut self, tag: Tag<'_>) {
        let stanza = tag.namespace() == ns::CLIENT && matches!(tag.name(), "iq" | "message" | "presence");
        if tag.is("error", ns::STREAM) {
            // The peer gives up.
            return self.finished();
        }
        let early = !self.logged_in() || self.login.is_some() && stanza;
        self.fail_with(&if early && (stanza || tag.namespace() == ns::SM) {
            Condition::NotAuthorized
        } else {
            Condition::UnsupportedStanzaType
        });
    }
}
