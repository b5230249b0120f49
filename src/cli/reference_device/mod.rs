//! A device as the device guide describes one, on a stock XMPP library: TLS from the first byte, SASL, stream management with
//! resumption, reconnection with full jitter, one number a lane against repeats.
//!
//! `tokio-xmpp` carries the stream. Its own client would retry a refused login for ever and reconnect in step with all others,
//! so the connector is ours (`connect`); it acknowledges stanzas itself as it reads them (XEP-0198), before the caller has
//! the event. Whoever must not lose an event between the two asks for it with `require: "received"`: that receipt
//! (XEP-0184) is sent by [`ReferenceDevice::confirm`], after the event was applied.

mod connect;
mod delivered;
mod lanes;
mod wire;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_xmpp::{
    Stanza,
    stanzastream::{Event, StanzaStream, StreamEvent},
};
use xmpp_parsers::{
    iq::Iq,
    message::{Message, MessageType},
    minidom::Element,
    ns,
    presence::Presence,
    receipts::Received,
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

pub use connect::{Account, Backoff, Endpoint, tls_trusting};
pub use delivered::Delivered;
pub use lanes::Lanes;

use connect::{Connector, Notice};
use wire::Cutter;

/// Stanzas on their way between library and caller: few, so that little is acknowledged ahead of the caller.
const QUEUE_DEPTH: usize = 1;
/// How long a stanza may take to be queued for sending, or a goodbye to be said.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What a device meets.
#[derive(Debug)]
pub enum News {
    /// It is connected and has said so with a presence. `resumed`: the session before the cut goes on (XEP-0198 §5).
    Online {
        /// Whether the session goes on.
        resumed: bool,
    },
    /// The connection is lost; it is being made anew.
    Away,
    /// A connection could not be made; it is tried again.
    Retrying {
        /// Why.
        why: String,
        /// After this pause.
        pause: Duration,
    },
    /// An event that was not applied yet.
    Event(Delivered),
}

/// Why a device gives up. Everything else it retries.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// The server refused the login.
    #[error("the server refused the login of {jid}: {why}; check the device's id and password")]
    Login {
        /// Of whom.
        jid: String,
        /// SASL's condition.
        why: String,
    },
    /// The server's certificate is not trusted, or not for this name.
    #[error("the certificate of {address} is not trusted: {why}; name its authority's file with --ca")]
    Untrusted {
        /// Whose.
        address: String,
        /// What TLS says.
        why: String,
    },
    /// What listens there answers a TLS handshake with something else: the port for STARTTLS, or no XMPP at all.
    #[error("{address} does not begin with TLS; give the port of XMPP over TLS, 5223 by default, and not that of STARTTLS")]
    NoTls {
        /// Where.
        address: String,
    },
    /// The server does not serve this domain.
    #[error("{address} does not serve the domain {domain}; check --domain")]
    UnknownDomain {
        /// Which server.
        address: String,
        /// Which domain.
        domain: String,
    },
    /// Another connection logged in as the same device. Coming back would take the seat from it, and so on for ever.
    #[error("another connection logged in as {jid}, so this one ended; a device has one seat")]
    Conflict {
        /// As whom.
        jid: String,
    },
    /// The library's worker ended.
    #[error("the XMPP library ended the stream of {jid}")]
    Ended {
        /// Whose.
        jid: String,
    },
}

/// Cuts the connection of a device.
#[derive(Clone)]
pub struct Switch(Arc<Cutter>);

impl Switch {
    /// Cuts it as a failing network does, and lets the device away for a while; then it resumes.
    pub fn cut(&self, away: Duration) {
        self.0.cut(away);
    }
}

impl Drop for ReferenceDevice {
    /// A connection that was on its way must not take the seat from the device's next life.
    fn drop(&mut self) {
        self.cutter.end();
    }
}

/// A device that is connected, or becomes so. Dropped without [`ReferenceDevice::close`] it is like one that lost its power.
pub struct ReferenceDevice {
    stream: Option<StanzaStream>,
    notices: mpsc::UnboundedReceiver<Notice>,
    cutter: Arc<Cutter>,
    lanes: Lanes,
    repeats: u64,
    account: Account,
}

