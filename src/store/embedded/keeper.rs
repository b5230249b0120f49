//! The keeper: once a second it writes the high-water mark, measures the disk, and asks the writer for what is due.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{
    Shared,
    engine::Engine,
    high_water,
    op::{Care, Op},
    space::{self, Disk},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two attempts to win space by rewriting tables.
const REWRITE_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) steps: tokio::sync::mpsc::WeakSender<Op>,
    /// Closed when the store closes.
    pub(super) stop: mpsc::Receiver<()>,
    pub(super) marked: u64,
    /// When the tables were last rewritten to win space.
    pub(super) rewritten: Option<Instant>,
}

impl Keeper {
    pub(super) fn run(mut self) {
        while self.stop.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.mark();
            let order = look(&self.shared);
            self.make_room();
            if let Some(order) = order
                && let Some(steps) = self.steps.upgrade()
            {
                // A full queue means that the writer is busy: the next look asks again.
                let _ = steps.try_send(Op::Care(order));
            }
        }
    }

    /// While events are refused nothing new is written, so the engine by itself would never rewrite tables full of what was
    /// settled long ago.
    fn make_room(&mut self) {
        let shared = &self.shared;
        let idle = shared.writable.load(Ordering::Relaxed) || shared.lean.load(Ordering::Relaxed);
        if idle || self.rewritten.is_some_and(|at| at.elapsed() < REWRITE_PAUSE) {
            return;
        }
        let used = space::used(&shared.folder);
        if !used.is_small() || shared.free_bytes.load(Ordering::Relaxed) < shared.sizes.rewrite(used, live(shared)) {
            return;
        }
        self.rewritten = Some(Instant::now());
        if let Err(error) = shared.read(Engine::compact) {
            tracing::warn!(error = %error, "the tables could not be rewritten to win space: {error}");
        }
    }

    fn mark(&mut self) {
        let commit_no = self.shared.synced_commit.load(Ordering::Relaxed);
        if commit_no == self.marked {
            return;
        }
        match high_water::write(&self.shared.mark_path(), commit_no) {
            Ok(()) => self.marked = commit_no,
            // A full disk is said elsewhere; the mark only bounds what a damaged disk could hide.
            Err(error) => tracing::debug!(error = %error, "the high-water mark could not be written: {error}"),
        }
    }
}

/// Rough bytes of the rows of events that wait.
fn live(shared: &Shared) -> u64 {
    let totals = *shared.totals.lock();
    totals.queued_bytes.saturating_add(totals.queued.saturating_mul(128))
}

/// Measures the disk, opens or shuts the intake, and says what the writer should do.
pub(super) fn look(shared: &Shared) -> Option<Care> {
    let disk = match Disk::of(&shared.folder) {
        Ok(disk) => disk,
        Err(error) => {
            tracing::warn!(error = %error, "the free space of the data directory cannot be read: {error}");
            return None;
        }
    };
    let used = space::used(&shared.folder);
    let lean = shared.lean.load(Ordering::Relaxed);
    let intake = shared.sizes.intake(used);
    let was = shared.writable.load(Ordering::Relaxed);
    // A little more than the limit opens it again, so that it does not flap.
    let enough = if was { intake } else { intake.saturating_add(intake / 8) };
    let writable = !lean && disk.free >= enough;
    shared.headroom.store(disk.free.saturating_sub(intake), Ordering::Relaxed);
    shared.free_bytes.store(disk.free, Ordering::Relaxed);
    shared
        .disk_bytes
        .store(used.journals + used.tables + used.ballast, Ordering::Relaxed);
    shared.writable.store(writable, Ordering::Relaxed);
    if was && !writable {
        tracing::error!(
            disk.free_bytes = disk.free,
            disk.needed_bytes = enough,
            "the disk is nearly full: {} bytes are free and {enough} are needed, so new events are refused; acknowledgements go on",
            disk.free
        );
    } else if !was && writable {
        tracing::info!(disk.free_bytes = disk.free, "there is room for new events again");
    }
    if shared.engine.read().is_none() {
        return Some(Care::Reopen);
    }
    let missing_ballast = shared.sizes.ballast.saturating_sub(used.ballast);
    if lean {
        let needed = shared.sizes.rewrite(used, live(shared)).saturating_add(missing_ballast);
        return (disk.free >= needed).then_some(Care::Restore);
    }
    (used.journals > shared.sizes.journal && used.journal_files == 1).then_some(Care::SealJournal)
}
