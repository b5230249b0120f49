//! Bytes on the socket: in clear, as TLS records (rustls, unbuffered), or as WebSocket carries them.
//!
//! A quiet connection owns no buffer: bytes are read into a buffer of the thread and records are opened there; only the
//! beginning of a record that is not complete yet is kept.

use std::sync::Arc;

use rustls::{
    ProtocolVersion,
    pki_types::CertificateDer,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::websocket::Carrier;
use crate::{
    tls::{Served, exporter, take_chosen},
    xmpp::{Bindings, Unreadable},
};

/// Bytes that a read buffer must take: the largest TLS record (RFC 5246 §6.2.3: 5 + 2^14 + 2048), and then some.
pub(super) const READ_BUFFER: usize = 20 * 1024;

/// What a record adds at most: header, explicit nonce, content type, tag.
const RECORD_OVERHEAD: usize = 48;
const RECORD_MAX: usize = 16 * 1024;

/// Why the peer's bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// TLS failed. An alert waits among the bytes to send.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// A handshake message larger than the read buffer.
    #[error("a TLS message of more than {READ_BUFFER} bytes")]
    Oversize,
    /// The connection cannot send any more.
    #[error("TLS is closed")]
    Closed,
}

/// What is known of a peer once its handshake is done.
pub(super) struct Secured<'a> {
    /// With what it was served.
    pub(super) served: &'a Served,
    /// The certificate that it showed, and what it sent along.
    pub(super) chain: Option<&'a [CertificateDer<'static>]>,
    /// What logins can be bound to.
    pub(super) bindings: Bindings,
}

/// What came out of the layer.
pub(super) enum Heard<'a> {
    /// The handshake is done. Comes once, before any bytes.
    Secured(Secured<'a>),
    /// Bytes of the stream; with WebSocket exactly one message.
    Clear(&'a [u8]),
    /// A sign of life of so many bytes that is none of the stream.
    Alive(usize),
    /// What is no message of text.
    Unreadable(Unreadable),
}

/// How the bytes of one connection are carried.
pub(super) enum Wire {
    /// As they are.
    Plain,
    /// In TLS records.
    Tls(Box<Tls>),
    /// In messages of WebSocket.
    WebSocket(Box<Carrier>),
}

/// One TLS connection.
pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    /// With what it began, whatever is served by now.
    served: Arc<Served>,
    /// The beginning of a record that has not come in full. Empty, without memory, nearly always.
    partial: Vec<u8>,
    peer_closed: bool,
    /// `tls-exporter` of the handshake, until it is told.
    exporter: Option<Box<[u8; 32]>>,
    /// Which of the certificates the handshake took.
    certificate: u16,
    /// That the handshake is done was told.
    told: bool,
}

impl Wire {
    /// TLS, before its handshake.
    pub(super) fn tls(served: Arc<Served>) -> Result<Self, rustls::Error> {
        Ok(Self::Tls(Box::new(Tls {
            connection: UnbufferedServerConnection::new(served.devices.clone())?,
            served,
            partial: Vec::new(),
            peer_closed: false,
            exporter: None,
            certificate: 0,
            told: false,
        })))
    }

    /// Bytes of an unfinished record that go in front of what is read next: leave them room at the front of the buffer.
    pub(super) fn kept(&self) -> usize {
        match self {
            Self::Plain | Self::WebSocket(_) => 0,
            Self::Tls(tls) => tls.partial.len(),
        }
    }

    /// Moves those bytes to the front of `buffer`, behind which something was read.
    pub(super) fn begin(&mut self, buffer: &mut [u8]) {
        if let Self::Tls(tls) = self {
            let partial = std::mem::take(&mut tls.partial);
            if let Some(front) = buffer.get_mut(..partial.len()) {
                front.copy_from_slice(&partial);
            }
        }
    }

