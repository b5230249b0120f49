//! A client of WebSocket, and a device over it for the tests of the other doors.

use std::io::{self, Read, Write};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketContext},
};

use super::{SOON, Service, device::connector};

pub(super) const HANDSHAKE: &str = "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n";
pub(super) const OPEN: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";
pub(super) const CLOSE: &str = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";

pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A client that knows frames, and nothing of what is in them.
pub(super) struct Client {
    pub(super) io: Box<dyn Io>,
    received: Vec<u8>,
}

impl Client {
    pub(super) async fn https(service: &Service) -> Self {
        let socket = TcpStream::connect(service.https).await.unwrap();
        let tls = connector(service, &["http/1.1"]).connect("localhost".try_into().unwrap(), socket);
        Self {
            io: Box::new(tls.await.unwrap()),
            received: Vec::new(),
        }
    }

    pub(super) async fn http(service: &Service) -> Self {
        Self {
            io: Box::new(TcpStream::connect(service.http).await.unwrap()),
            received: Vec::new(),
        }
    }

    /// Connected and upgraded.
    pub(super) async fn open(service: &Service) -> Self {
        let mut client = Self::https(service).await;
        let answer = client.asks(HANDSHAKE).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        client
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(super) async fn say(&mut self, text: &str) {
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
    pub(super) async fn asks(&mut self, request: &str) -> String {
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
    pub(super) async fn hear(&mut self) -> Option<(u8, String)> {
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
    pub(super) async fn until(&mut self, word: &str) -> String {
        loop {
            let (first, payload) = self.hear().await.unwrap_or_else(|| panic!("closed before {word:?}"));
            if payload.contains(word) {
                assert_eq!(first, 0x81);
                return payload;
            }
        }
    }

    pub(super) async fn show_password(&mut self) {
        self.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>")
            .await;
        self.until("<success").await;
    }

    pub(super) async fn login(&mut self) {
        self.say(OPEN).await;
        self.until("<stream:features").await;
        self.show_password().await;
        self.say(OPEN).await;
        self.until("<stream:features").await;
        self.say("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .await;
        self.until("<jid>box@localhost/").await;
    }
}

/// A frame as a client sends it: `first` is its first byte.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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
