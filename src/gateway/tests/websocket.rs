//! WebSocket: the handshake, frames good and bad, and the tests of the other doors once more.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketContext},
};

use super::{Device, Offer, SOON, Service, TENANT, admission, device::connector, event, id, life, now, sessions, transport};
use crate::http;

thread_local! {
    /// Where the devices of this test come in that would come in by direct TLS.
    static OVER_WEBSOCKET: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn over_websocket() -> bool {
    OVER_WEBSOCKET.get()
}

/// Runs tests of other files with devices that come in here.
macro_rules! once_more {
    ($($file:ident: $($test:ident),+;)+) => {
        $($(
            #[test]
            fn $test() {
                OVER_WEBSOCKET.set(true);
                $file::$test();
            }
        )+)+
    };
}

once_more! {
    sessions:
        an_acknowledged_event_ends_and_presence_follows,
        arrivals_wait_until_the_backlog_is_read,
        a_full_window_says_later_and_is_ready_again_after_an_acknowledgement,
        a_lost_session_is_away_and_resumes_with_what_it_did_not_get,
        resuming_over_an_open_connection_ends_that_one_with_conflict,
        a_newer_bind_takes_the_seat_and_the_older_session_returns_its_events,
        a_new_bind_ends_a_session_that_waits_to_be_resumed_and_its_count_is_remembered,
        a_session_that_nobody_resumes_ends_and_gives_the_seat_up,
        a_silent_device_reads_offline_after_a_missed_probe,
        a_removed_device_is_thrown_out,
        a_full_signal_channel_loses_no_signal,
        at_a_stop_devices_hear_it_and_their_last_acknowledgements_count,
        a_store_that_is_down_is_no_wrong_password,
        a_resumption_that_dies_of_the_same_event_is_told_each_time,
        two_connections_that_fight_for_a_seat_are_slowed,
        presence_is_told_over_http_to_who_may_read,
        low_urgency_waits_in_the_store_while_the_device_is_inactive;
    life:
        a_device_that_does_not_read_is_named_and_then_why_it_was_given_up,
        a_keepalive_that_was_asked_for_outlives_a_resumption,
        an_old_connection_is_reset_and_its_session_resumed,
        a_cloned_identity_shows_in_presence;
    admission:
        a_crowd_that_logs_in_takes_turns_and_all_get_in,
        an_account_whose_logins_fail_again_and_again_is_slowed_and_not_locked;
    transport:
        beyond_sessions_max_a_device_reads_why_it_is_refused,
        a_device_that_does_not_read_is_sent_no_more_than_it_takes_and_all_of_it_later,
        a_device_that_takes_nothing_for_too_long_is_given_up;
}

const HANDSHAKE: &str = "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n";
const OPEN: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";
const CLOSE: &str = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A client that knows frames, and nothing of what is in them.
pub(super) struct Client {
    io: Box<dyn Io>,
    received: Vec<u8>,
}

impl Client {
    async fn https(service: &Service) -> Self {
        let socket = TcpStream::connect(service.https).await.unwrap();
        let tls = connector(service, &["http/1.1"]).connect("localhost".try_into().unwrap(), socket);
        Self {
            io: Box::new(tls.await.unwrap()),
            received: Vec::new(),
        }
    }

    async fn http(service: &Service) -> Self {
        Self {
            io: Box::new(TcpStream::connect(service.http).await.unwrap()),
            received: Vec::new(),
        }
    }

    /// Connected and upgraded.
    async fn open(service: &Service) -> Self {
        let mut client = Self::https(service).await;
        let answer = client.asks(HANDSHAKE).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.send(&frame(0x81, text.as_bytes())).await;
    }

    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(SOON, self.io.read(&mut buffer))
            .await
            .expect("something comes");
        let read = read.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// The head of the answer to a request, and of its body what is there.
    async fn asks(&mut self, request: &str) -> String {
        self.send(request.as_bytes()).await;
        loop {
            if let Some(at) = self.received.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.received.split_off(at + 4);
                let mut head = String::from_utf8(std::mem::replace(&mut self.received, rest)).unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map(|length| length.parse().unwrap());
                while self.received.len() < length.unwrap_or(0) {
                    assert!(self.read().await);
                }
                if let Some(length) = length {
                    head.push_str(std::str::from_utf8(&self.received[..length]).unwrap());
                    self.received.drain(..length);
                }
                return head;
            }
            assert!(self.read().await, "closed");
        }
    }

    /// The next frame: its first byte and its payload. `None`: the connection ended.
    async fn hear(&mut self) -> Option<(u8, String)> {
        loop {
            let length = match self.received.get(1) {
                Some(126) => self
                    .received
                    .get(2..4)
                    .map(|two| (4, usize::from(u16::from_be_bytes(two.try_into().unwrap())))),
                Some(127) => self
                    .received
                    .get(2..10)
                    .map(|eight| (10, u64::from_be_bytes(eight.try_into().unwrap()) as usize)),
                Some(length) => Some((2, usize::from(*length))),
                None => None,
            };
            if let Some((start, length)) = length
                && self.received.len() >= start + length
            {
                let rest = self.received.split_off(start + length);
                let frame = std::mem::replace(&mut self.received, rest);
                let payload = frame[start..].iter().map(|byte| char::from(*byte)).collect();
                return Some((frame[0], payload));
            }
            if !self.read().await {
                assert!(self.received.is_empty());
                return None;
            }
        }
    }

    /// Frames until one has that word.
    async fn until(&mut self, word: &str) -> String {
        loop {
            let (first, payload) = self.hear().await.unwrap_or_else(|| panic!("closed before {word:?}"));
            if payload.contains(word) {
                assert_eq!(first, 0x81);
                return payload;
            }
        }
    }

    async fn login(&mut self) {
        self.say(OPEN).await;
        self.until("<stream:features").await;
        self.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>")
            .await;
        self.until("<success").await;
        self.say(OPEN).await;
        self.until("<stream:features").await;
        self.say("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .await;
        self.until("<jid>box@localhost/").await;
    }
}

/// A frame as a client sends it: `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A device for the tests of the other doors: what it says as a stream goes out in messages, and the answers come as a stream.
pub(super) async fn as_stream(service: &Service) -> DuplexStream {
    let client = Client::open(service).await;
    let (near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(translate(client, far));
    near
}

/// Bytes in memory that `tungstenite` reads and writes.
struct Pipe<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Read::read(&mut self.input, buffer)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut self.output, bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn translate(client: Client, mut device: DuplexStream) {
    let Client { mut io, received } = client;
    let mut context = WebSocketContext::from_partially_read(received, Role::Client, None);
    let (mut outward, mut inward) = ([0; 4096], [0; 4096]);
    let mut said = Vec::new();
    loop {
        let mut input = &[][..];
        let mut output = Vec::new();
        tokio::select! {
            read = device.read(&mut outward) => match read {
                Ok(read @ 1..) => said.extend_from_slice(&outward[..read]),
                _ => return,
            },
            read = io.read(&mut inward) => match read {
                Ok(read @ 1..) => input = &inward[..read],
                _ => return,
            },
        }
        while let Some(message) = first_message(&mut said) {
            let mut pipe = Pipe { input: &[], output };
            if context.write(&mut pipe, Message::text(message)).is_err() || context.flush(&mut pipe).is_err() {
                return;
            }
            output = pipe.output;
        }
        let mut pipe = Pipe { input, output };
        let mut heard = String::new();
        let over = loop {
            match context.read(&mut pipe) {
                Ok(Message::Text(text)) => heard.push_str(&as_over_tcp(text.as_str())),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        // The peer may be gone on either side: then the next read says so.
        let _ = device.write_all(heard.as_bytes()).await;
        let _ = io.write_all(&pipe.output).await;
        let _ = io.flush().await;
        if over {
            return;
        }
    }
}

/// Takes the first whole element of what was said as a stream, as a message.
fn first_message(said: &mut Vec<u8>) -> Option<String> {
    let text = std::str::from_utf8(said).ok()?.to_owned();
    let declaration = text.starts_with("<?").then(|| text.find("?>")).flatten().map_or(0, |end| end + 2);
    let rest = &text[declaration..];
    let mut end = 0;
    let mut depth = 0;
    let message = if rest.starts_with("<stream:stream") {
        end = rest.find('>')? + 1;
        OPEN.to_owned()
    } else if rest.starts_with("</stream:stream>") {
        end = "</stream:stream>".len();
        CLOSE.to_owned()
    } else if rest.starts_with(' ') {
        end = 1;
        " ".to_owned()
    } else {
        loop {
            let start = end + rest.get(end..)?.find('<')?;
            end = start + rest[start..].find('>')? + 1;
            let tag = &rest[start..end];
            depth += if tag.starts_with("</") {
                -1
            } else {
                i32::from(!tag.ends_with("/>"))
            };
            if depth == 0 {
                break;
            }
        }
        let element = &rest[..end];
        let name = element.find([' ', '/', '>']).unwrap();
        if element[..element.find('>').unwrap()].contains(" xmlns=") {
            element.to_owned()
        } else {
            format!("{} xmlns='jabber:client'{}", &element[..name], &element[name..])
        }
    };
    said.drain(..declaration + end);
    Some(message)
}

fn as_over_tcp(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("<open ") {
        return format!("<stream:stream {}>", rest.strip_suffix("/>").unwrap());
    }
    if message == CLOSE {
        return "</stream:stream>".to_owned();
    }
    let message = message.replacen(" xmlns:stream='http://etherx.jabber.org/streams'", "", 1);
    message.replacen(" xmlns='jabber:client'", "", 1)
}

#[tokio::test]
async fn a_device_gets_an_event_over_websocket_and_presence_says_so() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    assert_eq!(link.offer(&event("box", 1, r#"{"data":"é"}"#), now()), Offer::Taken);
    device.hear("{\"data\":\"é\"}").await;
    assert_eq!(service.presence("box").await["transport"], "websocket");
    let series = r#"unpoll_sessions{node="n1",transport="websocket"}"#;
    assert_eq!(service.metric(series).as_deref(), Some("1"));
    device.send("</stream:stream>").await;
    device.hear("</stream:stream>").await;
    device.hear_the_end().await;
    service
        .until("counted", async |service| service.metric(series).as_deref() == Some("0"))
        .await;
}

#[tokio::test]
async fn a_handshake_that_is_none_is_answered_with_what_is_wrong() {
    OVER_WEBSOCKET.set(true);
    let service = Service::with(|config| config.websocket_origins = vec!["https://ui.example".to_owned()]).await;
    let check = async |from: &str, to: &str, status: &str, slug: &str| {
        let mut client = Client::https(&service).await;
        assert!(from.is_empty() || HANDSHAKE.contains(from), "{from}");
        let request = if from.is_empty() {
            to.to_owned()
        } else {
            HANDSHAKE.replacen(from, to, 1)
        };
        let answer = client.asks(&request).await;
        assert!(
            answer.split(' ').nth(1) == Some(status) && answer.contains(slug),
            "{to:?}: {answer}"
        );
        answer
    };
    let answer = check("Upgrade: websocket\r\n", "", "426", "/problems/upgrade-required").await;
    assert!(
        answer.contains("sec-websocket-version: 13") && answer.contains("upgrade: websocket"),
        "{answer}"
    );
    check("Connection: Upgrade", "Connection: keep-alive", "426", "/problems/upgrade-required").await;
    check("Version: 13", "Version: 8", "426", "/problems/upgrade-required").await;
    check("Sec-WebSocket-Protocol: xmpp\r\n", "", "400", "\\\"xmpp\\\"").await;
    check("Protocol: xmpp", "Protocol: mqtt, xmpp-framing", "400", "/problems/bad-handshake").await;
    check("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: c2hvcnQ=", "400", "Sec-WebSocket-Key").await;
    check("HTTP/1.1", "HTTP/1.0", "426", "/problems/upgrade-required").await;
    check("GET", "POST", "405", "/problems/method-not-allowed").await;
    check("Host", "Origin: https://evil.example\r\nHost", "403", "/problems/foreign-origin").await;
    let answer = check(
        "Host",
        "Origin: https://UI.example\r\nHost",
        "101",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    )
    .await;
    assert!(answer.contains("sec-websocket-protocol: xmpp"), "{answer}");
    check("Protocol: xmpp", "Protocol: chat, xmpp", "101", "sec-websocket-protocol: xmpp\r\n").await;

    let refused = Client::http(&service).await.asks(HANDSHAKE).await;
    assert!(
        refused.starts_with("HTTP/1.1 403 ") && refused.contains("/problems/tls-required"),
        "{refused}"
    );
    let refused = Client::http(&service)
        .await
        .asks("GET /.well-known/host-meta HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert!(refused.contains("/problems/tls-required"), "{refused}");
    for (path, expected) in [
        (
            "host-meta",
            "<Link rel='urn:xmpp:alt-connections:websocket' href='wss://box.example:8443/xmpp-websocket'/>",
        ),
        (
            "host-meta.json",
            r#"{"links":[{"rel":"urn:xmpp:alt-connections:websocket","href":"wss://box.example:8443/xmpp-websocket"}]}"#,
        ),
    ] {
        let request = format!("GET /.well-known/{path} HTTP/1.1\r\nHost: box.example:8443\r\n\r\n");
        let answer = check("", &request, "200", expected).await;
        assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
    }
    check(
        "",
        "GET /.well-known/host-meta HTTP/1.1\r\nHost: <'>\r\n\r\n",
        "400",
        "/problems/invalid-field",
    )
    .await;
}

#[tokio::test]
async fn what_is_no_message_of_text_ends_the_session_with_an_error_and_a_code() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let large = "x".repeat(257 * 1024);
    for (bytes, error, code) in [
        (frame(0x82, b"binary"), "<bad-format ", 1003_u16),
        (
            frame(0x81, b"<presence xmlns='jabber:client'>\xff</presence>"),
            "<not-well-formed ",
            1007,
        ),
        (frame(0x81, large.as_bytes()), "<stanza-too-big ", 1009),
        (vec![0x81, 4, b'<', b'a', b'/', b'>'], "<bad-format ", 1002),
        (
            frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/><r xmlns='urn:xmpp:sm:3'/>"),
            "<not-well-formed ",
            1000,
        ),
        (frame(0x81, b"<r xmlns='urn:xmpp:sm:3'>"), "<not-well-formed ", 1000),
    ] {
        let mut client = Client::open(&service).await;
        client.login().await;
        // It may end before all of it is sent.
        let _ = client.io.write_all(&bytes).await;
        let _ = client.io.flush().await;
        let said = client.until("<stream:error").await;
        assert!(said.contains(error), "{said}");
        assert_eq!(client.hear().await, Some((0x81, CLOSE.to_owned())));
        let (first, payload) = client.hear().await.unwrap();
        let code = code.to_be_bytes().map(char::from);
        assert_eq!((first, payload.chars().collect::<Vec<_>>()), (0x88, code.to_vec()), "{error}");
        assert_eq!(client.hear().await, None);
    }
}

#[tokio::test]
async fn before_the_login_a_message_may_be_no_larger_than_there() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::open(&service).await;
    let _ = client.io.write_all(&frame(0x81, "x".repeat(17 * 1024).as_bytes())).await;
    assert!(client.until("<stream:error").await.contains("<stanza-too-big "));
}

#[tokio::test]
async fn pings_are_answered_and_fragments_put_together_whatever_the_cut() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::open(&service).await;
    client.login().await;
    client.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    client.until("<enabled").await;
    let bytes = [
        frame(0x01, b"<presence xmlns='jab"),
        frame(0x89, b"are you there"),
        frame(0x80, b"ber:client'/>"),
        frame(0x8a, b""),
        frame(0x81, b" "),
        frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/>"),
    ]
    .concat();
    for byte in bytes {
        client.send(&[byte]).await;
    }
    assert_eq!(client.hear().await, Some((0x8a, "are you there".to_owned())));
    client.until("<presence ").await;
    client.until("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    client.send(&frame(0x88, &[3, 233])).await;
    assert_eq!(client.hear().await, Some((0x88, "\u{3}\u{e9}".to_owned())));
    assert_eq!(client.hear().await, None);
    // It closed its WebSocket and not its stream: the session waits.
    service.until("away", async |service| service.state("box").await == "away").await;
}

#[tokio::test]
async fn what_is_sent_ahead_of_the_answer_is_read() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::https(&service).await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>";
    let ahead = [HANDSHAKE.as_bytes(), &frame(0x81, OPEN.as_bytes()), &frame(0x81, auth.as_bytes())].concat();
    client.send(&ahead).await;
    assert!(client.asks("").await.starts_with("HTTP/1.1 101 "));
    let features = client.until("<stream:features").await;
    assert!(
        features.contains("<channel-binding type='tls-exporter'/>") && !features.contains("starttls"),
        "{features}"
    );
    client.until("<success").await;
}

#[tokio::test]
async fn a_connection_that_left_http_is_bound_by_none_of_its_limits() {
    OVER_WEBSOCKET.set(true);
    let limits = http::Config {
        connections_max: 1,
        head_secs: 1,
        idle_secs: 1,
        write_secs: 1,
        ..http::Config::default()
    };
    let service = Service::with_http(limits, |_| {}).await;
    let mut first = Client::open(&service).await;
    first.login().await;
    // The one place is free again, and the second client leaves it, too.
    let mut second = Client::open(&service).await;
    second.say(OPEN).await;
    second.until("<stream:features").await;
    // Longer than HTTP would let it be.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    first
        .say("<iq xmlns='jabber:client' type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await;
    first.until("id='p'").await;
}

#[tokio::test]
async fn without_require_tls_a_proxy_may_end_it() {
    OVER_WEBSOCKET.set(true);
    let service = Service::with(|config| config.require_tls = false).await;
    let mut client = Client::http(&service).await;
    assert!(client.asks(HANDSHAKE).await.starts_with("HTTP/1.1 101 "));
    client.say(OPEN).await;
    let features = client.until("<stream:features").await;
    assert!(
        !features.contains("starttls") && !features.contains("channel-binding"),
        "{features}"
    );
    client.login_from_features().await;
}

impl Client {
    async fn login_from_features(&mut self) {
        self.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>")
            .await;
        self.until("<success").await;
    }
}

#[tokio::test]
async fn a_session_moves_between_the_doors() {
    let mut service = Service::with_http(http::Config::default(), |_| {}).await;
    let mut tcp = Device::tls(&service).await;
    tcp.login("box").await;
    tcp.bind().await;
    let session = tcp.enable().await;
    tcp.present().await;
    service.ready("box").await;
    assert_eq!(
        service.link("box").unwrap().offer(&event("box", 1, r#"{"n":1}"#), now()),
        Offer::Taken
    );
    tcp.hear(r#"{"n":1}"#).await;

    OVER_WEBSOCKET.set(true);
    let mut web = Device::tls(&service).await;
    web.login("box").await;
    web.resume(&session, 1).await;
    web.hear("<resumed ").await;
    web.hear(r#"{"n":1}"#).await;
    tcp.hear("<conflict ").await;
    assert_eq!(service.presence("box").await["transport"], "websocket");
    drop(web);
    service.until("away", async |service| service.state("box").await == "away").await;

    OVER_WEBSOCKET.set(false);
    let mut tcp = Device::tls(&service).await;
    tcp.login("box").await;
    tcp.resume(&session, 2).await;
    tcp.hear("<resumed ").await;
    assert_eq!(service.presence("box").await["transport"], "xmpps");
    let link = service.gateway.links().link(TENANT, &id("box")).unwrap();
    assert!(!link.holds(event("box", 1, r#"{"n":1}"#).id));
}

#[tokio::test]
async fn who_sends_too_much_is_slowed_and_then_cut_off_and_nobody_else_waits() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::with(|config| {
        config.flood_stanzas_per_second = 200;
        config.flood_stanzas_burst = 100;
        config.flood_patience_secs = 3;
    })
    .await;
    let mut other = service.online("other").await;
    let mut client = Client::open(&service).await;
    client.login().await;
    client.say("<enable xmlns='urn:xmpp:sm:3'/>").await;
    client.until("<enabled").await;
    let flood = tokio::spawn(async move {
        let requests = frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/>").repeat(200_000);
        let (mut reading, mut writing) = tokio::io::split(client.io);
        let sending = async {
            let _ = writing.write_all(&requests).await;
            std::future::pending::<()>().await;
        };
        let mut heard = Vec::new();
        tokio::select! {
            () = sending => {}
            // However it ends: what was said before is in `heard`.
            _ = reading.read_to_end(&mut heard) => {}
        }
        String::from_utf8_lossy(&heard).into_owned()
    });
    service
        .until("it is named", async |service| service.presence("box").await["flooding"] == true)
        .await;
    other.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    tokio::time::timeout(Duration::from_secs(1), other.hear("<a ")).await.unwrap();
    let heard = flood.await.unwrap();
    let answers = heard.matches("<a xmlns").count();
    assert!(
        answers < 3_000 && heard.contains("<policy-violation "),
        "{answers} answers of 200,000"
    );
    assert_eq!(service.state("other").await, "online");
}

#[tokio::test]
async fn at_the_cap_a_handshake_is_refused_before_anything_is_spent() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::with(|config| config.sessions_max = 1).await;
    let _first = service.online("box").await;
    let answer = Client::https(&service).await.asks(HANDSHAKE).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: "), "{answer}");
    let series = r#"unpoll_connections_refused_total{reason="sessions"}"#;
    assert_eq!(service.metric(series).as_deref(), Some("1"));
}
