//! One XMPP stream from TCP to presence (RFC 6120, XEP-0198), driven by whoever holds it.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::{
    Error,
    error::in_time,
    event::{Incoming, NS_CLIENT, NS_SM, stream_error, understand},
    frame::{Frame, Framer},
    login::unexpected,
    sasl2::Token,
    transport::Transport,
    xml::{Element, escape, shorten},
};

pub use crate::options::{Acks, Login, Managed, Options};

/// An open stream.
pub struct Session {
    pub(crate) io: Transport,
    pub(crate) framer: Framer,
    pub(crate) header: Bytes,
    pub(crate) features: Option<Box<Element>>,
    pub(crate) options: Arc<Options>,
    pub(crate) jid: String,
    pub(crate) managed: Option<Managed>,
    pub(crate) token: Option<Token>,
}

impl Session {
    /// Connects, encrypts, logs in, binds, enables stream management and sends presence, as the options say.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn log_in(options: Arc<Options>) -> Result<Self, Error> {
        if options.login != Login::Sasl {
            return Self::at_once(options, None).await.map(|(session, _)| session);
        }
        let mut session = Self::authenticate(options).await?;
        session.bind().await?;
        session.enable().await?;
        session.announce().await?;
        Ok(session)
    }

    /// Connects, encrypts and authenticates, then asks to go on with `managed`. True when the server resumed it; else the session
    /// is bound anew (XEP-0198 §5).
    ///
    /// # Errors
    /// Whatever step fails; [`Error::NothingToResume`] without an id.
    pub async fn resume(options: Arc<Options>, managed: Managed, jid: String) -> Result<(Self, bool), Error> {
        let resume = managed.request().ok_or(Error::NothingToResume)?;
        if options.login != Login::Sasl {
            return Self::at_once(options, Some((managed, jid))).await;
        }
        let mut session = Self::authenticate(options).await?;
        session.send(&resume).await?;
        let answer = session.step("<resumed/> or <failed/>").await?;
        if answer.is("failed", NS_SM) {
            session.bind().await?;
            session.enable().await?;
            session.announce().await?;
            return Ok((session, false));
        }
        session.go_on(managed, jid, &answer).await?;
        Ok((session, true))
    }

    /// Goes on with the session that `resumed` names, and repeats what the server did not get.
    pub(crate) async fn go_on(&mut self, mut managed: Managed, jid: String, resumed: &Element) -> Result<(), Error> {
        if !resumed.is("resumed", NS_SM) || resumed.attribute("previd") != managed.id.as_deref() {
            return Err(unexpected("<resumed/> of our session", resumed));
        }
        let h = resumed
            .attribute("h")
            .and_then(|h| h.parse().ok())
            .ok_or_else(|| unexpected("<resumed h/>", resumed))?;
        managed.acknowledge(h)?;
        let again: String = managed.unacked.iter().map(String::as_str).collect();
        (self.managed, self.jid) = (Some(managed), jid);
        if again.is_empty() { Ok(()) } else { self.send(&again).await }
    }

    /// The full JID, once bound.
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// The features read last, until a resource is bound.
    pub fn features(&self) -> Option<&Element> {
        self.features.as_deref()
    }

    /// Stream management, once enabled.
    pub fn managed(&self) -> Option<&Managed> {
        self.managed.as_ref()
    }

    /// The token for the next login, if the server gave one with this (XEP-0484).
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Writes bytes as they are; nothing is counted.
    ///
    /// # Errors
    /// Those of the socket; a write that stalls for 30 s.
    pub async fn send(&mut self, bytes: &str) -> Result<(), Error> {
        self.send_bytes(bytes.as_bytes()).await
    }

    /// As [`Session::send`].
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        in_time("a write", Duration::from_secs(30), async {
            self.io.write_all(bytes).await?;
            Ok(self.io.flush().await?)
        })
        .await
    }

    /// Sends a stanza and counts it, when stream management is on.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send_stanza(&mut self, stanza: String) -> Result<(), Error> {
        let mut out = String::new();
        self.queue_stanza(stanza, &mut out);
        self.send(&out).await
    }

    /// Counts a stanza and appends it to `out`, to be written with others. Every 16 unacknowledged ones ask for an `<a/>`.
    pub fn queue_stanza(&mut self, stanza: String, out: &mut String) {
        out.push_str(&stanza);
        if let Some(managed) = &mut self.managed {
            managed.unacked.push_back(stanza);
            if managed.unacked.len().is_multiple_of(16) {
                out.push_str(&format!("<r xmlns='{NS_SM}'/>"));
            }
        }
    }

    /// Reads once, until at least one byte came. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end of the connection.
    pub async fn fill(&mut self) -> Result<(), Error> {
        thread_local! {
            // One buffer for all sessions of the thread: an idle session holds none.
            static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 16 * 1024]);
        }
        let Self { io, framer, .. } = self;
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut into = ReadBuf::new(scratch);
                std::task::ready!(Pin::new(&mut *io).poll_read(cx, &mut into)).map_err(closed)?;
                framer.feed(into.filled());
                std::task::Poll::Ready(if into.filled().is_empty() { Err(Error::Closed) } else { Ok(()) })
            })
        })
        .await
    }

    /// What is already here, understood and counted; `None` when more must be read.
    ///
    /// # Errors
    /// As [`understand`], and an acknowledgement of what was never sent.
    pub fn take(&mut self) -> Result<Option<Incoming>, Error> {
        let Some(frame) = self.framer.take()? else {
            return Ok(None);
        };
        let incoming = understand(&self.header, &frame, self.options.reading)?;
        if let Some(managed) = &mut self.managed {
            if incoming.is_stanza() {
                managed.handled = managed.handled.wrapping_add(1);
            }
            if let Incoming::Acked(h) = incoming {
                managed.acknowledge(h)?;
            }
        }
        Ok(Some(incoming))
    }

    /// The next thing that comes.
    ///
    /// # Errors
    /// As [`Session::take`] and [`Session::fill`].
    pub async fn next(&mut self) -> Result<Incoming, Error> {
        loop {
            if let Some(incoming) = self.take()? {
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    /// What a well-behaved device answers at once to `incoming`, appended to `out`. The late and the silent `<a/>` are the caller's.
    pub fn answer(&mut self, incoming: &Incoming, out: &mut String) {
        match incoming {
            Incoming::AckRequested if self.options.acks == Acks::Prompt => self.acknowledge(out),
            Incoming::Ping { id, from } if self.options.answers_pings => {
                let to = from.as_ref().map(|from| format!(" to='{}'", escape(from))).unwrap_or_default();
                let result = format!("<iq type='result' id='{}'{to}/>", escape(id));
                self.queue_stanza(result, out);
            }
            Incoming::Event(event) if event.wants_receipt && self.options.sends_receipts => {
                let (id, to) = (escape(&event.id).into_owned(), escape(&self.options.domain).into_owned());
                let receipt = format!("<message to='{to}' id='r-{id}'><received xmlns='urn:xmpp:receipts' id='{id}'/></message>");
                self.queue_stanza(receipt, out);
            }
            Incoming::Other(element) if element.is("iq", NS_CLIENT) && matches!(element.attribute("type"), Some("get" | "set")) => {
                // RFC 6120 §8.2.3: every request is answered.
                let id = escape(element.attribute("id").unwrap_or_default()).into_owned();
                let to = element
                    .attribute("from")
                    .map(|from| format!(" to='{}'", escape(from)))
                    .unwrap_or_default();
                let refusal = format!(
                    "<iq type='error' id='{id}'{to}><error type='cancel'>\
                     <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
                );
                self.queue_stanza(refusal, out);
            }
            _ => {}
        }
    }

    /// Appends `<a h=…/>` for everything handled so far.
    pub fn acknowledge(&self, out: &mut String) {
        if let Some(managed) = &self.managed {
            out.push_str(&format!("<a xmlns='{NS_SM}' h='{}'/>", managed.handled));
        }
    }

    /// Ends the stream cleanly, and waits until the server has ended its side (RFC 6120 §4.4).
    ///
    /// # Errors
    /// Whatever ends it otherwise.
    pub async fn end(mut self) -> Result<(), Error> {
        self.send("</stream:stream>").await?;
        in_time("the end of the stream", self.options.step_within, async {
            loop {
                match self.next().await {
                    Ok(_) => {}
                    Err(Error::Ended | Error::Closed) => return Ok(()),
                    Err(other) => return Err(other),
                }
            }
        })
        .await
    }

    /// Gives up the stream: the transport, and stream management for a later resumption.
    pub fn part(self) -> (Transport, Option<Managed>, String) {
        (self.io, self.managed, self.jid)
    }

    pub(crate) async fn frame_in_time(&mut self, what: &'static str) -> Result<Frame, Error> {
        in_time(what, self.options.step_within, async {
            loop {
                if let Some(frame) = self.framer.take()? {
                    return Ok(frame);
                }
                self.fill().await?;
            }
        })
        .await
    }

    pub(crate) async fn step(&mut self, wanted: &'static str) -> Result<Element, Error> {
        match self.frame_in_time(wanted).await? {
            Frame::Stanza(stanza) => {
                let element = Element::parse(&self.header, &stanza)?;
                stream_error(&element).map_or(Ok(element), Err)
            }
            Frame::End => Err(Error::Ended),
            Frame::Header(header) => Err(Error::Unexpected {
                wanted,
                got: shorten(&header),
            }),
        }
    }
}

/// A reset and a TLS end without close_notify are ends too; the rest is a fault.
fn closed(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Io(error),
    }
}
