//! A conversation of any bytes with the pure stream, and what must hold in it.
//!
//! Bytes below 0x09 can stand in no XML, so here they are what happens between two reads: an event, time, an answer that
//! fails, a broken connection. All other bytes are fed to the stream as they are; over WebSocket a line feed ends a message. The
//! first byte chooses the scene.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use unpoll::{
    domain::{
        Data, Epoch, Event, EventId, EventIdKey, FastTokens, Generation, Lane, Located, Outcome, Password, Queue, Require, ScramSecret,
        Seq, SessionId, TenantId, Timestamp, Urgency,
    },
    store::QueuedEvent,
    xmpp::{
        self, Action, Credentials, Framing, PeerCertificate, Pinned, Pushed, ServerStream, Session, SessionEnd, StreamConfig, StreamError,
    },
};

/// One stream may hold this much: input that waits, output that nobody takes, the window. The largest stanza is 256 KiB.
const MEMORY_MAX: usize = 1024 * 1024;

const HEADER: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.com' version='1.0'>";
const PLAIN: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHN0Yi0xAHBlbmNpbA==</auth>";
const OPEN: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>";
const BIND: &str = "<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
const ENABLE: &str = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";

static SECRET: LazyLock<ScramSecret> =
    LazyLock::new(|| ScramSecret::derive_with_salt(&Password("pencil".into()), b"0123456789abcdef", 4096));
static CONFIG: LazyLock<Arc<StreamConfig>> = LazyLock::new(|| {
    Arc::new(StreamConfig::new(Arc::new(|host| match host {
        "example.com" => Some(TenantId(0)),
        "other.example" => Some(TenantId(1)),
        _ => None,
    })))
});

/// Who is there at the start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A stranger without TLS, who never shows a right password.
    Clear,
    /// The same inside TLS.
    Secured,
    /// The same, who showed a certificate that is good for no device of the registry.
    Certified,
    /// A device that logged in, with stream management or not.
    Bound { managed: bool },
}

struct Conversation {
    stream: ServerStream,
    scene: Scene,
    framing: Framing,
    now: Instant,
    time: Timestamp,
    events: u64,
    /// What was written and has not ended.
    open: HashMap<EventId, Require>,
    ended: HashSet<EventId>,
    claims: u64,
    closed: u32,
    tokens: FastTokens,
    parked: Option<Box<Session>>,
    /// The store does not answer this time.
    failing: bool,
}

/// Runs one conversation. Panics where something does not hold.
pub fn run(input: &[u8]) {
    let Some((scene, script)) = input.split_first() else { return };
    let (scene, framing) = match scene {
        0xf0.. => (Scene::Certified, Framing::Stream),
        0xe0.. => (Scene::Bound { managed: true }, Framing::WebSocket),
        0xd0.. => (Scene::Secured, Framing::WebSocket),
        scene => match scene % 4 {
            0 => (Scene::Clear, Framing::Stream),
            1 => (Scene::Secured, Framing::Stream),
            2 => (Scene::Bound { managed: true }, Framing::Stream),
            _ => (Scene::Bound { managed: false }, Framing::Stream),
        },
    };
    let mut conversation = Conversation::new(scene, framing);
    let mut rest = script;
    while let Some(at) = rest.iter().position(|byte| *byte < 0x09) {
        conversation.feed(&rest[..at]);
        conversation.happen(rest[at]);
        rest = &rest[at + 1..];
    }
    conversation.feed(rest);
    conversation.finish();
}

impl Conversation {
    fn new(scene: Scene, framing: Framing) -> Self {
        let now = Instant::now();
        let mut conversation = Self {
            stream: ServerStream::new(CONFIG.clone(), scene != Scene::Clear, [7; 32], now).framed(framing),
            scene,
            framing,
            now,
            time: Timestamp(1_790_000_000_000),
            events: 0,
            open: HashMap::new(),
            ended: HashSet::new(),
            claims: 0,
            closed: 0,
            tokens: FastTokens::default(),
            parked: None,
            failing: false,
        };
        conversation.show();
        if let Scene::Bound { managed } = scene {
            let (header, presence) = match framing {
                Framing::Stream => (HEADER, "<presence/>"),
                Framing::WebSocket => (OPEN, "<presence xmlns='jabber:client'/>"),
            };
            for said in [header, PLAIN, header, BIND, if managed { ENABLE } else { "" }, presence] {
                conversation.feed(said.as_bytes());
            }
            assert_eq!((conversation.claims, conversation.closed), (1, 0), "the beginning of a session");
        }
        conversation
    }

