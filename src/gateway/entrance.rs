//! Admission: who may begin to log in, and when (XEP-0205).
//!
//! Nothing is spent on a connection before its first words are there in full: a crowd of silent sockets takes places, and the
//! oldest of them goes when the places are all taken. Then it waits for its slot, if logins a second are limited, and for a
//! turn at the CPU; each further step of its login takes a turn, too, before all newcomers. A turn begins when nothing else is
//! ready, so that sessions which are up go before all of them. Who waits too long is refused before any cryptography was done for it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{Interest, ReadBuf},
    sync::{SemaphorePermit, oneshot},
};

use super::{
    buffers,
    config::Config,
    connection::{ANSWERS_MAX, Connection, Next},
    hello::{self, Hello},
    login::random,
    metrics::Refused,
    shared::Shared,
    turns::{Turn, Turns, Who},
};

/// So much of the first words is looked at.
const LOOK: usize = 4096;
/// Work that can wait has the CPU for about as long before it lets others go first.
const PAUSE_EVERY_MICROS: u64 = 300;

/// Who stands before the door.
pub(super) struct Entrance {
    turns: Turns,
    /// Connections that have not said anything in full, oldest first; to be told to go.
    silent: Mutex<VecDeque<oneshot::Sender<()>>>,
    silent_max: usize,
    /// When the next login may begin, if they are limited.
    slots: Mutex<Option<Instant>>,
    every: Option<Duration>,
    /// Logins that may begin at once.
    burst: Duration,
    start: Instant,
    /// When others went first last, in microseconds since the start.
    paused: AtomicU64,
}

/// What a connection needs to begin.
pub(super) struct Entered<'a> {
    /// A TLS handshake may be under way, until this is dropped.
    pub(super) handshake: Option<SemaphorePermit<'a>>,
    /// For its first step.
    pub(super) turn: Turn,
}

impl Entrance {
    /// An entrance with nobody before it.
    pub(super) fn new(config: &Config) -> Self {
        let every = Duration::from_secs(1).checked_div(config.logins_per_second);
        Self {
            turns: Turns::new(config.login_turns()),
            silent: Mutex::default(),
            silent_max: config.unauthenticated_max.max(1),
            slots: Mutex::new(None),
            every,
            burst: every.unwrap_or_default().saturating_mul(config.logins_per_second / 10),
            start: Instant::now(),
            paused: AtomicU64::new(0),
        }
    }

    /// A turn for work that can wait: now and then whatever is ready goes first, and what came in meanwhile, too. tokio wakes who
    /// yields only when its queue is empty and the sockets were looked at, or after 61 other tasks.
    pub(super) async fn turn(&self, who: Who) -> Turn {
        let turn = self.turns.take(who).await;
        if self.pause_is_due(Instant::now()) {
            tokio::task::yield_now().await;
        }
        turn
    }

    /// Whether the crowd has had the CPU for long enough. Looking at the sockets costs a part of a login, so it is not done at each turn.
    fn pause_is_due(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.start).as_micros();
        // 0 is for never.
        let passed = u64::try_from(passed).unwrap_or(u64::MAX).max(1);
        let before = self.paused.load(Ordering::Relaxed);
        let due = before == 0 || passed.saturating_sub(before) >= PAUSE_EVERY_MICROS;
        if due {
            self.paused.store(passed, Ordering::Relaxed);
        }
        due
    }

    /// Sends the oldest silent connection away. False: there is none.
    pub(super) fn evict(&self) -> bool {
        let mut silent = self.silent.lock();
        while let Some(oldest) = silent.pop_front() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    /// Stands in line with those who have not spoken; resolves when it has to go.
    fn stand(&self) -> oneshot::Receiver<()> {
        let (go, told) = oneshot::channel();
        let mut silent = self.silent.lock();
        while silent.front().is_some_and(oneshot::Sender::is_closed) {
            silent.pop_front();
        }
        if silent.len() >= 2 * self.silent_max {
            silent.retain(|one| !one.is_closed());
        }
        silent.push_back(go);
        told
    }

    /// The time to wait for a slot. `None`: longer than `patience`.
    fn slot(&self, who: Who, patience: Duration, now: Instant) -> Option<Duration> {
        let Some(every) = self.every else {
            return Some(Duration::ZERO);
        };
        let mut slots = self.slots.lock();
        // A burst of logins is let in at once after a pause.
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        let free = slots.map_or(earliest, |free| free.max(earliest));
        let wait = free.saturating_duration_since(now);
        if who == Who::Newcomer && wait > patience {
            return None;
        }
        *slots = Some(free + every);
        // Who comes back goes first: it takes its slot from the newcomers behind it.
        Some(if who == Who::Known { Duration::ZERO } else { wait })
    }
}

/// Waits until a new connection may begin to log in.
///
/// # Errors
/// Why it may not.
pub(super) async fn enter(connection: &Connection) -> Result<Entered<'_>, Refused> {
    let (shared, entrance) = (&connection.shared, &connection.shared.entrance);
    let (clear, known, spoke) = {
        let state = connection.state.lock();
        (state.wire.established(), state.wire.returning(), state.asked.is_some())
    };
    let told = entrance.stand();
    let who = tokio::select! {
        biased;
        () = std::future::ready(()), if spoke => Who::Newcomer,
        who = first_words(connection, !clear) => who,
        gone = told => match gone {
            Ok(()) => return Err(Refused::Silent),
            // Its place in line was dropped: nobody tells it anything.
            Err(_) => first_words(connection, !clear).await,
        },
    };
    let who = if known { Who::Known } else { who };
    let patience = shared.config.login_wait();
    let wait = entrance.slot(who, patience, Instant::now()).ok_or(Refused::Busy)?;
    tokio::time::sleep(wait).await;
    let begin = async {
        // Before the turn: who holds one waits for nobody.
        let handshake = match clear {
            true => None,
            false => shared.handshakes.acquire().await.ok(),
        };
        let turn = entrance.turn(who).await;
        Entered { handshake, turn }
    };
    tokio::time::timeout(patience, begin).await.map_err(|_| Refused::Busy)
}

