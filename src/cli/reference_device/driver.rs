//! What keeps a device connected: one task that connects, reads, answers and acknowledges, so that a slow handler keeps nobody waiting.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_xmpp::xmlstream::ReadError;
use xmpp_parsers::{
    iq::Iq,
    message::Message,
    minidom::Element,
    ns,
    presence::Presence,
    sm::{A, R},
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

use super::{
    Account, DeviceError, Endpoint, Journal, News,
    counts::{Received, Sent},
    cutter::Cutter,
    delivered::{Delivered, EVENT_NS, Place},
    login::{Login, Online, Session, Stream},
    outcome::{self, Outcome, Told},
    trouble::Trouble,
};

/// News between connection and handler. The server's window holds no more events; when it is full nothing more is read.
pub const NEWS_MAX: usize = 64;
/// How long one attempt may take from the first packet to the end of the login.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stanza may take to be sent: a connection that takes nothing is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server may take to say goodbye, too.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);
/// A session that lasted this long was a success: the next pause is short again.
const STABLE: Duration = Duration::from_secs(60);
/// The least pause after the server said that the device does something too often.
const PATIENCE: Duration = Duration::from_secs(30);
/// Redirections in a row that are followed (RFC 6120 §4.9.3.19: two to five).
const REDIRECTIONS_MAX: u32 = 3;

/// What the handler of events wants.
pub enum Order {
    /// This event was dealt with.
    Settle {
        place: Place,
        receipt: Option<Element>,
        told: Option<Told>,
    },
    /// The end, in order.
    Close,
}

/// How a connection ended.
enum End {
    Trouble(Trouble),
    /// The device itself wants no more.
    Closed,
}

impl<E: Into<Trouble>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Trouble(error.into())
    }
}

/// One device's connections, one after the other.
pub struct Driver {
    account: Account,
    endpoint: Endpoint,
    cutter: Arc<Cutter>,
    journal: Journal,
    tell: mpsc::Sender<Result<News, DeviceError>>,
    orders: mpsc::UnboundedReceiver<Order>,
    session: Option<Session>,
    received: Received,
    sent: Sent,
    /// Receipts that wait for a connection.
    waiting: Vec<Element>,
    connection: u64,
    redirected: Option<String>,
}

