//! What the writer is asked to do, and how it answers.

use fjall::Slice;
use tokio::sync::oneshot;

use super::{engine::Space, groups, rows::Identity, webhooks};
use crate::{
    domain::{AuditEntry, Departure, Epoch, FastChange, Report, TenantId, Timestamp},
    store::{
        ApiKey, Arrival, Begun, Claimed, Device, DeviceChange, DeviceKey, Ended, Enqueued, KeyUse, NewEvent, NewSeat, Rotation, Seat,
        Settle, Settled, StoreError, Tenant,
        rotation::Rotated,
        transfer::{Header, Piece, Taken},
    },
};

pub(super) type Answer<T> = oneshot::Sender<T>;
type Fallible<T> = Answer<Result<T, StoreError>>;

/// One step for the writer. Steps that are safe to repeat are tried again on the reopened engine.
pub(super) enum Op {
    Enqueue(Vec<NewEvent>, Answer<Vec<Result<Enqueued, StoreError>>>),
    Settle(Vec<Settle>, Answer<Vec<Result<Settled, StoreError>>>),
    RequeueDue(Timestamp, usize, Fallible<usize>),
    Claim(DeviceKey, NewSeat, Fallible<Claimed>),
    Release(DeviceKey, Goodbye, Fallible<bool>),
    EndLostSeats(usize, Fallible<Ended>),
    PutDevice(Box<PutDevice>, Fallible<(Device, bool)>),
    RemoveDevice(DeviceKey, Timestamp, Fallible<Option<Seat>>),
    ChangeFastTokens(DeviceKey, u32, Box<FastChange>, Fallible<()>),
    Report(DeviceKey, Report, Timestamp, Fallible<bool>),
    PutKey([u8; 32], ApiKey, Fallible<()>),
    RotateKey(TenantId, String, Rotation, Fallible<Option<ApiKey>>),
    RevokeKey(TenantId, String, Fallible<bool>),
    NoteKeyUses(Vec<KeyUse>, Fallible<()>),
    PutTenant(Tenant, Fallible<()>),
    /// A tenant whose number is still to be found.
    AddTenant(Box<Tenant>, Fallible<Option<Tenant>>),
    RemoveTenant(TenantId, Timestamp, Fallible<Option<Tenant>>),
    BeginAudit(TenantId, Box<AuditEntry>, Fallible<u64>),
    EndAudit(TenantId, u64, Box<AuditEntry>, Fallible<()>),
    AddMinute(u64, String, Vec<(String, f64)>, Fallible<()>),
    Webhook(webhooks::Step, Fallible<webhooks::Done>),
    Group(groups::Step, Fallible<Begun>),
    BeginImport(Box<Header>, Fallible<()>),
    Import(Box<Piece>, Fallible<Taken>),
    FinishImport(String, Fallible<()>),
    /// Rows to remove if they still are as they were read.
    Forget(Vec<(Space, Slice, Slice)>, Fallible<u64>),
    /// The keeper's orders.
    Care(Care),
}

/// What is known of a seat that is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goodbye {
    pub(super) epoch: Epoch,
    pub(super) last_seen_at: Timestamp,
    pub(super) why: Departure,
}

pub(super) struct PutDevice {
    pub(super) device: DeviceKey,
    pub(super) change: DeviceChange,
    pub(super) create: bool,
    pub(super) now: Timestamp,
}

/// What the keeper asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Space is back: write the ballast, run in full again.
    Restore,
    /// The journal is large for this disk: seal it, so that it can go.
    SealJournal,
    /// Try to open the engine again.
    Reopen,
    /// Write what is queued, then end.
    Stop,
}

