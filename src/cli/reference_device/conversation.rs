//! One connection of a device, from its session's begin to its end: it reads, answers and acknowledges.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{sync::mpsc, time::timeout};
use tokio_xmpp::xmlstream::ReadError;
use xmpp_parsers::{
    iq::Iq,
    message::Message,
    minidom::Element,
    ns,
    sm::{A, R},
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

use super::{
    DeviceError, News,
    delivered::{Delivered, EVENT_NS, Place},
    driver::{Driver, End, Order, Settled},
    login::Stream,
    outcome::{self, Outcome, Told},
    trouble::Trouble,
};

/// Stanzas that may wait behind an event that is being applied; the service's window is 32.
const OPEN_MAX: usize = 1_000;
/// How long a stanza may take to be sent: a connection that takes nothing is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server may take to say goodbye, too.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

impl Driver {
    fn is_managed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_managed)
    }

    async fn write(stream: &mut Stream, element: &Element) -> Result<(), Trouble> {
        match timeout(SEND_TIMEOUT, stream.send(element)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server reads nothing").into()),
        }
    }

    pub(super) async fn send(&mut self, stream: &mut Stream, stanza: Element) -> Result<(), Trouble> {
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
    pub(super) async fn converse(&mut self, mut stream: Stream) -> End {
        loop {
            let tell = self.tell.clone();
            let step = tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Settle(settled)) => self.settle(&mut stream, *settled).await,
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

    async fn settle(&mut self, stream: &mut Stream, settled: Settled) -> Result<(), End> {
        let Settled { place, receipt, told } = settled;
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
            let h = self.received.h();
            while let Some((_, answer)) = self.held.pop_front_if(|(number, _)| *number <= h) {
                self.send(stream, answer).await?;
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
        if self.received.open() > OPEN_MAX {
            return Err(Trouble::Protocol("it goes on and on without an acknowledgement".into()).into());
        }
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
        } else if element.name() == "iq"
            && let Some(news) = self.iq(stream, element, number).await?
        {
            room.send(Ok(news));
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
    async fn iq(&mut self, stream: &mut Stream, element: Element, number: u32) -> Result<Option<News>, Trouble> {
        let (from, id, payload) = match Iq::try_from(element) {
            Ok(Iq::Get { from, id, payload, .. } | Iq::Set { from, id, payload, .. }) => (from, id, payload),
            Ok(Iq::Result { id, .. }) => {
                if let Some(event) = outcome::event_of(&id) {
                    self.journal.answered(event)?;
                }
                return Ok(None);
            }
            Ok(Iq::Error { id, .. }) => {
                let Some(event) = outcome::event_of(&id) else { return Ok(None) };
                // It is final: the service does not know the event any more, or takes no outcomes.
                self.journal.answered(event)?;
                return Ok(Some(News::OutcomeRefused { event: event.to_owned() }));
            }
            Err(_) => return Ok(None),
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
        // Without stream management the answer says that all before it was dealt with, too (design §4.3).
        if !self.is_managed() && self.received.h().wrapping_add(1) != number {
            self.held.push_back((number, answer.into()));
            return Ok(None);
        }
        self.send(stream, answer.into()).await?;
        Ok(None)
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
