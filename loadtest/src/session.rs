//! One XMPP stream from TCP to presence (RFC 6120, XEP-0198), driven by whoever holds it.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::{
    Error,
    error::in_time,
    event::{Incoming, NS_CLIENT, NS_SM, NS_STREAMS, stream_error, understand},
    frame::{Frame, Framer},
    sasl::{self, Mechanism, Scram},
    transport::{Security, Transport},
    xml::{Element, escape, shorten},
};

pub use crate::options::{Acks, Managed, Options};

const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const NS_TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";

/// An open stream.
pub struct Session {
    io: Transport,
    framer: Framer,
    header: Bytes,
    features: Option<Box<Element>>,
    options: Arc<Options>,
    jid: String,
    managed: Option<Managed>,
}

impl Session {
    /// Connects, encrypts, logs in, binds, enables stream management and sends presence, as the options say.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn log_in(options: Arc<Options>) -> Result<Self, Error> {
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
        let previd = managed.id.clone().ok_or(Error::NothingToResume)?;
        let mut session = Self::authenticate(options).await?;
        session
            .send(&format!(
                "<resume xmlns='{NS_SM}' h='{}' previd='{}'/>",
                managed.handled,
                escape(&previd)
            ))
            .await?;
        let answer = session.step("<resumed/> or <failed/>").await?;
        if answer.is("failed", NS_SM) {
            session.bind().await?;
            session.enable().await?;
            session.announce().await?;
            return Ok((session, false));
        }
        if !answer.is("resumed", NS_SM) || answer.attribute("previd") != Some(&previd) {
            return Err(unexpected("<resumed/> of our session", &answer));
        }
        let mut managed = managed;
        let h = answer
            .attribute("h")
            .and_then(|h| h.parse().ok())
            .ok_or_else(|| unexpected("<resumed h/>", &answer))?;
        managed.acknowledge(h)?;
        let again: String = managed.unacked.iter().map(String::as_str).collect();
        (session.managed, session.jid) = (Some(managed), jid);
        if !again.is_empty() {
            session.send(&again).await?;
        }
        Ok((session, true))
    }

    /// Connects, encrypts, authenticates and reads the features that follow. Nothing is bound.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn authenticate(options: Arc<Options>) -> Result<Self, Error> {
        let mut session = Self::open(options).await?;
        session.prove().await?;
        session.open_stream().await?;
        Ok(session)
    }

    /// Connects and encrypts; the stream is open, its features are read, nobody is authenticated.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn open(options: Arc<Options>) -> Result<Self, Error> {
        let within = options.step_within;
        let mut io = in_time("connect", within, Transport::tcp(options.server, options.source)).await?;
        if let Security::Tls(trust) = &options.security {
            io = in_time("TLS handshake", within, io.encrypt(trust, &options.domain)).await?;
        }
        let (framer, header) = (Framer::default(), Bytes::new());
        let mut session = Self {
            io,
            framer,
            header,
            features: None,
            options,
            jid: String::new(),
            managed: None,
        };
        session.open_stream().await?;
        if let Security::StartTls(trust) = &session.options.security {
            let trust = trust.clone();
            session = session.start_tls(&trust).await?;
        }
        Ok(session)
    }

    async fn start_tls(mut self, trust: &crate::Trust) -> Result<Self, Error> {
        if self
            .features
            .as_ref()
            .is_none_or(|features| features.child("starttls", NS_TLS).is_none())
        {
            return Err(Error::NotOffered("STARTTLS"));
        }
        self.send(&format!("<starttls xmlns='{NS_TLS}'/>")).await?;
        let answer = self.step("<proceed/>").await?;
        if !answer.is("proceed", NS_TLS) || !self.framer.is_empty() {
            return Err(unexpected("<proceed/> and nothing behind it", &answer));
        }
        let io = in_time(
            "TLS handshake",
            self.options.step_within,
            self.io.encrypt(trust, &self.options.domain),
        )
        .await?;
        let mut session = Self { io, ..self };
        session.open_stream().await?;
        Ok(session)
    }

    /// Sends the header and reads the server's, and its features.
    async fn open_stream(&mut self) -> Result<(), Error> {
        self.framer.restart();
        let domain = escape(&self.options.domain).into_owned();
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAMS}' to='{domain}' version='1.0' xml:lang='en'>"
        ))
        .await?;
        match self.frame_in_time("a stream header").await? {
            Frame::Header(header) => {
                let root = Element::header(&header)?;
                if !root.is("stream", NS_STREAMS) || root.attribute("version") != Some("1.0") || root.attribute("id").is_none() {
                    return Err(unexpected("a stream header with id and version", &root));
                }
                // Copied: a slice would keep the whole read buffer alive for as long as the session.
                self.header = Bytes::copy_from_slice(&header);
            }
            other => {
                return Err(Error::Unexpected {
                    wanted: "a stream header",
                    got: format!("{other:?}"),
                });
            }
        }
        let features = self.step("<stream:features/>").await?;
        if !features.is("features", NS_STREAMS) {
            return Err(unexpected("<stream:features/>", &features));
        }
        self.features = Some(Box::new(features));
        Ok(())
    }

    async fn prove(&mut self) -> Result<(), Error> {
        let offered: Vec<String> = self
            .features
            .as_ref()
            .and_then(|features| features.child("mechanisms", NS_SASL))
            .map(|mechanisms| mechanisms.children.iter().map(|child| child.text.trim().to_owned()).collect())
            .unwrap_or_default();
        let offers = |mechanism: &Mechanism| offered.iter().any(|name| name == mechanism.name());
        let mechanism = match self.options.mechanism {
            Some(wanted) if offers(&wanted) => wanted,
            Some(_) => return Err(Error::NotOffered("the SASL mechanism")),
            None => Mechanism::ALL
                .into_iter()
                .find(offers)
                .ok_or(Error::NotOffered("a SASL mechanism of ours"))?,
        };
        let (user, password) = (self.options.user.clone(), self.options.password.clone());
        let begun = Scram::begin(mechanism, &user)?;
        let first = begun
            .as_ref()
            .map_or_else(|| sasl::plain(&user, &password), |(_, first)| first.clone());
        self.send(&format!("<auth xmlns='{NS_SASL}' mechanism='{}'>{first}</auth>", mechanism.name()))
            .await?;
        if let Some((mut scram, _)) = begun {
            let challenge = refused(self.step("<challenge/>").await?)?;
            if !challenge.is("challenge", NS_SASL) {
                return Err(unexpected("<challenge/>", &challenge));
            }
            let answer = scram.answer(&challenge.text, &password)?;
            self.send(&format!("<response xmlns='{NS_SASL}'>{answer}</response>")).await?;
            let success = self.success().await?;
            return scram.verify(&success.text);
        }
        self.success().await.map(drop)
    }

    async fn success(&mut self) -> Result<Element, Error> {
        let answer = refused(self.step("<success/>").await?)?;
        if answer.is("success", NS_SASL) {
            Ok(answer)
        } else {
            Err(unexpected("<success/>", &answer))
        }
    }

    /// Binds the resource of the options (RFC 6120 §7).
    ///
    /// # Errors
    /// A refusal, or a JID that is not of this account.
    pub async fn bind(&mut self) -> Result<(), Error> {
        let resource = self
            .options
            .resource
            .as_ref()
            .map(|name| format!("<resource>{}</resource>", escape(name)));
        let resource = resource.unwrap_or_default();
        self.send(&format!("<iq type='set' id='bind'><bind xmlns='{NS_BIND}'>{resource}</bind></iq>"))
            .await?;
        let answer = self.step("the result of bind").await?;
        let jid = answer
            .child("bind", NS_BIND)
            .and_then(|bind| bind.child("jid", NS_BIND))
            .map(|jid| jid.text.clone());
        match jid {
            Some(jid) if answer.attribute("type") == Some("result") && jid.starts_with(&format!("{}/", self.options.bare_jid())) => {
                self.jid = jid;
                self.features = None;
                Ok(())
            }
            _ => Err(unexpected("the result of bind", &answer)),
        }
    }

    /// Enables stream management when the options ask for it (XEP-0198 §3).
    ///
    /// # Errors
    /// A refusal.
    pub async fn enable(&mut self) -> Result<(), Error> {
        if !self.options.managed {
            return Ok(());
        }
        let resume = if self.options.resumable { " resume='true'" } else { "" };
        self.send(&format!("<enable xmlns='{NS_SM}'{resume}/>")).await?;
        let answer = self.step("<enabled/>").await?;
        if !answer.is("enabled", NS_SM) {
            return Err(unexpected("<enabled/>", &answer));
        }
        let allowed = matches!(answer.attribute("resume"), Some("true" | "1"));
        self.managed = Some(Managed {
            id: answer.attribute("id").filter(|_| allowed).map(str::to_owned),
            max_secs: answer.attribute("max").and_then(|max| max.parse().ok()),
            ..Managed::default()
        });
        Ok(())
    }

    /// Sends the initial presence of the options.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn announce(&mut self) -> Result<(), Error> {
        match self.options.presence {
            None => Ok(()),
            Some(0) => self.send_stanza("<presence/>".into()).await,
            Some(priority) => {
                self.send_stanza(format!("<presence><priority>{priority}</priority></presence>"))
                    .await
            }
        }
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

    /// Gives up the stream: the transport, and stream management for a later resumption.
    pub fn part(self) -> (Transport, Option<Managed>, String) {
        (self.io, self.managed, self.jid)
    }

    async fn frame_in_time(&mut self, what: &'static str) -> Result<Frame, Error> {
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

    async fn step(&mut self, wanted: &'static str) -> Result<Element, Error> {
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

fn refused(element: Element) -> Result<Element, Error> {
    if !element.is("failure", NS_SASL) {
        return Ok(element);
    }
    let condition = element
        .children
        .iter()
        .find(|child| child.name != "text")
        .map(|child| child.name.clone())
        .unwrap_or_default();
    Err(Error::Refused {
        condition,
        text: element.child("text", NS_SASL).map(|text| text.text.clone()).unwrap_or_default(),
    })
}

fn unexpected(wanted: &'static str, got: &Element) -> Error {
    Error::Unexpected {
        wanted,
        got: shorten(format!("{got:?}").as_bytes()),
    }
}

/// A reset and a TLS end without close_notify are ends too; the rest is a fault.
fn closed(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Io(error),
    }
}
