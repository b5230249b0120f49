//! Events and deliveries as backends read them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::fate::Fate;
use crate::{
    domain::{DeliveryState, Epoch, EventId, Reason, Require, Seq, Timestamp, Urgency},
    store::{Delivery, SeatView, Transport},
};

/// An event with the counts of its deliveries.
#[derive(Serialize)]
pub(super) struct EventView {
    id: EventId,
    /// The event to several devices that it is one delivery of, when it was asked for by that delivery's own id.
    part_of: Option<EventId>,
    /// How many devices it has.
    targets: u64,
    state: DeliveryState,
    accepted_at: Timestamp,
    deliver_at: Option<Timestamp>,
    expires_at: Timestamp,
    urgency: Urgency,
    collapse_key: Option<String>,
    replaced_by: Option<EventId>,
    require: Require,
    deliveries: BTreeMap<&'static str, u64>,
}

impl EventView {
    /// `None`: nothing is known of it.
    pub fn new(fate: &Fate) -> Option<Self> {
        let count = |known: DeliveryState| {
            let of_state = fate.deliveries.iter().filter(|(_, state)| *state == known);
            (known.as_str(), of_state.count() as u64)
        };
        let replaced_by = fate.deliveries.iter().find_map(|(delivery, _)| delivery.replaced_by);
        let deliveries = DeliveryState::ALL.map(count).into();
        if let Some(group) = &fate.group {
            let record = &group.record;
            return Some(Self {
                id: fate.id,
                part_of: None,
                targets: record.members.len() as u64,
                state: fate.state(),
                accepted_at: record.accepted_at,
                deliver_at: record.deliver_at,
                expires_at: group.expires_at(),
                urgency: record.urgency,
                collapse_key: record.collapse_key.clone(),
                replaced_by,
                require: record.require,
                deliveries,
            });
        }
        let (delivery, state) = fate.deliveries.first()?;
        Some(Self {
            id: fate.id,
            part_of: delivery.group,
            targets: 1,
            state: *state,
            accepted_at: delivery.accepted_at,
            deliver_at: delivery.deliver_at,
            expires_at: delivery.expires_at,
            urgency: delivery.urgency,
            collapse_key: delivery.collapse_key.as_deref().map(str::to_owned),
            replaced_by,
            require: delivery.require,
            deliveries,
        })
    }
}

/// One delivery: one event at one device.
#[derive(Serialize)]
pub(super) struct DeliveryView {
    event: EventId,
    /// Under which its device knows it: another id where the event went to several devices.
    delivery: EventId,
    device: String,
    state: DeliveryState,
    reason: Option<Reason>,
    /// What the device said of it: `done`, `failed`, `rejected` or `later`; `late-ack`: it acknowledged after the end.
    outcome: Option<&'static str>,
    /// The device's own code, text and JSON.
    code: Option<String>,
    text: Option<String>,
    data: Option<Value>,
    replaced_by: Option<EventId>,
    /// 0, and no `seq`, while it is scheduled.
    attempt: u32,
    lane: String,
    seq: Option<Seq>,
    urgency: Urgency,
    accepted_at: Timestamp,
    deliver_at: Option<Timestamp>,
    expires_at: Timestamp,
    /// When it came into that state, as far as the store knows: its end, else its acceptance.
    at: Timestamp,
    session_epoch: Option<Epoch>,
    /// What is still to happen, while it waits.
    waits_for: Option<WaitsFor>,
    /// The session that it was written to, and not acknowledged yet.
    session: Option<SessionView>,
    #[serde(skip)]
    require: Require,
}

/// Why a delivery has not come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WaitsFor {
    /// The device has no session.
    Device,
    /// Its session has not been given it: it waits out a pause, the session is not ready, or has enough to acknowledge already.
    Session,
    /// The device has it: the acknowledgement of its XMPP library.
    Acknowledgement,
    /// The device has it: the receipt of its application.
    Receipt,
    /// The device has it: what it says that became of it.
    Outcome,
}

/// Who has the seat of the device.
#[derive(Serialize)]
struct SessionView {
    epoch: Epoch,
    node: String,
    transport: Transport,
    connected_at: Timestamp,
}

impl DeliveryView {
    /// The same with what it waits for, if it does.
    pub fn waiting(mut self, seat: Option<&SeatView>) -> Self {
        let Some(seat) = seat else { return self };
        let holder = seat.seat.as_ref();
        self.waits_for = match (self.state, holder) {
            (DeliveryState::Queued, None) => Some(WaitsFor::Device),
            (DeliveryState::Queued, Some(_)) => Some(WaitsFor::Session),
            (DeliveryState::Dispatched, _) => Some(match self.require {
                Require::Acknowledged => WaitsFor::Acknowledgement,
                Require::Received => WaitsFor::Receipt,
                Require::Processed => WaitsFor::Outcome,
            }),
            _ => None,
        };
        if let (DeliveryState::Dispatched, Some(holder)) = (self.state, holder) {
            self.session = Some(SessionView {
                epoch: holder.epoch,
                node: holder.node.to_string(),
                transport: holder.transport,
                connected_at: holder.connected_at,
            });
        }
        self
    }

    pub fn new(delivery: &Delivery, state: DeliveryState) -> Self {
        let told = delivery.told.as_deref();
        Self {
            event: delivery.group.unwrap_or(delivery.id),
            delivery: delivery.id,
            device: delivery.device.to_string(),
            state,
            reason: delivery.reason,
            outcome: told.map(|told| told.status.as_str()).or(delivery.late_ack.then_some("late-ack")),
            code: told.and_then(|told| told.code.as_deref()).map(str::to_owned),
            text: told.and_then(|told| told.text.as_deref()).map(str::to_owned),
            data: told.and_then(|told| told.data.clone()),
            replaced_by: delivery.replaced_by,
            attempt: delivery.attempt,
            lane: delivery.lane.to_string(),
            seq: Some(delivery.seq).filter(|seq| seq.0 > 0),
            urgency: delivery.urgency,
            accepted_at: delivery.accepted_at,
            deliver_at: delivery.deliver_at,
            expires_at: delivery.expires_at,
            at: delivery.ended_at.unwrap_or(match state {
                DeliveryState::Expired => delivery.expires_at,
                DeliveryState::Scheduled => delivery.accepted_at,
                // Once its time has come: then it was queued.
                _ => delivery.deliver_at.unwrap_or(delivery.accepted_at),
            }),
            session_epoch: delivery.session_epoch,
            waits_for: None,
            session: None,
            require: delivery.require,
        }
    }
}
