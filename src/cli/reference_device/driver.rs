//! What keeps a device connected: one task that connects, reads, answers and acknowledges, so that a slow handler keeps nobody waiting.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use xmpp_parsers::{minidom::Element, presence::Presence};

use super::{
    Account, DeviceError, Endpoint, Journal, News,
    counts::{Received, Sent},
    cutter::Cutter,
    delivered::Place,
    login::{Login, Online, Session, Stream},
    outcome::{self, Told},
    trouble::Trouble,
};

/// News between connection and handler. The server's window holds no more events; when it is full nothing more is read.
pub const NEWS_MAX: usize = 64;
/// How long one attempt may take from the first packet to the end of the login.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// A session that lasted this long was a success: the next pause is short again.
const STABLE: Duration = Duration::from_secs(60);
/// The least pause after the server said that the device does something too often.
const PATIENCE: Duration = Duration::from_secs(30);
/// Redirections in a row that are followed (RFC 6120 §4.9.3.19: two to five).
const REDIRECTIONS_MAX: u32 = 3;

/// What the handler of events wants.
pub enum Order {
    /// An event was dealt with.
    Settle(Box<Settled>),
    /// The end, in order.
    Close,
}

/// An event that was dealt with, and what to say of it.
pub struct Settled {
    pub place: Place,
    pub receipt: Option<Element>,
    pub told: Option<Told>,
}

/// How a connection ended.
pub(super) enum End {
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
    pub(super) journal: Journal,
    pub(super) tell: mpsc::Sender<Result<News, DeviceError>>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) session: Option<Session>,
    pub(super) received: Received,
    pub(super) sent: Sent,
    /// Receipts that wait for a connection.
    waiting: Vec<Element>,
    /// Answers that would vouch for an event that is not applied yet, each with the number of its request.
    pub(super) held: VecDeque<(u32, Element)>,
    pub(super) connection: u64,
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
            held: VecDeque::new(),
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
        let (mut attempt, mut redirections, mut pause, mut turn) = (0, 0, Duration::ZERO, 0_usize);
        loop {
            if !self.rest(pause).await {
                return None;
            }
            let address = self.redirected.take().unwrap_or_else(|| self.endpoint.address(turn).to_owned());
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
                    turn = turn.wrapping_add(1);
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
                Ok(Some(Order::Settle(settled))) => self.waiting.extend(settled.receipt),
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
                        Some(Order::Settle(settled)) => self.waiting.extend(settled.receipt),
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
        self.held.clear();
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
}