impl ReferenceDevice {
    /// Starts to connect. `lanes` is what it remembers of events it applied before.
    pub fn start(account: Account, endpoint: Endpoint, lanes: Lanes) -> Self {
        let (tell, notices) = mpsc::unbounded_channel();
        let cutter = Arc::new(Cutter::default());
        let connector = Connector::new(account.clone(), endpoint, cutter.clone(), tell);
        Self {
            stream: Some(StanzaStream::new(connector.into_reconnector(), QUEUE_DEPTH)),
            notices,
            cutter,
            lanes,
            repeats: 0,
            account,
        }
    }

    /// What happens next. Repeats are acknowledged here and not told.
    ///
    /// # Errors
    /// When coming back would not help; the device is then at its end.
    pub async fn next(&mut self) -> Result<News, DeviceError> {
        loop {
            let Some(stream) = &mut self.stream else {
                return Err(self.ended());
            };
            let event = tokio::select! {
                biased;
                Some(notice) = self.notices.recv() => match notice {
                    Notice::Retrying { why, pause } => return Ok(News::Retrying { why, pause }),
                    Notice::GaveUp(error) => {
                        self.stream = None;
                        return Err(error);
                    }
                },
                event = stream.next() => event,
            };
            match event {
                None => {
                    self.stream = None;
                    return Err(self.ended());
                }
                Some(Event::Stream(StreamEvent::Reset { .. })) => {
                    self.send(Presence::available().into()).await;
                    return Ok(News::Online { resumed: false });
                }
                Some(Event::Stream(StreamEvent::Resumed)) => return Ok(News::Online { resumed: true }),
                Some(Event::Stream(StreamEvent::Suspended)) => return Ok(News::Away),
                Some(Event::Stanza(Stanza::Message(message))) => {
                    if let Some(event) = self.take(&message).await {
                        return Ok(News::Event(event));
                    }
                }
                Some(Event::Stanza(Stanza::Iq(iq))) => self.answer(iq).await,
                Some(Event::Stanza(Stanza::Presence(_))) => {}
            }
        }
    }

    async fn take(&mut self, message: &Message) -> Option<Delivered> {
        let event = Delivered::read(message)?;
        if self.lanes.is_news(&event.lane, event.seq) {
            return Some(event);
        }
        self.repeats += 1;
        self.confirm(&event).await;
        None
    }

    /// Tells the server that the event was applied, if it asked for that (XEP-0184).
    pub async fn confirm(&mut self, event: &Delivered) {
        if !event.receipt_wanted {
            return;
        }
        let mut message = Message::new_with_type(MessageType::Normal, event.from.clone());
        message.payloads.push(Element::from(Received { id: event.id.clone() }));
        self.send(message.into()).await;
    }

    /// Every request gets exactly one answer (RFC 6120 §8.2.3).
    async fn answer(&mut self, iq: Iq) {
        let (from, id, payload) = match iq {
            Iq::Get { from, id, payload, .. } | Iq::Set { from, id, payload, .. } => (from, id, payload),
            Iq::Result { .. } | Iq::Error { .. } => return,
        };
        let answer = if payload.is("ping", ns::PING) {
            Iq::Result {
                from: None,
                to: from,
                id,
                payload: None,
            }
        } else {
            let error = StanzaError::new(
                ErrorType::Cancel,
                DefinedCondition::ServiceUnavailable,
                "en",
                "a device has no such service",
            );
            Iq::Error {
                from: None,
                to: from,
                id,
                error,
                payload: None,
            }
        };
        self.send(answer.into()).await;
    }

    /// Queues a stanza. When it cannot be sent in time it is left out: the server asks, or sends, again.
    async fn send(&mut self, stanza: Stanza) {
        if let Some(stream) = &self.stream {
            let _ = tokio::time::timeout(SEND_TIMEOUT, stream.send(Box::new(stanza))).await;
        }
    }

    /// A way to cut its connection from outside.
    pub fn switch(&self) -> Switch {
        Switch(self.cutter.clone())
    }

    /// Loses its power: the connection ends without a goodbye. What it remembers is the answer.
    pub fn lose_power(mut self) -> Lanes {
        std::mem::take(&mut self.lanes)
    }

    /// How many repeats it acknowledged without applying them.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Says goodbye (RFC 6120 §4.4), which ends the session.
    pub async fn close(mut self) {
        if let Some(stream) = self.stream.take() {
            // While it is not connected the library would wait for the connection before it says goodbye.
            let _ = tokio::time::timeout(SEND_TIMEOUT, stream.close()).await;
        }
    }

    fn ended(&self) -> DeviceError {
        DeviceError::Ended { jid: self.account.jid() }
    }
}

#[cfg(test)]
mod tests;
