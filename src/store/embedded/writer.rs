//! The writer: one thread through which every change goes.
//!
//! It takes what is queued, builds one draft, commits it once, then answers. No timer: while one commit syncs, the next steps
//! queue up behind it. When the engine fails it is dropped and opened again: a failed sync is never repeated on one handle.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Shared, audit,
    device_state::UNKNOWN,
    draft::Draft,
    engine::{Engine, Space},
    journal, keys,
    op::{Care, Op, Outcome},
    rows::Totals,
    space,
    steps::Book,
};
use crate::store::{Arrival, StoreError};

/// Steps in one commit, at most.
const STEPS_MAX: usize = 1_024;
/// Bytes of one commit, at most (one step may exceed it by itself).
const BYTES_MAX: usize = 1024 * 1024;
/// Time between two reopenings of an engine that keeps failing.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often steps are tried again, each time on a reopened engine.
const TRIES_MAX: u32 = 2;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) steps: mpsc::Receiver<Op>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) book: Book,
    /// When the engine was last opened again after a failure.
    pub(super) reopened: Option<Instant>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(op) = self.steps.blocking_recv() {
            let (mut count, mut bytes) = (op.count(), op.weight());
            batch.push(op);
            while count < STEPS_MAX && bytes < BYTES_MAX {
                let Ok(op) = self.steps.try_recv() else { break };
                count += op.count();
                bytes += op.weight();
                batch.push(op);
            }
            let care = self.write(std::mem::take(&mut batch));
            for order in care {
                self.care(order);
            }
        }
        self.finish();
    }

    /// What is queued has been written: makes it durable and leaves the mark.
    fn finish(&mut self) {
        let synced = self.shared.read(Engine::sync);
        match synced {
            Ok(()) => {
                let commit_no = self.shared.totals.lock().commit_no;
                self.shared.synced_commit.fetch_max(commit_no, Ordering::Relaxed);
            }
            Err(error) => tracing::error!(error = %error, "the store could not be synced at its end: {error}"),
        }
        *self.shared.engine.write() = None;
    }

    /// Writes steps; answers each. Returns the keeper's orders that were among them.
    fn write(&mut self, mut ops: Vec<Op>) -> Vec<Care> {
        let mut orders = Vec::new();
        ops.retain(|op| match op {
            Op::Care(order) => {
                orders.push(*order);
                false
            }
            _ => true,
        });
        self.look_for_room(&ops);
        let mut tries = 0;
        while !ops.is_empty() {
            match self.try_write(&mut ops) {
                Ok(outcomes) => {
                    let arrivals: Vec<Arrival> = ops.drain(..).zip(outcomes).flat_map(|(op, outcome)| op.answer(outcome)).collect();
                    self.announce(arrivals);
                }
                Err(error) => {
                    tries += 1;
                    let again = self.recover(&error) && tries < TRIES_MAX;
                    let error = StoreError::Unavailable(error.to_string().into());
                    let mut kept = Vec::new();
                    for op in ops.drain(..) {
                        if again && op.is_idempotent() {
                            kept.push(op);
                        } else {
                            op.refuse(&error);
                        }
                    }
                    ops = kept;
                }
            }
        }
        orders
    }

    /// Shuts the intake when the disk was filled since the keeper's last look: a commit that fails for lack of space leaves
    /// the backend in doubt, a refusal before it does not.
    fn look_for_room(&self, ops: &[Op]) {
        if !self.shared.writable.load(Ordering::Relaxed) || !ops.iter().any(|op| matches!(op, Op::Enqueue(..))) {
            return;
        }
        match space::Disk::of(&self.shared.folder) {
            Ok(disk) if disk.free < self.shared.sizes.least() => {
                self.shared.writable.store(false, Ordering::Relaxed);
                tracing::error!(
                    disk.free_bytes = disk.free,
                    "the disk is full: {} bytes are free, so new events are refused; acknowledgements go on",
                    disk.free
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %error, "the free space of the disk cannot be read: {error}"),
        }
    }

    fn try_write(&mut self, ops: &mut [Op]) -> Result<Vec<Outcome>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let guard = shared.engine.read();
        let engine = guard.as_ref().ok_or_else(Shared::closed)?;
        let book = &mut self.book;
        book.now = shared.clock.now();
        book.keys_changed = false;
        let mut draft = Draft::new(engine);
        let outcomes: Vec<Outcome> = ops.iter_mut().map(|op| apply(book, &mut draft, op)).collect();
        let wrote = !draft.is_empty();
        if wrote {
            book.totals.commit_no += 1;
            draft.put(Space::Rows, keys::COMMIT, book.totals.encode());
            let synced = draft.syncs();
            let bytes = engine.commit(draft.finish())?;
            use_headroom(&shared, bytes);
            *shared.totals.lock() = book.totals;
            if !book.tips.is_empty() {
                shared.tips.write().extend(book.tips.drain());
            }
            shared.receipts.committed(book.positions.committed());
            if synced {
                shared.synced_commit.store(book.totals.commit_no, Ordering::Relaxed);
            }
        }
        let mut held = 0;
        if !book.seat_changes.is_empty() {
            let mut seats = shared.seats.write();
            for (device, change) in book.seat_changes.drain(..) {
                match change {
                    Some(now) => drop(seats.insert(device, now)),
                    None => drop(seats.remove(&device)),
                }
            }
            held = seats.len();
        } else if wrote {
            held = shared.seats.read().len();
        }
        shared.watches.wake(&book.touched);
        book.touched.clear();
        book.states.end_round(held);
        remember(&shared, ops, &outcomes);
        Ok(outcomes)
    }

    fn announce(&self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            if self.arrivals.try_send(arrival).is_err() {
                self.shared.missed_arrivals.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// After a failed write: makes room and opens the engine anew. `true`: it is worth trying again.
    fn recover(&mut self, error: &StoreError) -> bool {
        for held in self.shared.seats.read().values() {
            held.waiting.store(UNKNOWN, Ordering::Relaxed);
        }
        self.book.states.clear();
        self.book.positions.clear();
        self.book.seat_changes.clear();
        self.book.tips.clear();
        self.book.lost_after = None;
        self.book.touched.clear();
        if self.reopened.is_some_and(|at| at.elapsed() < REOPEN_PAUSE) {
            // What is open still answers reads.
            self.book.totals = *self.shared.totals.lock();
            return false;
        }
        self.reopened = Some(Instant::now());
        tracing::error!(error = %error, "the store failed to write and is opened again: {error}");
        self.shared.writable.store(false, Ordering::Relaxed);
        self.shared.lean.store(true, Ordering::Relaxed);
        self.reopen(true, true)
    }

    /// Drops the engine and opens it again; seats stay. `seal`: with a new journal.
    fn reopen(&mut self, lean: bool, seal: bool) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut place = shared.engine.write();
        *place = None;
        self.book.states.clear();
        self.book.positions.clear();
        if seal {
            let ballast = space::ballast_path(&shared.folder);
            if let Err(error) = journal::seal(&shared.setup.path, lean.then_some(ballast.as_path())) {
                tracing::warn!(error = %error, "the journal could not be sealed: {error}");
            }
        }
        if lean && let Err(error) = space::drop_ballast(&shared.folder) {
            tracing::warn!(error = %error, "the ballast could not be deleted: {error}");
        }
        let opened = Engine::open(&shared.setup, lean).map_err(|e| e.to_string()).and_then(|engine| {
            let row = engine.get(Space::Rows, keys::COMMIT).map_err(|e| e.to_string())?;
            let totals = row
                .map(|row| Totals::decode(&row))
                .transpose()
                .map_err(|e| e.to_string())?
                .unwrap_or_default();
            let promised = shared.synced_commit.load(Ordering::Relaxed);
            if totals.commit_no < promised {
                return Err(format!("it came back at commit {}, but {promised} was durable", totals.commit_no));
            }
            Ok((engine, totals))
        });
        match opened {
            Ok((engine, totals)) => {
                self.book.totals = totals;
                *shared.totals.lock() = totals;
                shared.lean.store(engine.is_lean(), Ordering::Relaxed);
                // A commit that failed may be there all the same.
                match shared.receipts.read_again(&engine) {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(error = %error, "the ends of the receipts cannot be read: {error}"),
                }
                *place = Some(engine);
                if lean && let Err(error) = journal::reserve(&shared.setup.path, shared.sizes.ballast) {
                    tracing::warn!(error = %error, "no room could be kept for acknowledgements: {error}");
                }
                true
            }
            Err(error) => {
                tracing::error!(error = %error, "the store could not be opened again: {error}");
                false
            }
        }
    }

    fn care(&mut self, order: Care) {
        match order {
            Care::Stop => self.steps.close(),
            Care::Reopen => {
                if self.shared.engine.read().is_none() {
                    self.reopen(true, false);
                }
            }
            Care::SealJournal => {
                self.reopen(false, true);
            }
            Care::Restore => {
                if let Err(error) = space::write_ballast(&self.shared.folder, self.shared.sizes.ballast) {
                    tracing::warn!(error = %error, "the ballast could not be written: {error}");
                    return;
                }
                if self.reopen(false, true) {
                    tracing::info!("there is room on the disk again: the store works in full");
                }
            }
        }
    }
}

