//! Contract suites: what every engine owes, whichever it is.
//!
//! Each suite is an async function over a [`Bench`], an engine that is new and empty with a clock that the test moves.
//! An engine runs them all through [`run_contract!`].

#![allow(missing_docs, reason = "the name of a suite tells what it checks")]

mod audit;
mod end;
mod feed;
mod groups;
pub mod model;
mod outcome;
mod queue;
mod records;
mod registry;
mod schedule;
mod seat;
mod transfer;
mod webhooks;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    ApiKey, Arrival, ChangeKind, Claimed, Cursor, Delivery, DeviceChange, DeviceKey, Enqueued, EnqueuedKind, Idempotency, KeyUse, NewEvent,
    NewSeat, QueuedEvent, Receipt, Registered, Rotation, Scan, Settle, Settled, Store, StoreError, Tenant, Transport, Wanted,
    audit_position,
};
use crate::domain::{
    Actor, AuditEntry, AuditOutcome, CertificatePin, Clock, Cohort, Credential, Data, DeliveryState, Departure, Durability, Epoch, Event,
    EventId, FastAgent, FastChange, FastMechanism, FastProof, FastToken, Lane, Location, ManualClock, Outcome, OutcomeFields, Password,
    Queue, RateLimit, Reason, Report, Reported, Require, Scope, ScramSecret, SessionId, Status, TenantId, Timestamp, Told, Urgency,
};

pub use self::{
    audit::*, end::*, feed::*, groups::*, outcome::*, queue::*, records::*, registry::*, schedule::*, seat::*, transfer::*, webhooks::*,
};

/// The moment at which a bench's clock starts.
pub const START: Timestamp = Timestamp(1_800_000_000_000);
/// The tenant that most suites use.
pub const TENANT: TenantId = TenantId(0);

/// An engine under test. Its limits are those of [`limits`].
pub trait Bench: Send + Sync {
    /// The engine.
    fn store(&self) -> Arc<dyn Store>;
    /// The same, as everything is moved from it or into it.
    fn transfer(&self) -> Arc<dyn super::transfer::Transfer>;
    /// The same, as webhooks stand on it.
    fn webhooks(&self) -> Arc<dyn super::Webhooks>;
    /// The clock that it was opened with.
    fn clock(&self) -> Arc<ManualClock>;
    /// What it has announced and nobody has taken yet.
    fn arrivals(&mut self) -> &mut mpsc::Receiver<Arrival>;
    /// The level at which it accepts events.
    fn durability(&self) -> Durability;
    /// Closes the engine and opens it again.
    fn reopen(self) -> impl Future<Output = Self> + Send
    where
        Self: Sized;
}

/// Limits small enough to be reached.
pub fn limits() -> crate::domain::Limits {
    crate::domain::Limits {
        queue_max_events: 5,
        queue_max_bytes: 1_000,
        receipts_max: 4,
        audit_max: 4,
        presence_changes_max: 20,
        attempts_max: 3,
        ..crate::domain::Limits::default()
    }
}

