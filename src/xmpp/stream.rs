//! One connection's stream: negotiation, login, session (RFC 6120, RFC 6121, XEP-0198).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::{DeviceId, Epoch, EventId, Located, Outcome, Password, ScramSecret, SessionId, TenantId, Timestamp},
    store::{Cursor, QueuedEvent},
};

/// Bounds and times of a stream (design §4.5). All have defaults.
#[derive(Clone)]
pub struct StreamConfig {
    /// Which tenant a `to` of the stream header names; `None`: `host-unknown`.
    pub hosts: Arc<dyn Fn(&str) -> Option<TenantId> + Send + Sync>,
    /// A login without TLS is allowed (`[xmpp] require_tls = false`).
    pub allow_plaintext: bool,
    /// Keepalive: silence after which we ask for a sign of life. Default 300 s.
    pub keepalive: Duration,
    /// An acknowledgement or an answer is overdue after this: the connection is dead. Default 30 s.
    pub overdue: Duration,
    /// Login must be finished within this. Default 10 s.
    pub login_within: Duration,
    /// How long a lost session waits for resumption, at most. Default 300 s.
    pub resume_within: Duration,
    /// Largest stanza before and after login, in bytes. Default 16 KiB and 256 KiB.
    pub stanza_max_bytes_before_login: usize,
    /// After login.
    pub stanza_max_bytes: usize,
    /// Deepest nesting. Default 32.
    pub depth_max: usize,
    /// Most attributes of one element. Default 64.
    pub attributes_max: usize,
    /// Unacknowledged events a session. Default 32.
    pub window_max_events: usize,
    /// Unacknowledged bytes a session. Default 64 KiB. One event always fits.
    pub window_max_bytes: usize,
    /// XEP-0478 idle-seconds after login. Default 600.
    pub idle_secs: u32,
    /// Tries to log in on one stream. Default 3.
    pub login_tries_max: u8,
}

/// Answer to [`Action::FindCredentials`].
pub enum Credentials {
    /// What the device has.
    Found {
        /// Its verifiers, at most two.
        secrets: Vec<ScramSecret>,
        /// The generation of its credentials, to be claimed with.
        generation: u32,
    },
    /// There is no such device: fails at the proof, like a wrong password.
    Unknown,
    /// The store does not answer: `temporary-auth-failure`.
    Unavailable,
}

/// Stream errors that the gateway itself asks for. (All others come from the machine.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// A newer connection holds the seat.
    Conflict,
    /// The node stops.
    SystemShutdown,
    /// Too many sessions, or no memory; with the seconds after which to come back.
    ResourceConstraint {
        /// Seconds.
        retry_after: u32,
    },
    /// A bug.
    InternalServerError,
    /// The device was removed, or its credentials changed: `not-authorized`.
    NotAuthorized,
}

/// A stored fact about an event that ended at the device's side.
pub type Ended = (EventId, Located, Outcome);

/// What the machine asks of the gateway.
#[derive(Debug)]
pub enum Action {
    /// Write `output`, then start TLS, forget all bytes read in clear, and call `tls_started`.
    StartTls,
    /// Look up the credentials and call `credentials_found`. The machine reads on only after that.
    FindCredentials {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
    },
    /// PLAIN: check the password against the secrets, off the event loop, and call `password_checked`.
    CheckPassword {
        /// What was sent.
        password: Password,
        /// Any of these may match.
        secrets: Vec<ScramSecret>,
    },
    /// Bind: claim the seat and call `claimed` or `claim_failed`.
    Claim {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// The credential generation at login.
        generation: u32,
    },
    /// XEP-0198 `<resume/>`: find the session of that id for this device and call `resume` with it, or `not_resumed`.
    Resume {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// Which session. `None`: the `previd` is no id of ours.
        previous: Option<SessionId>,
    },
    /// Deliveries ended: tell the dispatcher.
    Ended(Vec<Ended>),
    /// The session can take events (first available presence of priority ≥ 0, resumption, or room after refusing).
    Ready,
    /// Presence became unavailable or negative: hold events.
    Unavailable,
    /// Flush `output`, half-close, drain the peer for a moment, close.
    Close(SessionEnd),
}

/// How a stream ended, and what becomes of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The session is over: clean close, stream error of ours, conflict.
    Over,
    /// The connection is dead and the session may be resumed: keep it for that long.
    Hibernate(Duration),
}

/// A proof of life, for the ledger: what kind of bytes it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeSign {
    /// Blank between stanzas, ping or pong, `<r/>` or `<a/>` of an idle probe.
    Keepalive,
    /// An acknowledgement of events.
    Acknowledgement,
    /// Presence.
    Presence,
    /// Stream header, SASL, bind, enable.
    Connect,
    /// Resume.
    Resume,
}

/// Bytes by kind, for the ledger. Cleartext bytes at the stream; the packet model adds the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received, by kind: connect, resume, keepalive, ack, presence.
    pub received: [u32; 5],
    /// Sent, by kind: connect, resume, keepalive, ack, presence.
    pub sent: [u32; 5],
    /// Sent: framing of events, that is stanza bytes without the CloudEvents JSON.
    pub framing: u32,
    /// Sent again by XEP-0198 replay.
    pub retry: u32,
}

/// What outlives a connection: identity, counters of XEP-0198, and what is not acknowledged.
#[derive(Debug)]
pub struct Session {
    _fields: (),
}