/// What a step will answer once its commit holds.
pub(super) enum Outcome {
    Enqueued(Vec<Result<Enqueued, StoreError>>, Vec<Arrival>),
    Settled(Vec<Result<Settled, StoreError>>),
    Requeued(Result<usize, StoreError>, Vec<Arrival>),
    Claimed(Result<Claimed, StoreError>),
    Released(Result<bool, StoreError>),
    EndedSeats(Result<Ended, StoreError>),
    PutDevice(Result<(Device, bool), StoreError>),
    Removed(Result<Option<Seat>, StoreError>),
    Done(Result<(), StoreError>),
    Rotated(Result<Option<Rotated>, StoreError>),
    Revoked(Result<bool, StoreError>),
    Tenant(Result<Option<Tenant>, StoreError>),
    Reported(Result<bool, StoreError>),
    Forgot(Result<u64, StoreError>),
    Webhook(Result<webhooks::Done, StoreError>),
    Group(Result<Begun, StoreError>),
    Audited(Result<u64, StoreError>),
    Began(Result<Identity, StoreError>),
    Imported(Result<Taken, StoreError>),
    Nothing,
}

impl Op {
    /// Rough bytes that it adds to a commit.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Enqueue(events, _) => events.iter().map(|new| 192 + new.event.json.0.len()).sum(),
            Self::Settle(ends, _) => ends.len() * 192,
            Self::Forget(rows, _) => rows.len() * 64,
            Self::NoteKeyUses(uses, _) => uses.len() * 64,
            Self::RequeueDue(_, limit, _) => limit * 512,
            Self::EndLostSeats(limit, _) => limit * 128,
            Self::AddMinute(_, _, figures, _) => figures.len() * 48,
            Self::Group(step, _) => step.weight(),
            Self::Import(piece, _) => imported_bytes(piece),
            _ => 512,
        }
    }

    /// Steps in it.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Enqueue(events, _) => events.len().max(1),
            Self::Settle(ends, _) => ends.len().max(1),
            Self::Forget(rows, _) => rows.len().max(1),
            Self::NoteKeyUses(uses, _) => uses.len().max(1),
            Self::RequeueDue(_, limit, _) | Self::EndLostSeats(limit, _) => (*limit).max(1),
            _ => 1,
        }
    }

    /// Whether doing it twice comes to the same as doing it once.
    pub(super) fn is_idempotent(&self) -> bool {
        !matches!(
            self,
            Self::Enqueue(..)
                | Self::PutDevice(..)
                | Self::RotateKey(..)
                | Self::AddTenant(..)
                | Self::RemoveTenant(..)
                | Self::AddMinute(..)
                | Self::Care(_)
        )
    }

    /// Answers. Whoever asked may be gone; then nobody listens.
    pub(super) fn answer(self, outcome: Outcome) -> Vec<Arrival> {
        match (self, outcome) {
            (Self::Enqueue(_, to), Outcome::Enqueued(results, arrivals)) => {
                let _ = to.send(results);
                return arrivals;
            }
            (Self::Settle(_, to), Outcome::Settled(results)) => drop(to.send(results)),
            (Self::RequeueDue(_, _, to), Outcome::Requeued(result, arrivals)) => {
                let _ = to.send(result);
                return arrivals;
            }
            (Self::Claim(_, _, to), Outcome::Claimed(result)) => drop(to.send(result)),
            (Self::Release(_, _, to), Outcome::Released(result)) => drop(to.send(result)),
            (Self::EndLostSeats(_, to), Outcome::EndedSeats(result)) => drop(to.send(result)),
            (Self::PutDevice(_, to), Outcome::PutDevice(result)) => drop(to.send(result)),
            (Self::RemoveDevice(_, _, to), Outcome::Removed(result)) => drop(to.send(result)),
            (
                Self::PutKey(_, _, to) | Self::PutTenant(_, to) | Self::AddMinute(_, _, _, to) | Self::ChangeFastTokens(_, _, _, to),
                Outcome::Done(result),
            ) => drop(to.send(result)),
            (Self::FinishImport(_, to) | Self::EndAudit(_, _, _, to) | Self::NoteKeyUses(_, to), Outcome::Done(result)) => {
                drop(to.send(result))
            }
            (Self::BeginAudit(_, _, to), Outcome::Audited(result)) => drop(to.send(result)),
            (Self::BeginImport(_, to), Outcome::Began(result)) => drop(to.send(result.map(|_| ()))),
            (Self::Import(_, to), Outcome::Imported(result)) => drop(to.send(result)),
            (Self::RotateKey(_, _, _, to), Outcome::Rotated(result)) => {
                drop(to.send(result.map(|rotated| rotated.map(|rotated| rotated.newest.1))))
            }
            (Self::RevokeKey(_, _, to), Outcome::Revoked(result)) => drop(to.send(result)),
            (Self::AddTenant(_, to) | Self::RemoveTenant(_, _, to), Outcome::Tenant(result)) => drop(to.send(result)),
            (Self::Report(_, _, _, to), Outcome::Reported(result)) => drop(to.send(result)),
            (Self::Forget(_, to), Outcome::Forgot(result)) => drop(to.send(result)),
            (Self::Webhook(_, to), Outcome::Webhook(result)) => drop(to.send(result)),
            (Self::Group(_, to), Outcome::Group(result)) => drop(to.send(result)),
            _ => {}
        }
        Vec::new()
    }

    /// Answers that it could not be done.
    pub(super) fn refuse(self, error: &StoreError) {
        match self {
            // Its events are gone into the draft: whoever waits learns from the closed channel.
            Self::Enqueue(_, to) => drop(to),
            Self::Settle(ends, to) => drop(to.send(ends.iter().map(|_| Err(error.clone())).collect())),
            Self::RequeueDue(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::Claim(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::Release(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::EndLostSeats(_, to) => drop(to.send(Err(error.clone()))),
            Self::PutDevice(_, to) => drop(to.send(Err(error.clone()))),
            Self::RemoveDevice(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::PutKey(_, _, to) | Self::PutTenant(_, to) | Self::AddMinute(_, _, _, to) => drop(to.send(Err(error.clone()))),
            Self::ChangeFastTokens(_, _, _, to) => drop(to.send(Err(error.clone()))),
            Self::BeginImport(_, to) | Self::FinishImport(_, to) => drop(to.send(Err(error.clone()))),
            Self::Import(_, to) => drop(to.send(Err(error.clone()))),
            Self::RotateKey(_, _, _, to) => drop(to.send(Err(error.clone()))),
            Self::RevokeKey(_, _, to) | Self::Report(_, _, _, to) => drop(to.send(Err(error.clone()))),
            Self::AddTenant(_, to) | Self::RemoveTenant(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::Forget(_, to) | Self::BeginAudit(_, _, to) => drop(to.send(Err(error.clone()))),
            Self::EndAudit(_, _, _, to) | Self::NoteKeyUses(_, to) => drop(to.send(Err(error.clone()))),
            Self::Webhook(_, to) => drop(to.send(Err(error.clone()))),
            Self::Group(_, to) => drop(to.send(Err(error.clone()))),
            Self::Care(_) => {}
        }
    }
}

/// Rough bytes that a piece of an import adds to a commit.
fn imported_bytes(piece: &Piece) -> usize {
    match piece {
        Piece::Tenant(_) | Piece::Key(_) | Piece::Webhook(_) => 256,
        Piece::Audit(entries) => entries.len() * 512,
        Piece::Receipts(receipts) => receipts.len() * 128,
        Piece::Minutes(minutes) => minutes.iter().map(|minute| 64 + minute.figures.len() * 48).sum(),
        Piece::Group(_) => 8 * 1024,
        Piece::Device(_, deliveries) => {
            let data = deliveries.iter().filter_map(|delivery| delivery.waits.as_ref());
            1024 + deliveries.len() * 256 + data.map(|waits| waits.data.get().len()).sum::<usize>()
        }
    }
}
