//! Conversations with the machine: a scripted peer on one side, a gateway that answers every action on the other.

mod conversations;
mod external;
mod flood;
mod fuzz;
mod input;
mod liveness;
mod login;
mod management;
mod push;
mod sasl2;
mod standby;
mod stanza;
mod websocket;

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    domain::{
        Data, Epoch, Event, EventIdKey, FastTokens, Generation, Lane, Located, Outcome, Password, Queue, Require, ScramSecret, Seq,
        SessionId, TenantId, Timestamp, Urgency,
    },
    store::QueuedEvent,
};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
    to='example.com' version='1.0'>";
const BIND: &str = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>main</resource></bind></iq>";
const PLAIN: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHN0Yi0xAHBlbmNpbA==</auth>";
const ENABLE: &str = "<enable xmlns='urn:xmpp:sm:3' resume='true' max='600'/>";
const START: Timestamp = Timestamp(1_790_000_000_000);

static SECRET: LazyLock<ScramSecret> = LazyLock::new(|| ScramSecret::derive(&Password("pencil".into()), 4096).unwrap());

fn config() -> StreamConfig {
    StreamConfig::new(Arc::new(|host| match host {
        "example.com" => Some(TenantId(0)),
        "other.example" => Some(TenantId(1)),
        _ => None,
    }))
}

/// One connection, with the gateway's part played: `stb-1` has the password `pencil`, nobody else exists.
struct Talk {
    stream: ServerStream,
    now: Instant,
    time: Timestamp,
    /// Actions that are facts, not questions.
    seen: Vec<Action>,
    secrets: Vec<ScramSecret>,
    claims: usize,
    /// What the registry says of the certificate of `stb-1`.
    pinned: Pinned,
    tokens: FastTokens,
    /// The session that a resumption finds.
    parked: Option<Box<Session>>,
    tls: bool,
    carried: Carried,
}

/// How a conversation is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// As a stream.
    Tcp,
    /// In messages, which stand here one behind the other.
    WebSocket,
    /// In messages, and told as if it were a stream.
    WebSocketAsTcp,
}

impl Talk {
    fn with(config: StreamConfig, secured: bool) -> Self {
        let now = Instant::now();
        Self {
            stream: ServerStream::new(Arc::new(config), secured, [7; 32], now),
            now,
            time: START,
            seen: Vec::new(),
            secrets: vec![SECRET.clone()],
            claims: 0,
            pinned: Pinned::None { generation: 3 },
            tokens: FastTokens::default(),
            parked: None,
            tls: false,
            carried: Carried::Tcp,
        }
    }

    fn over(mut self, carried: Carried) -> Self {
        if carried != Carried::Tcp {
            self.stream = self.stream.framed(Framing::WebSocket);
        }
        self.carried = carried;
        self
    }

    fn new() -> Self {
        Self::with(config(), true)
    }

    /// Logged in by PLAIN, bound, nothing more.
    fn bound() -> Self {
        Self::bound_with(config())
    }

    fn bound_with(config: StreamConfig) -> Self {
        Self::with(config, true).binds()
    }

    fn binds(mut self) -> Self {
        self.log_in();
        let out = self.send(BIND);
        assert!(out.contains("<jid>stb-1@example.com/main</jid>"), "{out}");
        self
    }

    /// Bound, with stream management on, available; `<presence/>` was counted on both sides.
    fn managed() -> Self {
        Self::bound().manages()
    }

    fn manages(mut self) -> Self {
        assert!(self.send(ENABLE).contains("<enabled xmlns='urn:xmpp:sm:3' id='"));
        self.send("<presence/>");
        assert_eq!(self.facts(), ["ready"]);
        self.send("<a xmlns='urn:xmpp:sm:3' h='1'/>");
        self
    }

