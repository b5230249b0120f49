//! Who attends to a device's session while it is up: reads, acknowledges, answers, and puts what came into the inbox.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use crate::{
    Error,
    error::in_time,
    event::{Incoming, Pushed},
    record::{Record, Verdict},
    session::{Acks, Managed, Options, Session},
    xml::Element,
};

/// Most events and stanzas that wait for the test to look at them; the session ends beyond it.
const UNREAD_MAX: usize = 200_000;

/// What a test orders.
pub(crate) enum Command {
    Stanza(String),
    Bytes(Vec<u8>),
    Acknowledge,
    Managed(oneshot::Sender<Option<Managed>>),
    Stop,
}

/// What came and was not looked at yet.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) events: VecDeque<Pushed>,
    pub(crate) others: VecDeque<Element>,
    pub(crate) acks_requested: u64,
}

impl Inbox {
    /// What `look` finds, once it does.
    pub(crate) async fn wait<T>(
        &self,
        what: &'static str,
        within: Duration,
        mut look: impl FnMut(&mut Waiting) -> Option<T>,
    ) -> Result<T, Error> {
        in_time(what, within, async {
            loop {
                let arrived = self.arrived.notified();
                if let Some(found) = look(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner)) {
                    return Ok(found);
                }
                arrived.await;
            }
        })
        .await
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) -> Result<(), Error> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        put(&mut waiting);
        let unread = waiting.events.len() + waiting.others.len();
        drop(waiting);
        self.arrived.notify_waiters();
        if unread > UNREAD_MAX {
            Err(Error::Machine(format!("more than {UNREAD_MAX} unread stanzas")))
        } else {
            Ok(())
        }
    }
}

/// Reads and answers until the stream ends or the test says stop; gives the session back with the reason.
pub(crate) async fn attend(
    mut session: Session,
    options: Arc<Options>,
    record: Arc<Record>,
    inbox: Arc<Inbox>,
    mut orders: mpsc::Receiver<Command>,
) -> (Session, Error) {
    let mut late: VecDeque<Instant> = VecDeque::new();
    // What came in one read with the end of the login: after a resumption the server sends at once what was missed.
    if let Err(reason) = handle(&mut session, &options, &record, &inbox, &mut late).await {
        inbox.arrived.notify_waiters();
        return (session, reason);
    }
    loop {
        let end = tokio::select! {
            biased;
            order = orders.recv() => match order {
                None | Some(Command::Stop) => Err(Error::NotConnected),
                Some(Command::Stanza(stanza)) => session.send_stanza(stanza).await,
                Some(Command::Bytes(bytes)) => session.send_bytes(&bytes).await,
                Some(Command::Acknowledge) => acknowledge(&mut session).await,
                Some(Command::Managed(answer)) => {
                    // The asker may have given up.
                    let _ = answer.send(session.managed().cloned());
                    Ok(())
                }
            },
            () = until(late.front().copied()) => {
                late.pop_front();
                acknowledge(&mut session).await
            }
            read = session.fill() => match read {
                Ok(()) => handle(&mut session, &options, &record, &inbox, &mut late).await,
                Err(error) => Err(error),
            },
        };
        if let Err(reason) = end {
            inbox.arrived.notify_waiters();
            return (session, reason);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn acknowledge(session: &mut Session) -> Result<(), Error> {
    let mut out = String::new();
    session.acknowledge(&mut out);
    session.send(&out).await
}

async fn handle(
    session: &mut Session,
    options: &Options,
    record: &Record,
    inbox: &Inbox,
    late: &mut VecDeque<Instant>,
) -> Result<(), Error> {
    let mut out = String::new();
    let end = loop {
        let incoming = match session.take() {
            Ok(Some(incoming)) => incoming,
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        };
        session.answer(&incoming, &mut out);
        let put = match incoming {
            Incoming::Event(event) => match record.judge(&event) {
                Verdict::Apply => inbox.put(|waiting| waiting.events.push_back(*event)),
                Verdict::Repeat | Verdict::OutOfOrder => Ok(()),
            },
            Incoming::AckRequested => {
                if let Acks::Late(delay) = options.acks {
                    late.push_back(Instant::now() + delay);
                }
                inbox.put(|waiting| waiting.acks_requested += 1)
            }
            Incoming::Other(element) => inbox.put(|waiting| waiting.others.push_back(*element)),
            Incoming::Acked(_) | Incoming::Ping { .. } => Ok(()),
        };
        if let Err(full) = put {
            break Err(full);
        }
    };
    if !out.is_empty() {
        let sent = session.send(&out).await;
        return end.and(sent);
    }
    end
}