    /// The certificate of the handshake.
    fn show(&mut self) {
        if self.scene == Scene::Certified {
            let named = ("stb-9".parse().expect("a device id"), "example.com".to_owned());
            self.stream.certificate(PeerCertificate {
                proves: vec![named],
                sha256: [9; 32],
            });
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let framing = self.framing;
        let ends = |byte: &u8| framing == Framing::WebSocket && *byte == b'\n';
        for piece in bytes.split(ends).filter(|piece| !piece.is_empty()) {
            self.stream.receive(piece, self.now, self.time);
            self.answer();
        }
    }

    /// Something other than input.
    fn happen(&mut self, what: u8) {
        match what {
            0 => self.push(Require::Acknowledged),
            1 => self.push(Require::Received),
            2 => self.pass(Duration::from_secs(1)),
            3 => self.pass(Duration::from_secs(31)),
            4 => self.pass(Duration::from_secs(301)),
            5 => self.failing = !self.failing,
            6 => self.stream.rest(),
            7 => self.reconnect(),
            _ => self.stream.fail(&StreamError::SystemShutdown, self.now),
        }
        self.answer();
    }

    fn push(&mut self, require: Require) {
        self.events += 1;
        let event = event(self.events, require, self.time);
        if self.stream.push(&event, self.events.is_multiple_of(2), self.now, self.time) == Pushed::Taken {
            assert_eq!(self.closed, 0, "an event was taken by a stream that has ended");
            assert!(self.stream.session().is_some(), "an event was taken without a session");
            self.open.insert(event.id, require);
        }
        self.stream.flush(self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.time = self.time.plus(time);
        self.stream.elapse(self.now);
    }

    /// The connection breaks, and the device comes back with a new one.
    fn reconnect(&mut self) {
        self.stream.disconnected(self.now);
        self.answer();
        let parked = self.stream.take_session();
        if parked.is_some() {
            self.parked = parked;
        }
        let secured = self.scene != Scene::Clear;
        self.stream = ServerStream::new(CONFIG.clone(), secured, [9; 32], self.now).framed(self.framing);
        self.closed = 0;
        self.show();
        if matches!(self.scene, Scene::Bound { .. }) {
            let header = if self.framing == Framing::Stream { HEADER } else { OPEN };
            for said in [header, PLAIN, header] {
                self.feed(said.as_bytes());
            }
        }
    }

    /// The gateway's part.
    fn answer(&mut self) {
        while let Some(action) = self.stream.next_action() {
            match action {
                Action::StartTls => self.stream.tls_started([8; 32], self.now),
                Action::FindCredentials { tenant, device, .. } => {
                    let known = tenant == TenantId(0) && device.as_str() == "stb-1";
                    let found = match (self.failing, known) {
                        (true, _) => Credentials::Unavailable,
                        (false, true) => Credentials::Found {
                            secrets: vec![SECRET.clone()],
                            generation: 3,
                            tokens: self.tokens.clone(),
                        },
                        (false, false) => Credentials::Unknown { like: None },
                    };
                    self.stream.credentials_found(found, self.now);
                }
                // Strangers never know the password; checking it would only cost time.
                Action::CheckPassword { .. } => {
                    let right = matches!(self.scene, Scene::Bound { .. });
                    self.stream.password_checked((!self.failing).then_some(right), self.now);
                }
                Action::CheckCertificate { device, .. } => {
                    assert!(self.scene == Scene::Certified, "a certificate that nobody showed");
                    let pinned = match (self.failing, device.as_str()) {
                        (true, _) => Pinned::Unavailable,
                        (false, "stb-1") => Pinned::None { generation: 3 },
                        (false, "stb-2") => Pinned::Other,
                        (false, _) => Pinned::Unknown,
                    };
                    self.stream.certificate_checked(pinned, self.now);
                }
                Action::ChangeTokens { change, .. } => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger gets a token");
                    if !self.failing {
                        self.tokens.apply(&change);
                    }
                    self.stream.tokens_changed(!self.failing, self.now);
                }
                Action::Claim { tenant, device, fast, .. } => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger claims the seat of {device}");
                    assert_eq!(tenant, TenantId(0));
                    if self.failing {
                        self.stream.claim_failed(true, self.now);
                    } else {
                        self.claims += 1;
                        fast.into_iter().for_each(|change| self.tokens.apply(&change));
                        self.stream
                            .claimed(Epoch(self.claims), SessionId(u128::from(self.claims)), self.now);
                    }
                }
                Action::Resume { previous, .. } => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger resumes");
                    match self.parked.take_if(|session| Some(session.id()) == previous) {
                        Some(session) => self.stream.resume(session, self.now, self.time),
                        None => self.stream.not_resumed(None, self.now),
                    }
                }
                Action::Ended(ends) => ends.into_iter().for_each(|(id, _, outcome)| self.end(id, outcome)),
                Action::Close(end) => {
                    self.closed += 1;
                    assert_eq!(self.closed, 1, "a stream ends once");
                    if matches!(end, SessionEnd::Hibernate(_)) {
                        assert!(self.stream.session().is_some(), "nothing is there to hibernate");
                    }
                }
                Action::Ready => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger has a session");
                    self.stream.session_mut().map(Session::read_on);
                }
                Action::Told(telling) => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger says what became of an event");
                    self.stream.told(telling.ticket, !self.failing);
                }
                Action::Reported(_) | Action::Polls(_) | Action::Unavailable | Action::Keepalive(_) => {
                    assert!(matches!(self.scene, Scene::Bound { .. }), "a stranger has a session");
                }
            }
        }
        let said = std::mem::take(self.stream.output());
        assert!(std::str::from_utf8(&said).is_ok(), "the stream says what is no UTF-8");
        if self.framing == Framing::WebSocket {
            for message in xmpp::messages(&said) {
                let text = message.0.concat();
                assert!(text.starts_with(b"<") && text.ends_with(b">"), "a message that is no element");
            }
        }
        let held = self.stream.memory();
        assert!(held < MEMORY_MAX, "{held} bytes are held");
    }

    /// An event ends once, and only if it was written. One that wants a receipt is not delivered by less.
    fn end(&mut self, id: EventId, outcome: Outcome) {
        assert!(self.open.remove(&id).is_some(), "{id} ended ({outcome:?}) and was not open");
        assert!(self.ended.insert(id), "{id} ended twice");
    }

    fn finish(mut self) {
        self.stream.disconnected(self.now);
        self.answer();
        assert_eq!(self.closed, 1, "a lost connection ends the stream");
    }
}

fn event(number: u64, require: Require, accepted_at: Timestamp) -> Arc<QueuedEvent> {
    let located = Located {
        tenant: TenantId(0),
        bucket: 5,
        ordinal: 1,
        queue: Some(Queue::Rest),
        number,
    };
    // Every third lives so shortly that it expires in the window.
    let ttl = Duration::from_secs(if number.is_multiple_of(3) { 20 } else { 3_600 });
    Arc::new(QueuedEvent {
        id: EventIdKey::new(&[3; 32]).seal(located),
        located,
        lane: Lane::Queue(Urgency::Normal, Generation(0x3f)),
        seq: Seq(number),
        attempt: 1,
        event: Event {
            tenant: TenantId(0),
            device: "stb-1".parse().expect("a device id"),
            accepted_at,
            deliver_at: None,
            ttl,
            urgency: if number.is_multiple_of(4) { Urgency::Low } else { Urgency::Normal },
            collapse_key: None,
            require,
            json: Data(r#"{"specversion":"1.0","id":"e","source":"/s","type":"t","data":{"a":"<&>"}}"#.into()),
        },
    })
}