impl Driver {
    pub fn new(
        account: Account,
        endpoint: Endpoint,
        cutter: Arc<Cutter>,
        journal: Journal,
        tell: mpsc::Sender<Result<News, DeviceError>>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            account,
            endpoint,
            cutter,
            journal,
            tell,
            orders,
            session: None,
            received: Received::default(),
            sent: Sent::default(),
            waiting: Vec::new(),
            connection: 0,
            redirected: None,
        }
    }

    /// Lives until the device closes, is dropped, or is at its end.
    pub async fn run(mut self) {
        let gone = self.tell.clone();
        tokio::select! {
            () = gone.closed() => {}
            error = self.live() => if let Some(error) = error {
                // Nobody waits for it when the device is gone.
                let _ = gone.send(Err(error)).await;
            }
        }
    }

    async fn live(&mut self) -> Option<DeviceError> {
        let (mut attempt, mut redirections, mut pause) = (0, 0, Duration::ZERO);
        loop {
            if !self.rest(pause).await {
                return None;
            }
            let address = self.redirected.take().unwrap_or_else(|| self.endpoint.address.clone());
            let trouble = match self.connect(&address).await {
                Err(End::Closed) => return None,
                Err(End::Trouble(trouble)) => {
                    self.cutter.lets_go();
                    let hopeless = trouble.hopeless(&address, &self.account.jid());
                    if hopeless.is_some() {
                        return hopeless;
                    }
                    pause = self.pause_after(&trouble, attempt);
                    attempt = attempt.saturating_add(1);
                    let why = format!("{address} cannot be used: {trouble}");
                    self.news(News::Retrying { why, pause }).await;
                    trouble
                }
                Ok(stream) => {
                    let since = Instant::now();
                    let end = self.converse(stream).await;
                    self.cutter.lets_go();
                    let End::Trouble(trouble) = end else { return None };
                    self.news(News::Away).await;
                    let hopeless = trouble
                        .hopeless(&address, &self.account.jid())
                        .filter(|_| !matches!(trouble, Trouble::Io(_)));
                    if hopeless.is_some() {
                        return hopeless;
                    }
                    if since.elapsed() >= STABLE {
                        (attempt, redirections) = (0, 0);
                    }
                    pause = self.pause_after(&trouble, attempt);
                    attempt = attempt.saturating_add(1);
                    trouble
                }
            };
            if let Some(other) = trouble.other_host().filter(|_| redirections < REDIRECTIONS_MAX) {
                redirections += 1;
                self.redirected = Some(other.to_owned());
            }
        }
    }

    fn pause_after(&self, trouble: &Trouble, attempt: u32) -> Duration {
        let asked = trouble.asked_pause().or_else(|| trouble.is_patience_needed().then_some(PATIENCE));
        self.endpoint.backoff.pause(attempt, asked)
    }

    /// Waits, and takes what the handler wants meanwhile. False: it wants no more.
    async fn rest(&mut self, pause: Duration) -> bool {
        let mut until = Instant::now() + pause;
        if let Some(away) = self.cutter.away_until() {
            until = until.max(away);
        }
        loop {
            match timeout_at(until, self.orders.recv()).await {
                Err(_) => return !self.cutter.is_over(),
                Ok(Some(Order::Settle { receipt, .. })) => self.waiting.extend(receipt),
                Ok(Some(Order::Close) | None) => return false,
            }
        }
    }

    async fn news(&self, news: News) {
        // Nobody wants news when the device is gone; `run` ends then.
        let _ = self.tell.send(Ok(news)).await;
    }

    /// From the first packet to a session.
    async fn connect(&mut self, address: &str) -> Result<Stream, End> {
        let resume = self.session.as_ref().and_then(|session| session.id.clone());
        let attempt = async {
            let (io, binding) = self.endpoint.connect(address, &self.account.domain, &self.cutter).await?;
            let login = Login {
                account: &self.account,
                journal: &self.journal,
                binding,
                resume: resume.map(|id| (id, self.received.h())),
            };
            login.run(io).await
        };
        let (stream, online) = {
            let attempt = timeout(ATTEMPT_TIMEOUT, attempt);
            tokio::pin!(attempt);
            loop {
                tokio::select! {
                    attempted = &mut attempt => break attempted.map_err(|_| {
                        std::io::Error::new(std::io::ErrorKind::TimedOut, "no login within 30 s")
                    })??,
                    order = self.orders.recv() => match order {
                        Some(Order::Settle { receipt, .. }) => self.waiting.extend(receipt),
                        Some(Order::Close) | None => return Err(End::Closed),
                    }
                }
            }
        };
        self.begin(stream, online).await
    }

    /// Says what the server may not know, on a stream that is ready for it.
    async fn begin(&mut self, mut stream: Stream, online: Online) -> Result<Stream, End> {
        self.connection += 1;
        let mut lost = Vec::new();
        let resumed = match online {
            Online::Resumed(h) => {
                self.received.resume();
                if !self.sent.acknowledge(h) {
                    self.session = None;
                    return Err(Trouble::Protocol("it has more of this session than was sent".into()).into());
                }
                lost.extend(self.sent.take());
                true
            }
            Online::New(session) => {
                self.session = Some(session);
                self.received = Received::default();
                lost.push(Presence::available().into());
                lost.extend(self.sent.take().into_iter().filter(|stanza| stanza.name() == "message"));
                self.sent = Sent::default();
                false
            }
        };
        lost.retain(|stanza| !outcome::is_request(stanza));
        lost.append(&mut self.waiting);
        lost.extend(self.journal.read(|memory| memory.told().map(Told::request).collect::<Vec<_>>()));
        for stanza in lost {
            self.send(&mut stream, stanza).await?;
        }
        self.news(News::Online { resumed }).await;
        Ok(stream)
    }

    fn is_managed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_managed)
    }

    async fn write(stream: &mut Stream, element: &Element) -> Result<(), Trouble> {
        match timeout(SEND_TIMEOUT, stream.send(element)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server reads nothing").into()),
        }
    }

    async fn send(&mut self, stream: &mut Stream, stanza: Element) -> Result<(), Trouble> {
        let asks = self.is_managed() && !self.sent.is_waiting();
        if self.is_managed() {
            self.sent.add(stanza.clone());
        }
        Self::write(stream, &stanza).await?;
        if asks {
            Self::write(stream, &R.into()).await?;
        }
        Ok(())
    }

    async fn acknowledge(&self, stream: &mut Stream) -> Result<(), Trouble> {
        Self::write(stream, &A::new(self.received.h()).into()).await
    }

    /// One connection, until it ends.
    async fn converse(&mut self, mut stream: Stream) -> End {
        loop {
            let tell = self.tell.clone();
            let step = tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Settle { place, receipt, told }) => self.settle(&mut stream, place, receipt, told).await,
                    Some(Order::Close) => {
                        self.goodbye(&mut stream).await;
                        Err(End::Closed)
                    }
                    None => Err(End::Closed),
                },
                // First room for the news, then what may be one.
                (room, read) = async {
                    let room = tell.reserve().await;
                    (room, stream.next().await)
                } => match (room, read) {
                    (Err(_), _) => Err(End::Closed),
                    (Ok(_), None) => Err(Trouble::Closed.into()),
                    (Ok(_), Some(Err(ReadError::SoftTimeout))) => self.probe(&mut stream).await,
                    (Ok(_), Some(Err(error))) => Err(Trouble::from(error).into()),
                    (Ok(room), Some(Ok(element))) => self.take(&mut stream, element, room).await,
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Nothing came for long.
    async fn probe(&mut self, stream: &mut Stream) -> Result<(), End> {
        if self.is_managed() {
            return Ok(Self::write(stream, &R.into()).await?);
        }
        let ping = "<iq xmlns='jabber:client' type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>";
        let ping: Element = ping.parse().map_err(|_| Trouble::Protocol("no ping".into()))?;
        Ok(self.send(stream, ping).await?)
    }

    async fn settle(&mut self, stream: &mut Stream, place: Place, receipt: Option<Element>, told: Option<Told>) -> Result<(), End> {
        let told = told.as_ref().map(Told::request);
        for stanza in receipt.into_iter().chain(told) {
            self.send(stream, stanza).await?;
        }
        // On a later connection the server repeats the event, and that one is acknowledged.
        if place.connection == self.connection {
            let before = self.received.h();
            self.received.deal(place.number);
            if self.is_managed() && self.received.h() != before {
                self.acknowledge(stream).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, stream: &mut Stream, element: Element, room: mpsc::Permit<'_, Result<News, DeviceError>>) -> Result<(), End> {
        if element.is("error", ns::STREAM) {
            return Err(Trouble::stream(element).into());
        }
        if element.is("r", ns::SM) {
            return Ok(self.acknowledge(stream).await?);
        }
        if element.is("a", ns::SM) {
            let h = element.attr("h").and_then(|h| h.parse().ok());
            if !h.is_some_and(|h| self.sent.acknowledge(h)) {
                self.session = None;
                return Err(Trouble::Protocol("it acknowledges more than was sent".into()).into());
            }
            return Ok(());
        }
        if !element.has_ns(ns::JABBER_CLIENT) || !matches!(element.name(), "message" | "iq" | "presence") {
            return Ok(()); // nothing that is counted
        }
        let number = self.received.arrive();
        if element.name() == "message" {
            let place = Place {
                connection: self.connection,
                number,
            };
            let unreadable = match self.event(element) {
                Ok(mut event) => {
                    event.place = place;
                    room.send(Ok(News::Event(event)));
                    return Ok(());
                }
                Err(unreadable) => unreadable,
            };
            if let Some(told) = unreadable {
                self.send(stream, told.request()).await?;
            }
        } else if element.name() == "iq" {
            self.iq(stream, element).await?;
        }
        self.received.deal(number);
        Ok(())
    }

    /// The event in a message; or what to say of one that is in no form of the profile.
    fn event(&self, message: Element) -> Result<Delivered, Option<Told>> {
        let id = message
            .get_child("event", EVENT_NS)
            .and_then(|event| event.attr("id"))
            .map(str::to_owned);
        let to = message.attr("from").map(str::to_owned);
        let read = Message::try_from(message).ok().and_then(|message| Delivered::read(&message));
        read.ok_or_else(|| {
            let outcome = Outcome::Rejected { code: "unreadable".into() };
            id.map(|event| Told { event, to, outcome })
        })
    }

    /// Every request gets exactly one answer (RFC 6120 §8.2.3).
    async fn iq(&mut self, stream: &mut Stream, element: Element) -> Result<(), Trouble> {
        let (from, id, payload) = match Iq::try_from(element) {
            Ok(Iq::Get { from, id, payload, .. } | Iq::Set { from, id, payload, .. }) => (from, id, payload),
            Ok(Iq::Result { id, .. } | Iq::Error { id, .. }) => {
                // An error, too, is final: the service does not know the event any more.
                if let Some(event) = outcome::event_of(&id) {
                    self.journal.answered(event)?;
                }
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        let (to, payload) = (from, payload.is("ping", ns::PING));
        let answer = if payload {
            Iq::Result {
                from: None,
                to,
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
                to,
                id,
                error,
                payload: None,
            }
        };
        self.send(stream, answer.into()).await
    }

    /// The last acknowledgement, the end of the stream (RFC 6120 §4.4), and what the server still has to say.
    async fn goodbye(&mut self, stream: &mut Stream) {
        let parting = async {
            if self.is_managed() {
                self.acknowledge(stream).await?;
            }
            stream.shutdown().await?;
            while let Some(read) = stream.next().await {
                let element = read?;
                if element.name() == "iq" && element.has_ns(ns::JABBER_CLIENT) {
                    let event = element.attr("id").and_then(outcome::event_of);
                    event.map_or(Ok(()), |event| self.journal.answered(event))?;
                }
            }
            Ok::<_, Trouble>(())
        };
        // A server that is gone hears no goodbye, and what it did not hear it gives again.
        let _ = timeout(GOODBYE_TIMEOUT, parting).await;
    }
}