/// Shuts the intake between two looks of the keeper, when what was written since might fill the disk: a byte in the journal is
/// another in a table, and a third that merging that table will take.
fn use_headroom(shared: &Shared, bytes: u64) {
    let spent = bytes.saturating_mul(3);
    let left = shared.headroom.load(Ordering::Relaxed);
    shared.headroom.store(left.saturating_sub(spent), Ordering::Relaxed);
    if left < spent {
        shared.writable.store(false, Ordering::Relaxed);
    }
}

/// Applies one step to the draft.
fn apply(book: &mut Book, draft: &mut Draft<'_>, op: &mut Op) -> Outcome {
    match op {
        Op::Enqueue(events, _) => {
            let mut arrivals = Vec::new();
            let results = events.drain(..).map(|new| book.enqueue(draft, new, &mut arrivals)).collect();
            Outcome::Enqueued(results, arrivals)
        }
        Op::Settle(ends, _) => Outcome::Settled(ends.iter().map(|end| book.settle(draft, end)).collect()),
        Op::RequeueDue(now, limit, _) => {
            let mut arrivals = Vec::new();
            let result = book.requeue_due(draft, *now, *limit, &mut arrivals);
            Outcome::Requeued(result, arrivals)
        }
        Op::Claim(device, session, _) => Outcome::Claimed(book.claim(draft, device, session)),
        Op::Release(device, goodbye, _) => Outcome::Released(book.release(draft, device, *goodbye)),
        Op::EndLostSeats(limit, _) => Outcome::EndedSeats(book.end_lost_seats(draft, *limit)),
        Op::PutDevice(put, _) => Outcome::PutDevice(book.put_device(draft, put)),
        Op::RemoveDevice(device, now, _) => Outcome::Removed(book.remove_device(draft, device, *now)),
        Op::Report(device, report, now, _) => Outcome::Reported(book.report(draft, device, report, *now)),
        Op::ChangeFastTokens(device, generation, change, _) => Outcome::Done(book.change_fast_tokens(draft, device, *generation, change)),
        Op::PutKey(hash, key, _) => Outcome::Done(Book::put_key(draft, hash, key)),
        Op::RotateKey(tenant, id, rotation, _) => Outcome::Rotated(book.rotate_key(draft, *tenant, id, rotation)),
        Op::RevokeKey(tenant, id, _) => Outcome::Revoked(book.revoke_key(draft, *tenant, id)),
        Op::NoteKeyUses(uses, _) => Outcome::Done(book.note_key_uses(draft, uses)),
        Op::PutTenant(tenant, _) => Outcome::Done(Book::put_tenant(draft, tenant)),
        Op::AddTenant(new, _) => Outcome::Tenant(Book::add_tenant(draft, new)),
        Op::RemoveTenant(tenant, now, _) => Outcome::Tenant(book.remove_tenant(draft, *tenant, *now)),
        Op::BeginAudit(tenant, entry, _) => Outcome::Audited(Book::begin_audit(draft, *tenant, entry)),
        Op::EndAudit(tenant, position, entry, _) => Outcome::Done(Book::end_audit(draft, *tenant, *position, entry)),
        Op::AddMinute(minute, node, figures, _) => Outcome::Done(Book::add_minute(draft, *minute, node, figures)),
        Op::BeginImport(header, _) => Outcome::Began(book.begin_import(draft, header)),
        Op::Import(piece, _) => Outcome::Imported(book.import(draft, piece)),
        Op::FinishImport(export, _) => Outcome::Done(Book::finish_import(draft, export)),
        Op::Forget(rows, _) => Outcome::Forgot(forget(draft, rows)),
        Op::Webhook(step, _) => Outcome::Webhook(book.webhook(draft, step)),
        Op::Group(step, _) => Outcome::Group(book.group(draft, step)),
        Op::Care(_) => Outcome::Nothing,
    }
}

