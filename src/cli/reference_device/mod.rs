//! A device as the device guide describes one, on a stock XMPP library: TLS from the first byte, SASL2 with FAST or SASL, stream
//! management with resumption, reconnection with full jitter, one number a lane against repeats.
//!
//! `tokio-xmpp` carries the XML stream. Login and acknowledgement are ours: its own client acknowledges a stanza as it reads it,
//! before anybody has applied it, knows no SASL2, and would retry a refused login for ever. Here an event is acknowledged
//! (XEP-0198), and its receipt (XEP-0184) and outcome are told, when [`ReferenceDevice::settle`] says that it is applied.

mod backoff;
mod connect;
mod conversation;
mod counts;
mod cutter;
mod delivered;
mod driver;
mod flight;
mod lanes;
mod login;
mod mechanism;
mod memory;
mod offer;
mod outcome;
mod talk;
mod token;
mod trouble;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

pub use backoff::Backoff;
pub use connect::{Account, Endpoint, tls_trusting};
pub use delivered::Delivered;
pub use lanes::Lanes;
pub use memory::{Journal, Memory};
pub use outcome::Outcome;

use crate::crew::Crew;
use cutter::Cutter;
use driver::{Driver, NEWS_MAX, Order, Settled};
use outcome::Told;
use token::Token;

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
    /// The server does not take the outcome of an event: it does not know the event any more.
    OutcomeRefused {
        /// Of which event.
        event: String,
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
    /// The server does not prove who it is, or wants less protection than before.
    #[error("{address} cannot be trusted with the login: {why}")]
    Impostor {
        /// Which server.
        address: String,
        /// What it did.
        why: mechanism::MechanismError,
    },
    /// The journal cannot be written, so nothing can be acknowledged.
    #[error("the journal cannot be written: {0}")]
    Journal(String),
    /// It was closed.
    #[error("the connection of {jid} is closed")]
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
    news: mpsc::Receiver<Result<News, DeviceError>>,
    orders: mpsc::UnboundedSender<Order>,
    cutter: Arc<Cutter>,
    journal: Journal,
    repeats: u64,
    account: Account,
}

/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

impl ReferenceDevice {
    /// Starts to connect. `journal` is what it remembers of its life before.
    pub fn start(account: Account, endpoint: Endpoint, journal: impl Into<Journal>) -> Self {
        let journal = journal.into();
        let (tell, news) = mpsc::channel(NEWS_MAX);
        // No more orders than events are under way, and the channel of news bounds these.
        let (orders, wanted) = mpsc::unbounded_channel();
        let cutter = Arc::new(Cutter::default());
        let driver = Driver::new(account.clone(), endpoint, cutter.clone(), journal.clone(), tell, wanted);
        Crew::default().spawn(driver.run());
        Self {
            news,
            orders,
            cutter,
            journal,
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
            match self.news.recv().await {
                None => return Err(DeviceError::Ended { jid: self.account.jid() }),
                Some(Ok(News::Event(event))) if self.journal.knows(&event) => {
                    self.repeats += 1;
                    // Its outcome is known already, or is still being told.
                    self.acknowledge(&event, None);
                }
                Some(news) => return news,
            }
        }
    }

    /// The event is applied: its number is remembered, and the server is told.
    ///
    /// # Errors
    /// When it cannot be remembered. Then the server is not told either, and the event comes again.
    pub fn confirm(&mut self, event: &Delivered) -> Result<(), DeviceError> {
        self.settle(event, event.outcome_wanted.then_some(Outcome::Done))
    }

    /// This became of the event: it is remembered, and the server is told, with the outcome if there is one.
    ///
    /// # Errors
    /// As [`ReferenceDevice::confirm`].
    pub fn settle(&mut self, event: &Delivered, outcome: Option<Outcome>) -> Result<(), DeviceError> {
        let told = outcome.map(|outcome| Told {
            event: event.id.clone(),
            to: event.from.as_ref().map(ToString::to_string),
            outcome,
        });
        self.journal
            .applied(event, told.clone())
            .map_err(|error| DeviceError::Journal(error.to_string()))?;
        self.acknowledge(event, told);
        Ok(())
    }

    fn acknowledge(&self, event: &Delivered, told: Option<Told>) {
        let receipt = event.receipt_wanted.then(|| outcome::receipt(event));
        // A device at its end acknowledges nothing; the event comes again in its next life.
        let settled = Settled {
            place: event.place,
            receipt,
            told,
        };
        let _ = self.orders.send(Order::Settle(Box::new(settled)));
    }

    /// A way to cut its connection from outside.
    pub fn switch(&self) -> Switch {
        Switch(self.cutter.clone())
    }

    /// Loses its power: the connection ends without a goodbye. What it remembers is the answer.
    pub fn lose_power(self) -> Memory {
        self.journal.read(Memory::clone)
    }

    /// How many repeats it acknowledged without applying them.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Sends the last acknowledgements and says goodbye (RFC 6120 §4.4), which ends the session.
    pub async fn close(mut self) {
        // A device at its end has nobody to say goodbye to.
        let _ = self.orders.send(Order::Close);
        let end = async { while self.news.recv().await.is_some() {} };
        // The connection has its own, shorter limit; this one is for a machine that stands still.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, end).await;
    }
}

#[cfg(test)]
mod tests;