    /// Opens what was read into `buffer` (after `begin`): tells what was heard and appends to `answer` what TLS itself
    /// has to send. After an error, send `answer`, which may hold an alert, and close.
    pub(super) fn open(&mut self, buffer: &mut [u8], heard: &mut dyn FnMut(Heard<'_>), answer: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Plain => {
                if !buffer.is_empty() {
                    heard(Heard::Clear(buffer));
                }
                Ok(())
            }
            Self::Tls(tls) => tls.open(buffer, heard, answer),
            Self::WebSocket(carrier) => carrier.open(buffer, heard, answer),
        }
    }

    /// Appends `clear` to `sealed` as it goes to the socket.
    pub(super) fn seal(&mut self, clear: &[u8], sealed: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Plain => {
                sealed.extend_from_slice(clear);
                Ok(())
            }
            Self::Tls(tls) => tls.seal(Some(clear), sealed),
            Self::WebSocket(carrier) => carrier.seal(clear, sealed),
        }
    }

    /// Appends the goodbye of the layer: close_notify for TLS (RFC 8446 §6.1), and before it the close of WebSocket.
    pub(super) fn goodbye(&mut self, sealed: &mut Vec<u8>) {
        // Nothing to be done when it fails: the socket is closed next anyway.
        let _ = match self {
            Self::Plain => Ok(()),
            Self::Tls(tls) => tls.seal(None, sealed),
            Self::WebSocket(carrier) => carrier.goodbye(sealed),
        };
    }

    /// Whether bytes can be sealed: at once in clear, after the handshake with TLS.
    pub(super) fn established(&self) -> bool {
        match self {
            Self::Plain | Self::WebSocket(_) => true,
            Self::Tls(tls) => !tls.connection.is_handshaking(),
        }
    }

    /// It is known already that the peer was here before: its TLS was resumed.
    pub(super) fn returning(&self) -> bool {
        matches!(self, Self::WebSocket(carrier) if carrier.returning())
    }

    /// From now on the peer may send messages that large.
    pub(super) fn allow(&mut self, max: usize) {
        if let Self::WebSocket(carrier) = self {
            carrier.allow(max);
        }
    }

    /// The peer said close_notify, or closed its WebSocket: nothing more will come.
    pub(super) fn peer_closed(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => tls.peer_closed,
            Self::WebSocket(carrier) => carrier.peer_closed(),
        }
    }
}

impl Tls {
    fn open(&mut self, buffer: &mut [u8], heard: &mut dyn FnMut(Heard<'_>), answer: &mut Vec<u8>) -> Result<(), WireError> {
        let mut start = 0;
        // What comes in one flight with the end of the handshake.
        let mut early = Vec::new();
        loop {
            let rest = buffer.get_mut(start..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            if !self.told {
                if let Some(exporter) = exporter::take() {
                    self.exporter = Some(Box::new(exporter));
                }
                self.certificate = take_chosen().unwrap_or(self.certificate);
            }
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        if self.told {
                            heard(Heard::Clear(record.payload));
                        } else {
                            early.extend_from_slice(record.payload);
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(answer, |space| match data.encode(space) {
                    Ok(written) => Ok(written),
                    Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncodeError::AlreadyEncoded) => Err(None),
                })?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => done = true,
                // Early data is never accepted (no `max_early_data_size`), and a state that this code does not know cannot be served.
                Ok(_) => return Err(WireError::Closed),
                Err(error) => {
                    self.alert(answer);
                    return Err(error.into());
                }
            }
            start += discard;
            if !self.told && !self.connection.is_handshaking() {
                self.told = true;
                let bindings = self.bindings();
                heard(Heard::Secured(Secured {
                    served: &self.served,
                    chain: self.connection.peer_certificates(),
                    bindings,
                }));
                if !early.is_empty() {
                    heard(Heard::Clear(&std::mem::take(&mut early)));
                }
            }
            if done {
                break;
            }
        }
        let rest = buffer.get(start..).unwrap_or_default();
        if rest.len() >= READ_BUFFER {
            return Err(WireError::Oversize);
        }
        if !rest.is_empty() && !self.peer_closed {
            self.partial = rest.to_vec();
        }
        Ok(())
    }

    /// What logins on this connection can be bound to: nothing before TLS 1.3 (see [`Bindings`]).
    fn bindings(&mut self) -> Bindings {
        if self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Bindings::default();
        }
        Bindings {
            exporter: self.exporter.take().map(|exporter| *exporter),
            end_point: self.served.end_point(self.certificate),
        }
    }

