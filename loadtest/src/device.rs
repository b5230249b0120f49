//! A device as a test holds it: it keeps its record while connections come and go.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    Error,
    attendant::{Command, Inbox, attend},
    event::{NS_EVENT, Pushed},
    record::{Applied, Record},
    session::{Managed, Options, Session},
    transport::Transport,
    xml::{Element, escape},
};

/// How a connection dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// TCP reset.
    Reset,
    /// FIN, but no `</stream:stream>`: as a crashed program's socket.
    Close,
    /// The socket stays open and is never read or written again: as a box that lost its network.
    Silent,
}

/// How a resumption went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// The old session goes on.
    Resumed,
    /// The server no longer had it; a new one is bound.
    Anew,
}

/// A fake device. Reads, acknowledges and answers in a task of its own while connected.
pub struct Device {
    options: Arc<Options>,
    record: Arc<Record>,
    inbox: Arc<Inbox>,
    live: Option<Live>,
    past: Option<(Managed, String)>,
    held: Vec<Transport>,
    ids: u64,
}

struct Live {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<(Session, Error)>,
    jid: String,
}

impl Device {
    /// Logs in with a fresh record.
    ///
    /// # Errors
    /// Whatever step of the login fails.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let mut device = Self::offline(options);
        device.reconnect().await?;
        Ok(device)
    }

    /// A device that is not connected yet; [`Device::reconnect`] connects it.
    pub fn offline(options: Options) -> Self {
        Self {
            options: Arc::new(options),
            record: Arc::default(),
            inbox: Arc::default(),
            live: None,
            past: None,
            held: Vec::new(),
            ids: 0,
        }
    }

    /// Changes the options; they take effect at the next connection.
    pub fn change(&mut self, change: impl FnOnce(&mut Options)) {
        change(Arc::make_mut(&mut self.options));
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Logs in anew (no resumption). A connection that is still up is left to the server to end: it is held open and ignored.
    ///
    /// # Errors
    /// Whatever step of the login fails.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        self.kill(Kill::Silent).await;
        self.past = None;
        let session = Session::log_in(self.options.clone()).await?;
        self.attend(session);
        Ok(())
    }

    /// Connects and goes on with the last session, or binds anew when the server lost it. The old connection may still be up.
    ///
    /// # Errors
    /// Whatever step fails; [`Error::NothingToResume`] when the last session was not resumable.
    pub async fn resume(&mut self) -> Result<Resumption, Error> {
        self.kill(Kill::Silent).await;
        let (managed, jid) = self.past.clone().ok_or(Error::NothingToResume)?;
        let (session, resumed) = Session::resume(self.options.clone(), managed, jid).await?;
        self.attend(session);
        Ok(if resumed { Resumption::Resumed } else { Resumption::Anew })
    }

    /// Drops the connection. The session stays resumable.
    pub async fn kill(&mut self, how: Kill) {
        let Some((session, _)) = self.stop().await else { return };
        let (transport, managed, jid) = session.part();
        self.past = managed.filter(|managed| managed.id.is_some()).map(|managed| (managed, jid));
        match how {
            Kill::Reset => transport.reset(),
            Kill::Close => drop(transport),
            Kill::Silent => self.held.push(transport),
        }
    }

    /// Lets go of connections held open by [`Kill::Silent`].
    pub fn forget_silent(&mut self) {
        self.held.clear();
    }

    /// Ends the stream cleanly: `</stream:stream>`, then waits for the server's (RFC 6120 §4.4). Nothing is left to resume.
    ///
    /// # Errors
    /// The server does not end its side within 10 s.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.send("</stream:stream>").await?;
        let end = self.ended(Duration::from_secs(10)).await?;
        self.past = None;
        match end {
            Error::Ended | Error::Closed => Ok(()),
            other => Err(other),
        }
    }

    /// Waits until the session has ended, and says how: [`Error::Stream`], [`Error::Ended`], [`Error::Closed`]. The device is then
    /// disconnected, and may resume.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it is still up; [`Error::NotConnected`].
    pub async fn ended(&mut self, within: Duration) -> Result<Error, Error> {
        let live = self.live.as_mut().ok_or(Error::NotConnected)?;
        let Ok(end) = tokio::time::timeout(within, &mut live.task).await else {
            return Err(Error::Timeout {
                what: "the end of the session",
                within,
            });
        };
        self.live = None;
        let (session, why) = end.map_err(|e| Error::Machine(format!("the device's task: {e}")))?;
        let (_, managed, jid) = session.part();
        let resumable = !matches!(why, Error::Ended);
        self.past = managed
            .filter(|managed| resumable && managed.id.is_some())
            .map(|managed| (managed, jid));
        Ok(why)
    }

    /// Whether the connection is up as far as the device knows.
    pub fn is_connected(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.task.is_finished())
    }

    /// The full JID of the session.
    pub fn jid(&self) -> Option<&str> {
        self.live.as_ref().map(|live| live.jid.as_str())
    }

    /// The next event that was applied. Repeats never show here.
    ///
    /// # Errors
    /// [`Error::Timeout`]. The end of the session is no error here, for the device may come back; ask [`Device::ended`].
    pub async fn next_event(&self, within: Duration) -> Result<Pushed, Error> {
        self.inbox.wait("an event", within, |waiting| waiting.events.pop_front()).await
    }

    /// The next stanza that is no event, ping or acknowledgement.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub async fn next_stanza(&self, within: Duration) -> Result<Element, Error> {
        self.inbox.wait("a stanza", within, |waiting| waiting.others.pop_front()).await
    }

    /// Waits until the server has asked for an acknowledgement at least `times` times since the record began.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub async fn asked_to_acknowledge(&self, times: u64, within: Duration) -> Result<(), Error> {
        self.inbox
            .wait("<r/>", within, |waiting| (waiting.acks_requested >= times).then_some(()))
            .await
    }

    /// Everything applied so far, over all sessions, in order.
    pub fn applied(&self) -> Vec<Applied> {
        self.record.applied()
    }

    /// The whole record: repeats, faults of order, last number of each lane.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Stream management as the session sees it now; `None` without it.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub async fn managed(&self) -> Result<Option<Managed>, Error> {
        let (answer, asked) = oneshot::channel();
        self.command(Command::Managed(answer)).await?;
        asked.await.map_err(|_| Error::NotConnected)
    }

    /// Sends bytes as they are, uncounted: nonzas, stream ends, nonsense.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.command(Command::Bytes(bytes.as_ref().to_vec())).await
    }

    /// Sends a stanza, counted by stream management.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub async fn send_stanza(&self, stanza: impl Into<String>) -> Result<(), Error> {
        self.command(Command::Stanza(stanza.into())).await
    }

    /// Sends `<a/>` for everything handled, unasked.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub async fn acknowledge(&self) -> Result<(), Error> {
        self.command(Command::Acknowledge).await
    }

    /// Sends an IQ with this child and waits for its result or error.
    ///
    /// # Errors
    /// [`Error::NotConnected`], [`Error::Timeout`].
    pub async fn ask(&mut self, kind: &str, child: &str, within: Duration) -> Result<Element, Error> {
        self.ids += 1;
        let id = format!("ask-{}", self.ids);
        self.send_stanza(format!(
            "<iq type='{kind}' id='{id}' to='{}'>{child}</iq>",
            escape(&self.options.domain)
        ))
        .await?;
        self.inbox
            .wait("the answer to an IQ", within, |waiting| {
                let at = waiting
                    .others
                    .iter()
                    .position(|other| other.name == "iq" && other.attribute("id") == Some(&id))?;
                waiting.others.remove(at)
            })
            .await
    }

    /// Pings the service and waits for the answer: what was sent before has then been read by it.
    ///
    /// # Errors
    /// As [`Device::ask`].
    pub async fn sync(&mut self) -> Result<(), Error> {
        self.ask("get", "<ping xmlns='urn:xmpp:ping'/>", Duration::from_secs(10))
            .await
            .map(drop)
    }

    /// Reports what became of an event that requires `processed`: `status` is `done`, `failed`, `rejected` or `later`.
    ///
    /// # Errors
    /// As [`Device::ask`].
    pub async fn report(&mut self, event: &str, status: &str) -> Result<Element, Error> {
        let outcome = format!(
            "<outcome xmlns='{NS_EVENT}' event='{}' status='{}'/>",
            escape(event),
            escape(status)
        );
        self.ask("set", &outcome, Duration::from_secs(10)).await
    }

    fn attend(&mut self, session: Session) {
        let (commands, orders) = mpsc::channel(64);
        let jid = session.jid().to_owned();
        let task = tokio::spawn(attend(
            session,
            self.options.clone(),
            self.record.clone(),
            self.inbox.clone(),
            orders,
        ));
        self.live = Some(Live { commands, task, jid });
    }

    async fn stop(&mut self) -> Option<(Session, Error)> {
        let live = self.live.take()?;
        // A task that has ended already takes no order.
        let _ = live.commands.send(Command::Stop).await;
        live.task.await.ok()
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        let live = self.live.as_ref().ok_or(Error::NotConnected)?;
        live.commands.send(command).await.map_err(|_| Error::NotConnected)
    }
}