    fn log_in(&mut self) {
        let out = self.send(HEADER);
        assert!(out.contains("<mechanism>SCRAM-SHA-256</mechanism>"), "{out}");
        assert_eq!(self.send(PLAIN), "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        assert!(self.send(HEADER).contains("<sm xmlns='urn:xmpp:sm:3'/>"));
    }

    fn send(&mut self, text: &str) -> String {
        self.send_bytes(text.as_bytes())
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> String {
        if self.carried == Carried::WebSocketAsTcp {
            for message in websocket::messages_of(std::str::from_utf8(bytes).unwrap()) {
                self.stream.receive(message.as_bytes(), self.now, self.time);
            }
        } else {
            self.stream.receive(bytes, self.now, self.time);
        }
        self.answer();
        self.output()
    }

    fn output(&mut self) -> String {
        let output = std::mem::take(self.stream.output());
        match self.carried {
            Carried::Tcp => String::from_utf8(output).unwrap(),
            Carried::WebSocket => websocket::whole(&output).concat(),
            Carried::WebSocketAsTcp => websocket::as_over_tcp(&output),
        }
    }

    /// Answers what the machine asks, until it asks nothing more.
    fn answer(&mut self) {
        while let Some(action) = self.stream.next_action() {
            match action {
                Action::StartTls => {
                    self.tls = true;
                    self.stream.tls_started([8; 32], self.now);
                }
                Action::FindCredentials { tenant, device, .. } => {
                    let found = if tenant == TenantId(0) && device.as_str() == "stb-1" {
                        Credentials::Found {
                            secrets: self.secrets.clone(),
                            generation: 3,
                            tokens: self.tokens.clone(),
                        }
                    } else if device.as_str() == "no-store" {
                        Credentials::Unavailable
                    } else {
                        Credentials::Unknown {
                            like: self.secrets.first().cloned(),
                        }
                    };
                    self.stream.credentials_found(found, self.now);
                }
                Action::CheckPassword { password, secrets, .. } => {
                    let right = Some(secrets.iter().any(|secret| secret.matches(&password)));
                    self.stream.password_checked(right, self.now);
                }
                Action::CheckCertificate { tenant, device, .. } => {
                    let known = tenant == TenantId(0) && device.as_str() == "stb-1";
                    let found = if known { self.pinned } else { Pinned::Unknown };
                    self.stream.certificate_checked(found, self.now);
                }
                Action::Claim {
                    tenant,
                    device,
                    generation,
                    fast,
                } => {
                    if let Some(change) = fast {
                        self.tokens.apply(&change);
                    }
                    assert_eq!((tenant, device.as_str(), generation), (TenantId(0), "stb-1", 3));
                    self.claims += 1;
                    let claims = self.claims as u64;
                    self.stream.claimed(Epoch(claims), SessionId(u128::from(claims)), self.now);
                }
                Action::Resume { previous, .. } => match self.parked.take_if(|parked| Some(parked.id()) == previous) {
                    Some(session) => self.stream.resume(session, self.now, self.time),
                    None => self.stream.not_resumed(Some(9), self.now),
                },
                Action::ChangeTokens { change, .. } => {
                    self.tokens.apply(&change);
                    self.stream.tokens_changed(true, self.now);
                }
                Action::Told(telling) => {
                    let known = EventIdKey::new(&[3; 32]).open(telling.event).is_some();
                    self.stream.told(telling.ticket, known);
                    self.seen.push(Action::Told(telling));
                }
                fact => self.seen.push(fact),
            }
        }
    }

    /// What happened, in words, since the last call.
    fn facts(&mut self) -> Vec<String> {
        self.seen.drain(..).map(|fact| word(&fact)).collect()
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.time = self.time.plus(Duration::from_secs(seconds));
    }

    fn elapse(&mut self) -> String {
        self.stream.elapse(self.now);
        self.answer();
        self.output()
    }

    /// Offers event `number`, as it stands.
    fn push(&mut self, number: u64) -> bool {
        self.push_event(&event(number), false)
    }

    fn push_event(&mut self, event: &Arc<QueuedEvent>, waited: bool) -> bool {
        let pushed = self.stream.push(event, waited, self.now, self.time);
        self.answer();
        pushed == Pushed::Taken
    }

    fn flush(&mut self) -> String {
        self.stream.flush(self.now);
        self.answer();
        self.output()
    }
}

fn word(fact: &Action) -> String {
    match fact {
        Action::Ended(ends) => {
            let ends: Vec<_> = ends
                .iter()
                .map(|(_, located, outcome)| {
                    let word = match outcome {
                        Outcome::Delivered => "delivered",
                        Outcome::Expired => "expired",
                        Outcome::Rejected(_) => "rejected",
                        other => panic!("{other:?}"),
                    };
                    format!("{word} {}", located.number)
                })
                .collect();
            ends.join(", ")
        }
        Action::Ready => "ready".into(),
        Action::Told(telling) => {
            let number = EventIdKey::new(&[3; 32]).open(telling.event).map(|located| located.number);
            format!("told {} {}", number.unwrap_or(0), serde_json::to_string(&*telling.told).unwrap())
        }
        Action::Reported(report) => {
            let attributes = report.attributes.as_ref().map(|map| serde_json::to_string(map).unwrap());
            let location = report.location.as_ref().map(|location| serde_json::to_string(location).unwrap());
            let said = [("", attributes), ("location ", location)];
            let said = said.into_iter().filter_map(|(what, said)| Some(format!("{what}{}", said?)));
            format!("reports {}", said.collect::<Vec<_>>().join(", "))
        }
        Action::Polls(polling) => format!("polls {polling:?}"),
        Action::Keepalive(keepalive) => format!("keepalive {}", keepalive.as_secs()),
        Action::Unavailable => "unavailable".into(),
        Action::Close(SessionEnd::Over) => "over".into(),
        Action::Close(SessionEnd::Hibernate(time)) => format!("hibernate {}", time.as_secs()),
        question => panic!("{question:?}"),
    }
}

fn event_of(number: u64, change: impl FnOnce(&mut QueuedEvent)) -> Arc<QueuedEvent> {
    let located = Located {
        tenant: TenantId(0),
        bucket: 5,
        ordinal: 1,
        queue: Some(Queue::Rest),
        number,
    };
    let mut event = QueuedEvent {
        id: EventIdKey::new(&[3; 32]).seal(located),
        located,
        lane: Lane::Queue(Urgency::Normal, Generation(0x3f)),
        seq: Seq(number),
        attempt: 1,
        event: Event {
            tenant: TenantId(0),
            device: "stb-1".parse().unwrap(),
            accepted_at: START,
            deliver_at: None,
            ttl: Duration::from_secs(3600),
            urgency: Urgency::Normal,
            collapse_key: None,
            require: Require::Acknowledged,
            json: Data(format!(r#"{{"n":{number}}}"#).into()),
        },
    };
    change(&mut event);
    Arc::new(event)
}

fn event(number: u64) -> Arc<QueuedEvent> {
    event_of(number, |_| {})
}

fn event_with_receipt(number: u64) -> Arc<QueuedEvent> {
    event_of(number, |event| event.event.require = Require::Received)
}

fn event_with_outcome(number: u64) -> Arc<QueuedEvent> {
    event_of(number, |event| event.event.require = Require::Processed)
}

/// The id of event `number` as text.
fn id(number: u64) -> String {
    event(number).id.to_string()
}

fn numbers(messages: &str) -> Vec<u64> {
    messages
        .split("seq='")
        .skip(1)
        .map(|rest| rest.split('\'').next().unwrap().parse().unwrap())
        .collect()
}

/// A client's side of SCRAM: its final message for the server's first.
fn scram_final(sha1: bool, password: &str, bare: &str, gs2: &str, server_first: &str) -> String {
    let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
    let (kdf, mac, hash) = if sha1 {
        (
            pbkdf2::PBKDF2_HMAC_SHA1,
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
        )
    } else {
        (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256)
    };
    let mut salted = vec![0; hash.output_len()];
    let salt = BASE64_STANDARD.decode(field("s=")).unwrap();
    pbkdf2::derive(kdf, field("i=").parse().unwrap(), &salt, password.as_bytes(), &mut salted);
    let client_key = hmac::sign(&hmac::Key::new(mac, &salted), b"Client Key");
    let stored = digest::digest(hash, client_key.as_ref());
    let without_proof = format!("c={},r={}", BASE64_STANDARD.encode(gs2), field("r="));
    let signed = format!("{bare},{server_first},{without_proof}");
    let signature = hmac::sign(&hmac::Key::new(mac, stored.as_ref()), signed.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    format!("{without_proof},p={}", BASE64_STANDARD.encode(proof))
}

fn auth(mechanism: &str, message: &str) -> String {
    format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{}</auth>",
        BASE64_STANDARD.encode(message)
    )
}

fn response(message: &str) -> String {
    format!(
        "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</response>",
        BASE64_STANDARD.encode(message)
    )
}

/// The text inside the first element of that name.
fn inside<'a>(xml: &'a str, name: &str) -> &'a str {
    let start = xml.find(&format!("<{name}")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    let rest = &xml[start..];
    let rest = &rest[rest.find('>').unwrap() + 1..];
    &rest[..rest.find("</").unwrap()]
}

fn decoded(base64: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(base64).unwrap()).unwrap()
}