/// The receipts of [`TENANT`], once there are so many.
pub async fn receipts(store: &dyn Store, count: usize) -> Vec<Receipt> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = store.receipts(TENANT, 0, 1_000).await.unwrap();
        if found.len() >= count {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{} of {count}: {found:?}", found.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The address of a device of [`TENANT`].
pub fn key(id: &str) -> DeviceKey {
    DeviceKey {
        tenant: TENANT,
        device: id.parse().unwrap(),
    }
}

/// An event of 60 s for a device of [`TENANT`].
pub fn event(device: &str, json: &str, now: Timestamp) -> Event {
    Event {
        tenant: TENANT,
        device: device.parse().unwrap(),
        accepted_at: now,
        deliver_at: None,
        ttl: Duration::from_secs(60),
        urgency: Urgency::Normal,
        collapse_key: None,
        require: Require::Acknowledged,
        json: Data(json.into()),
    }
}

/// Adds a device.
pub async fn add(store: &dyn Store, id: &str) {
    store.put_device(&key(id), DeviceChange::default(), true, START).await.unwrap();
}

/// Enqueues one event.
pub async fn push(store: &dyn Store, event: Event) -> Result<Enqueued, StoreError> {
    push_with(store, event, None).await
}

/// Enqueues one event with an idempotency key.
pub async fn push_with(store: &dyn Store, event: Event, idempotency: Option<Idempotency>) -> Result<Enqueued, StoreError> {
    let mut results = store.enqueue(vec![NewEvent { event, idempotency }]).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Claims a device's seat.
pub async fn claim(store: &dyn Store, device: &str, session: u128) -> Result<Claimed, StoreError> {
    claim_at(store, device, session, 0).await
}

/// Claims a device's seat for a login that read these credentials.
pub async fn claim_at(store: &dyn Store, device: &str, session: u128, credential_generation: u32) -> Result<Claimed, StoreError> {
    let session = NewSeat {
        session: SessionId(session),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: START,
        credential_generation,
        fast: None,
    };
    store.claim(&key(device), session).await
}

/// Ends one delivery of a device of [`TENANT`].
pub async fn end(store: &dyn Store, device: &str, id: EventId, outcome: Outcome, at: Timestamp) -> Settled {
    let settle = Settle {
        device: key(device),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome,
        at,
        epoch: Some(Epoch(9)),
        told: None,
    };
    store.settle(vec![settle]).await.remove(0).unwrap()
}

/// Ids of all that waits for a device, in the order in which it is written.
pub async fn waiting(store: &dyn Store, device: &str) -> Vec<EventId> {
    let page = store.pending(&key(device), Cursor::default(), 1_000).await.unwrap();
    assert!(!page.more);
    page.events.iter().map(|event| event.id).collect()
}

async fn state(store: &dyn Store, id: EventId) -> Option<DeliveryState> {
    store.delivery(TENANT, id).await.unwrap().map(|delivery| delivery.state)
}

/// Sweeps until a pass is complete; sums up.
pub async fn sweep(store: &dyn Store, now: Timestamp) -> (u64, u64) {
    let (mut expired, mut dropped) = (0, 0);
    loop {
        let swept = store.sweep(now).await.unwrap();
        expired += swept.expired;
        dropped += swept.dropped;
        if swept.complete {
            return (expired, dropped);
        }
    }
}

/// An idempotency key and the body it came with.
fn idempotency(key: u8, body: u8) -> Option<Idempotency> {
    Some(Idempotency {
        key: [key; 16],
        body: [body; 16],
        is_copy: false,
    })
}

/// A password as it is stored.
fn secret(password: &str) -> Credential {
    Credential::Scram(ScramSecret::derive(&Password(password.to_owned()), 1).unwrap())
}

/// Runs every suite on an engine: `$new` is an expression that makes a [`Bench`].
macro_rules! run_contract {
    ($new:expr) => {
        $crate::store::contract::run_contract!($new;
            an_event_waits_until_it_is_acknowledged,
            events_keep_their_order_and_high_goes_first,
            pages_follow_the_cursor,
            lanes_count_from_one_without_holes,
            a_repeat_returns_the_first_id_and_its_state,
            an_idempotency_key_is_free_again_when_its_time_is_over,
            a_newer_event_replaces_what_waits,
            a_full_queue_refuses_and_stores_nothing,
            an_unknown_or_removed_device_takes_nothing,
            an_event_of_ttl_zero_is_stored_nowhere,
            arrivals_name_the_holder_of_the_seat,
            a_watch_is_woken_by_what_is_stored_for_its_device,
            the_newest_session_takes_the_seat,
            a_late_goodbye_leaves_the_newer_seat,
            changed_credentials_refuse_a_claim,
            seats_of_many_are_answered_in_order,
            the_feed_tells_every_step_of_a_seat_once_and_in_order,
            seats_that_a_dead_node_left_are_told_at_a_pace_and_once,
            the_feed_is_kept_so_long_and_so_much_of_it,
            a_final_state_is_never_changed,
            a_late_acknowledgement_is_kept_as_an_outcome,
            an_event_is_known_at_every_moment,
            an_outcome_ends_what_requires_one_and_nothing_less_does,
            delivered_becomes_processed_once_and_a_refusal_after_it_is_kept,
            receipts_of_a_device_come_in_the_order_of_one_step,
            an_event_wanted_again_waits_out_its_pause_and_goes_to_the_tail,
            what_is_put_off_again_and_again_fails_or_expires,
            what_is_wanted_later_comes_with_the_next_session,
            an_event_put_off_can_be_replaced_cancelled_and_repeated,
            a_scheduled_event_comes_when_it_is_due_and_once,
            what_is_due_comes_in_order_of_its_time_and_then_of_acceptance,
            a_scheduled_event_is_replaced_replaces_and_is_cancelled,
            a_scheduled_event_has_its_place_in_the_quota_and_keeps_its_key,
            a_scheduled_event_expires_behind_its_time_and_goes_with_its_device,
            expired_events_are_not_delivered_and_are_swept,
            records_are_dropped_when_their_time_is_over,
            deliveries_are_listed_newest_first,
            a_foreign_tenant_sees_nothing,
            a_device_ends_no_event_of_another,
            a_batch_is_answered_in_order,
            a_device_is_put_patched_and_listed,
            devices_are_found_by_their_user,
            a_filter_is_looked_through_in_bounded_steps,
            a_removed_device_fails_what_waits,
            a_device_that_returns_is_a_new_one,
            credentials_have_a_bound_and_a_generation,
            keys_and_tenants_answer_from_memory,
            tenants_come_and_go_under_numbers_that_no_other_has,
            a_key_is_rotated_in_one_step,
            when_a_key_was_used_is_noted_and_goes_with_the_key,
            changes_are_told_in_the_order_of_time,
            the_audit_log_is_kept_so_long_and_so_much_of_it,
            fast_tokens_ride_the_claim_and_go_with_credentials_and_device,
            what_a_device_reports_is_kept_until_it_goes,
            receipts_tell_every_end_in_order,
            a_receipt_tells_what_the_device_says_however_long,
            ledger_minutes_add_up,
            everything_durable_survives_a_reopening,
            epochs_and_numbers_rise_over_a_reopening,
            a_webhook_is_changed_only_as_it_was_read,
            one_at_a_time_serves_a_webhook,
            what_a_webhook_did_not_take_is_kept,
            webhooks_follow_the_receipts_of_their_tenant,
            the_webhooks_of_a_tenant_go_with_it,
            a_group_has_one_copy_in_each_queue,
            a_group_left_unfinished_is_completed_once,
            an_idempotency_key_stands_for_one_group,
            a_copy_is_replaced_by_a_copy_of_its_target_alone,
            a_copy_that_no_queue_takes_is_told_of,
            a_copy_is_put_off_scheduled_and_expires_as_others_do,
        );
    };
    ($new:expr; $($suite:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $suite() {
                $crate::store::contract::$suite($new).await;
            }
        )*
    };
}
pub(crate) use run_contract;
