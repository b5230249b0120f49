//! Time as the service sees it. It is injected: only loops that own a clock ask for it.

use std::{
    cell::Cell,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment and `duration`, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-22T01:40:00.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(minute) = minute(self.0 / 60_000) else {
            return f.write_str("9999-12-30T22:00:00.000Z");
        };
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[..17].copy_from_slice(&minute);
        let mut ms = self.0 % 60_000;
        for at in [22, 21, 20, 18, 17] {
            text[at] = b'0' + (ms % 10) as u8;
            ms /= 10;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The text of a minute up to its seconds; times are told by the thousand, and most are of one minute.
fn minute(minute: u64) -> Option<[u8; 17]> {
    thread_local! {
        static LAST: Cell<(u64, [u8; 17])> = const { Cell::new((0, *b"1970-01-01T00:00:")) };
    }
    let (last, text) = LAST.get();
    if last == minute {
        return Some(text);
    }
    let ms = i64::try_from(minute).ok()?.checked_mul(60_000)?;
    let text = jiff::Timestamp::from_millisecond(ms).ok()?.to_string();
    let text = *text.as_bytes().first_chunk()?;
    LAST.set((minute, text));
    Some(text)
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    /// Reads RFC 3339. Times before 1970 read as 1970.
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let time: jiff::Timestamp = text.parse()?;
        Ok(Self(u64::try_from(time.as_millisecond()).unwrap_or(0)))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time of day. Never earlier than an answer given before.
    fn now(&self) -> Timestamp;
}

/// The system's clock, held so that it never goes back within this process.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: AtomicU64,
}

impl SystemClock {
    /// A clock to share.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        Timestamp(self.latest.fetch_max(ms, Ordering::Relaxed).max(ms))
    }
}

/// A clock that somebody who knows better may correct: nodes that share a store share its time where their own is wrong.
pub struct CorrectedClock {
    own: Arc<dyn Clock>,
    /// The right time, and when it was that.
    right: RwLock<Option<(Timestamp, Instant)>>,
}

impl CorrectedClock {
    /// `own`, until it is corrected.
    pub fn over(own: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            own,
            right: RwLock::default(),
        })
    }

    /// The time of `own`, right or wrong.
    pub fn own(&self) -> Timestamp {
        self.own.now()
    }

    /// From here on it goes by that time (which may be earlier than what it told before), or by its own again.
    pub fn correct(&self, now: Option<Timestamp>) {
        *self.right.write() = now.map(|now| (now, Instant::now()));
    }
}

impl Clock for CorrectedClock {
    fn now(&self) -> Timestamp {
        match *self.right.read() {
            Some((time, at)) => time.plus(at.elapsed()),
            None => self.own.now(),
        }
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU64::new(now.0),
        })
    }

    /// Sets the clock, back too, as a clock that is corrected.
    pub fn set(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.now
            .fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }
}