impl Session {
    /// Whose tenant.
    pub fn tenant(&self) -> TenantId {
        todo!()
    }
    /// Which device.
    pub fn device(&self) -> &DeviceId {
        todo!()
    }
    /// Its id, also the SM-ID.
    pub fn id(&self) -> SessionId {
        todo!()
    }
    /// The seat it holds.
    pub fn epoch(&self) -> Epoch {
        todo!()
    }
    /// Stanzas taken from the device (XEP-0198 `h`), for `<failed h=…/>` after it is gone.
    pub fn handled(&self) -> u32 {
        todo!()
    }
    /// How far it has been given events.
    pub fn cursor(&self) -> Cursor {
        todo!()
    }
    /// Events written and not ended, oldest first. With `require='received'` an event stays here after `<a/>`.
    pub fn unacknowledged(&self) -> Vec<(EventId, Located)> {
        todo!()
    }
    /// Whether it waits for the end of that event.
    pub fn holds(&self, _id: EventId) -> bool {
        todo!()
    }
    /// Bytes of memory it holds now.
    pub fn memory(&self) -> usize {
        todo!()
    }
}

/// One connection's stream.
pub struct ServerStream {
    _fields: (),
}

impl ServerStream {
    /// A stream on a fresh connection. `secured`: direct TLS is up. `random` is 32 fresh random bytes for ids and nonces.
    pub fn new(_config: Arc<StreamConfig>, _secured: bool, _random: [u8; 32], _now: Instant) -> Self {
        todo!()
    }

    /// Takes bytes that the peer sent: any cut, any number of stanzas. Output and actions follow. While an action waits
    /// for its answer the rest is kept (bounded by the stanza limit) and read after the answer.
    pub fn receive(&mut self, _bytes: &[u8], _now: Instant, _time: Timestamp) {
        todo!()
    }

    /// The peer closed its side without `</stream:stream>`, or the connection broke. Yields `Close`.
    pub fn disconnected(&mut self, _now: Instant) {
        todo!()
    }

    /// TLS is up after `StartTls`.
    pub fn tls_started(&mut self, _random: [u8; 32], _now: Instant) {
        todo!()
    }

    /// Answers `FindCredentials`.
    pub fn credentials_found(&mut self, _credentials: Credentials, _now: Instant) {
        todo!()
    }

    /// Answers `CheckPassword`.
    pub fn password_checked(&mut self, _right: bool, _now: Instant) {
        todo!()
    }

    /// Answers `Claim`: the seat is held under `epoch` by session `id`.
    pub fn claimed(&mut self, _epoch: Epoch, _id: SessionId, _now: Instant) {
        todo!()
    }

    /// Answers `Claim`: the store does not answer (`temporary`: stanza error `resource-constraint`, type wait, the stream
    /// lives) or the device is gone (`not-authorized` stream error).
    pub fn claim_failed(&mut self, _temporary: bool, _now: Instant) {
        todo!()
    }

    /// Answers `Resume`: here is the session, taken from its old connection. Yields `<resumed/>`, replay, `Ready`.
    pub fn resume(&mut self, _session: Box<Session>, _now: Instant, _time: Timestamp) {
        todo!()
    }

    /// Answers `Resume`: there is none. `handled` is the count of that session if it is still known.
    pub fn not_resumed(&mut self, _handled: Option<u32>, _now: Instant) {
        todo!()
    }

    /// How many more events may be written now: 0 without available presence, or with a full window.
    pub fn room(&self) -> usize {
        todo!()
    }

    /// Writes an event: renders the message (and an `<r/>`, coalesced: see `flush`) into `output` and puts it in the window.
    /// `waited`: it was not written on arrival, so it carries `<delay/>`. False: no room, nothing was done.
    /// An event at or after its expiry is not written: it moves the cursor and yields `Ended(Expired)`; true.
    /// One that the cursor covers is skipped; true.
    pub fn push(&mut self, _event: &Arc<QueuedEvent>, _waited: bool, _now: Instant, _time: Timestamp) -> bool {
        todo!()
    }

    /// Ends a burst of pushes: asks for the acknowledgement (`<r/>`, or a ping for a session without XEP-0198).
    pub fn flush(&mut self, _now: Instant) {
        todo!()
    }

    /// Notes that something was refused for lack of room: yields `Ready` once there is room again.
    pub fn refused(&mut self) {
        todo!()
    }

    /// Time passes: keepalive probes, deadlines.
    pub fn elapse(&mut self, _now: Instant) {
        todo!()
    }

    /// When to call `elapse` next. While idle this is the next keepalive.
    pub fn wake_at(&self) -> Instant {
        todo!()
    }

    /// Ends the stream with that error.
    pub fn fail(&mut self, _error: &StreamError, _now: Instant) {
        todo!()
    }

    /// Bytes to send, in order. The caller takes what it wrote off the front (or clears it).
    pub fn output(&mut self) -> &mut Vec<u8> {
        todo!()
    }

    /// What to do next, oldest first.
    pub fn next_action(&mut self) -> Option<Action> {
        todo!()
    }

    /// The session, once bound or resumed.
    pub fn session(&self) -> Option<&Session> {
        todo!()
    }

    /// Takes the session away: for resumption elsewhere, or to hibernate. The stream can only `fail` after that.
    pub fn take_session(&mut self) -> Option<Box<Session>> {
        todo!()
    }

    /// Time of the last proof of life: any inbound byte.
    pub fn last_heard(&self) -> Instant {
        todo!()
    }

    /// Bytes by kind since the last call.
    pub fn traffic(&mut self) -> Traffic {
        todo!()
    }

    /// Frees buffers that an idle session does not need. Called when nothing is in flight.
    pub fn rest(&mut self) {
        todo!()
    }

    /// Bytes of memory held now.
    pub fn memory(&self) -> usize {
        todo!()
    }
}
