//! One timer wheel for all sessions: a slot of 8 to 16 bytes each, instead of a timer each.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How exact the wheel is.
const TICK: Duration = Duration::from_millis(250);
/// 2048 ticks: 512 s. What is later goes around once more.
const SLOTS: u64 = 2048;
/// After so many the wheel lets other tasks run.
const BATCH: usize = 128;

/// A tick of the wheel, counted from its start.
pub(super) type Tick = u64;

/// Something with a deadline.
pub(super) trait Timed: Send + Sync {
    /// The tick at which it was armed has come. It arms itself again if it wants to be called again.
    fn elapsed(self: Arc<Self>, tick: Tick, now: Instant);
}

type Slot = Mutex<Vec<Weak<dyn Timed>>>;

/// The wheel. Arming takes one short lock of one slot; nothing is ever disarmed: who is called too early says so himself.
pub(super) struct Timers {
    start: Instant,
    reached: AtomicU64,
    slots: Box<[Slot]>,
}

impl Timers {
    /// A wheel that starts now.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            reached: AtomicU64::new(0),
            slots: (0..SLOTS).map(|_| Mutex::new(Vec::new())).collect(),
        }
    }

    /// The tick that is not before `at`.
    pub(super) fn tick(&self, at: Instant) -> Tick {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX)
    }

    /// Calls `timed` at `at`, or earlier when that is more than one turn of the wheel ahead. Returns the tick; it is later
    /// than the present one.
    pub(super) fn arm(&self, timed: Weak<dyn Timed>, at: Instant, now: Instant) -> Tick {
        let present = self.tick(now);
        let mut tick = self.tick(at).clamp(present + 1, present + SLOTS - 2);
        loop {
            if let Some(slot) = self.slot(tick) {
                slot.lock().push(timed.clone());
            }
            // The wheel went past while this thread stood still: what it missed would wait for a whole turn.
            let reached = self.reached.load(Ordering::SeqCst);
            if reached < tick {
                return tick;
            }
            tick = reached + 1;
        }
    }

    fn slot(&self, tick: Tick) -> Option<&Slot> {
        self.slots.get(usize::try_from(tick % SLOTS).ok()?)
    }

    fn take(&self, tick: Tick) -> Vec<Weak<dyn Timed>> {
        self.slot(tick).map(|slot| std::mem::take(&mut *slot.lock())).unwrap_or_default()
    }

    /// Turns the wheel until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reached = self.tick(Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            let now = Instant::now();
            // The last tick that is not after `now`.
            let present = self.tick(now).saturating_sub(1);
            while reached < present {
                reached += 1;
                self.reached.store(reached, Ordering::SeqCst);
                for (n, timed) in self.take(reached).into_iter().enumerate() {
                    if let Some(timed) = timed.upgrade() {
                        timed.elapsed(reached, now);
                    }
                    if n % BATCH == BATCH - 1 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bell(Mutex<Vec<Tick>>);

    impl Timed for Bell {
        fn elapsed(self: Arc<Self>, tick: Tick, _now: Instant) {
            self.0.lock().push(tick);
        }
    }

    #[test]
    fn a_deadline_is_never_early_and_at_most_a_turn_ahead() {
        let start = Instant::now();
        let timers = Timers::new(start);
        let bell: Arc<Bell> = Arc::new(Bell(Mutex::default()));
        let check = |at: Duration, expected| {
            let weak: Weak<Bell> = Arc::downgrade(&bell);
            assert_eq!(timers.arm(weak, start + at, start), expected, "{at:?}");
        };
        check(Duration::ZERO, 1);
        check(Duration::from_millis(250), 1);
        check(Duration::from_millis(251), 2);
        check(Duration::from_secs(300), 1200);
        check(Duration::from_secs(100_000), SLOTS - 2);
        assert_eq!(timers.take(1).len(), 2);
        assert_eq!(timers.take(1).len(), 0);
    }

    #[tokio::test]
    async fn the_wheel_calls_what_is_due() {
        let timers = Arc::new(Timers::new(Instant::now()));
        let bell: Arc<Bell> = Arc::new(Bell(Mutex::default()));
        let weak: Weak<Bell> = Arc::downgrade(&bell);
        let tick = timers.arm(weak, Instant::now(), Instant::now());
        let stop = CancellationToken::new();
        let turning = tokio::spawn({
            let (timers, stop) = (timers.clone(), stop.clone());
            async move { timers.run(stop).await }
        });
        while bell.0.lock().is_empty() {
            tokio::time::sleep(TICK / 10).await;
        }
        assert_eq!(*bell.0.lock(), [tick]);
        stop.cancel();
        turning.await.unwrap();
    }
}