fn forget(draft: &mut Draft<'_>, rows: &[(Space, fjall::Slice, fjall::Slice)]) -> Result<u64, StoreError> {
    let mut dropped = 0;
    for (space, key, value) in rows {
        if draft.get(*space, key)?.as_ref() == Some(value) {
            draft.remove(*space, key.clone());
            if *space == Space::Log && key.starts_with(b"a") {
                audit::forgotten(draft, key)?;
            }
            dropped += 1;
        }
    }
    Ok(dropped)
}

/// Brings what is answered from RAM up to the commit that now holds.
fn remember(shared: &Shared, ops: &[Op], outcomes: &[Outcome]) {
    for pair in ops.iter().zip(outcomes) {
        match pair {
            (Op::PutKey(hash, key, _), Outcome::Done(Ok(()))) => {
                shared.keys.write().insert(*hash, Arc::new(key.clone()));
            }
            (Op::RotateKey(..), Outcome::Rotated(Ok(Some(rotated)))) => {
                let mut keys = shared.keys.write();
                keys.retain(|hash, _| !rotated.ended.contains(hash));
                for (hash, key) in rotated.before.iter().chain([&rotated.newest]) {
                    keys.insert(*hash, Arc::new(key.clone()));
                }
            }
            (Op::RevokeKey(tenant, id, _), Outcome::Revoked(Ok(true))) => {
                shared.keys.write().retain(|_, key| key.tenant != tenant.0 || key.id != *id);
            }
            (Op::PutTenant(tenant, _), Outcome::Done(Ok(()))) => {
                shared.tenants.write().insert(tenant.id, Arc::new(tenant.clone()));
            }
            (Op::AddTenant(..) | Op::RemoveTenant(..), Outcome::Tenant(Ok(Some(tenant)))) => {
                if tenant.removed_at.is_some() {
                    shared.keys.write().retain(|_, key| key.tenant != tenant.id);
                }
                shared.tenants.write().insert(tenant.id, Arc::new(tenant.clone()));
            }
            (Op::BeginImport(..), Outcome::Began(Ok(identity))) => {
                shared.ids.replace(&identity.id_secret);
                shared.generation.store(identity.generation, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