    /// After a fatal error rustls has an alert to send.
    fn alert(&mut self, answer: &mut Vec<u8>) {
        while let UnbufferedStatus {
            state: Ok(ConnectionState::EncodeTlsData(mut data)),
            ..
        } = self.connection.process_tls_records(&mut [])
        {
            let encoded = encode(answer, |space| match data.encode(space) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            });
            if encoded.is_err() {
                return;
            }
        }
    }

    /// Seals `clear`, or close_notify for `None`.
    fn seal(&mut self, clear: Option<&[u8]>, sealed: &mut Vec<u8>) -> Result<(), WireError> {
        loop {
            // What was read and is not a whole record yet must be shown again: rustls keeps no copy.
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.partial);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let expected = clear.map_or(0, |clear| clear.len() + (clear.len() / RECORD_MAX) * RECORD_OVERHEAD);
                    return encode_sized(sealed, expected + 2 * RECORD_OVERHEAD, |space| {
                        let written = match clear {
                            Some(clear) => traffic.encrypt(clear, space),
                            None => traffic.queue_close_notify(space),
                        };
                        written.map_err(|error| match error {
                            EncryptError::InsufficientSize(size) => Some(size.required_size),
                            EncryptError::EncryptExhausted => None,
                        })
                    });
                }
                ConnectionState::EncodeTlsData(mut data) => encode(sealed, |space| match data.encode(space) {
                    Ok(written) => Ok(written),
                    Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncodeError::AlreadyEncoded) => Err(None),
                })?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                _ => return Err(WireError::Closed),
            }
        }
    }
}

/// Appends what `write` writes. It answers the size that it needs when there was not enough, or `None` when it cannot write.
fn encode(out: &mut Vec<u8>, write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> Result<(), WireError> {
    encode_sized(out, 256, write)
}

fn encode_sized(
    out: &mut Vec<u8>,
    expected: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), WireError> {
    let before = out.len();
    let mut size = expected;
    for _ in 0..2 {
        out.resize(before + size, 0);
        match write(out.get_mut(before..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(before + written);
                return Ok(());
            }
            Err(Some(required)) => size = required,
            Err(None) => break,
        }
    }
    out.truncate(before);
    Err(WireError::Closed)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, version};

    use super::*;
    use crate::certificate::Identity;

    /// Both sides of a handshake with `version`: what the client can bind to by its own account, and what the server told before
    /// the first bytes.
    fn handshake(version: &'static SupportedProtocolVersion) -> ([u8; 32], Option<Arc<[u8]>>, Bindings) {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let identity = Identity {
            chain: vec![certificate],
            key: private,
        };
        let server = Arc::new(Served::new(&identity, None).unwrap());
        let end_point = server.end_point(0);
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        client.writer().write_all(b"hello").unwrap();
        let mut wire = Wire::tls(server).unwrap();
        let (mut told, mut heard) = (None, Vec::new());
        while heard.is_empty() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            let kept = wire.kept();
            let mut buffer = vec![0; kept];
            buffer.extend_from_slice(&sent);
            wire.begin(&mut buffer);
            let mut answer = Vec::new();
            let mut opened = |opened: Heard<'_>| match opened {
                Heard::Secured(secured) => {
                    assert!(heard.is_empty() && told.is_none());
                    told = Some(secured.bindings);
                }
                Heard::Clear(bytes) => heard.extend_from_slice(bytes),
                Heard::Alive(_) | Heard::Unreadable(_) => unreachable!(),
            };
            wire.open(&mut buffer, &mut opened, &mut answer).unwrap();
            let mut answer = answer.as_slice();
            while !answer.is_empty() {
                client.read_tls(&mut answer).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert_eq!(heard, b"hello");
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        let fast = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ];
        assert!(
            fast.contains(&suite),
            "SHA-256 goes first, whatever the client names first: {suite:?}"
        );
        let exported = client
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
            .unwrap();
        (exported, end_point, told.unwrap())
    }

    #[test]
    fn both_sides_of_tls_1_3_know_the_same_bindings() {
        let (exported, end_point, told) = handshake(&version::TLS13);
        assert!(end_point.is_some());
        let exporter = Some(exported);
        assert_eq!(told, Bindings { exporter, end_point });
    }

    #[test]
    fn tls_1_2_binds_nothing() {
        assert_eq!(handshake(&version::TLS12).2, Bindings::default());
    }
}