/// Waits for the first words, in full if they are TLS. An error shows at the next read.
async fn first_words(connection: &Connection, tls: bool) -> Who {
    loop {
        if connection.socket.readable().await.is_err() {
            return Who::Newcomer;
        }
        let looked = connection.socket.try_io(Interest::READABLE, || {
            buffers::reading(|buffer| {
                let room = buffer.get_mut(..LOOK).unwrap_or_default();
                let read = peek(connection, room)?;
                match hello::look(room.get(..read).unwrap_or_default(), LOOK) {
                    // Not ready before more comes.
                    Hello::Partial if tls && read > 0 => Err(io::ErrorKind::WouldBlock.into()),
                    Hello::Whole { returning: true } if tls => Ok(Who::Known),
                    _ => Ok(Who::Newcomer),
                }
            })
        });
        match looked {
            Ok(who) => return who,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Who::Newcomer,
        }
    }
}

fn peek(connection: &Connection, room: &mut [u8]) -> io::Result<usize> {
    // Nobody is to be woken: the caller waits for the socket itself.
    let mut cx = Context::from_waker(Waker::noop());
    match connection.socket.poll_peek(&mut cx, &mut ReadBuf::new(room)) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// One step of a login: waits for something to do, takes a turn, does it. `turn`: it has one already.
pub(super) async fn step(connection: &Connection, turn: Option<Turn>) -> Next {
    let mut first = turn;
    loop {
        let turn = match (first.take(), busy(connection)) {
            (Some(turn), _) => Some(turn),
            (None, Some(interest)) => {
                // An error shows in the step.
                let _ = connection.socket.ready(interest).await;
                Some(connection.shared.entrance.turn(Who::Known).await)
            }
            (None, None) => None,
        };
        let next = poll_fn(|cx| Poll::Ready(connection.step(cx))).await;
        drop(turn);
        if let Poll::Ready(next) = next {
            return next;
        }
    }
}

/// What the socket must be ready for before there is something to do. `None`: there is already.
fn busy(connection: &Connection) -> Option<Interest> {
    let state = connection.state.lock();
    if state.asked.is_some() || state.closing.is_some() || !state.signals.is_empty() {
        return None;
    }
    Some(match state.queue.len() {
        0 => Interest::READABLE,
        1..=ANSWERS_MAX => Interest::READABLE.add(Interest::WRITABLE),
        _ => Interest::WRITABLE,
    })
}

impl Shared {
    /// What a device that is refused is told to wait, in seconds: around what is set, so that they do not all come at once.
    pub(super) fn retry_after(&self) -> u32 {
        let set = self.config.retry_after_secs;
        let spread = random().map_or(0, u32::from_le_bytes) % set.saturating_add(1);
        (set / 2).saturating_add(spread).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_wait_for_slots_and_who_comes_back_does_not() {
        let entrance = Entrance::new(&Config {
            logins_per_second: 100,
            ..Config::default()
        });
        let (now, patience) = (Instant::now(), Duration::from_secs(1));
        let wait = |who| entrance.slot(who, patience, now).map(|wait| wait.as_millis());
        for _ in 0..11 {
            assert_eq!(wait(Who::Newcomer), Some(0), "a tenth of a second at once");
        }
        assert_eq!(wait(Who::Newcomer), Some(10));
        assert_eq!(wait(Who::Known), Some(0));
        assert_eq!(wait(Who::Newcomer), Some(30), "behind him");
        let accepted = (0..1_000).filter(|_| wait(Who::Newcomer).is_some()).count();
        assert_eq!(accepted, 97, "no more than can be served within the patience");
        assert_eq!(wait(Who::Known), Some(0));
        let later = now + Duration::from_secs(3);
        assert_eq!(entrance.slot(Who::Newcomer, patience, later), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn what_is_ready_goes_before_a_turn() {
        let (entrance, order) = (Entrance::new(&Config::default()), Mutex::new(Vec::new()));
        let login = async {
            let _turn = entrance.turn(Who::Known).await;
            order.lock().push("login");
        };
        let up = async { order.lock().push("up") };
        tokio::join!(login, up);
        assert_eq!(*order.lock(), ["up", "login"]);
    }

    #[test]
    fn the_crowd_pauses_after_a_while_and_not_at_each_turn() {
        let entrance = Entrance::new(&Config::default());
        let at = |micros| entrance.start + Duration::from_micros(micros);
        let due: Vec<bool> = [0, 1, 200, 301, 302, 600, 602]
            .map(|micros| entrance.pause_is_due(at(micros)))
            .into();
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn the_oldest_silent_connection_goes_first_and_those_that_spoke_stay() {
        let entrance = Entrance::new(&Config {
            unauthenticated_max: 2,
            ..Config::default()
        });
        assert!(!entrance.evict());
        let (mut first, second, mut third) = (entrance.stand(), entrance.stand(), entrance.stand());
        drop(second);
        assert!(entrance.evict() && first.try_recv().is_ok());
        assert!(third.try_recv().is_err());
        assert!(entrance.evict() && third.try_recv().is_ok());
        assert!(!entrance.evict());
        let stays = entrance.stand();
        for _ in 0..1_000 {
            drop(entrance.stand());
        }
        assert!(entrance.silent.lock().len() <= 4, "bounded");
        drop(stays);
    }
}
