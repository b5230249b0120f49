//! The numbers that stand for words in records: never changed, only added to.

use crate::{
    domain::{Cohort, DeliveryState, Departure, Reason, Urgency},
    store::{ChangeKind, Transport},
};

pub(in crate::store) fn urgency_code(urgency: Urgency) -> u8 {
    match urgency {
        Urgency::VeryLow => 0,
        Urgency::Low => 1,
        Urgency::Normal => 2,
        Urgency::High => 3,
    }
}

pub(in crate::store) fn urgency(code: u8) -> Option<Urgency> {
    Some(match code {
        0 => Urgency::VeryLow,
        1 => Urgency::Low,
        2 => Urgency::Normal,
        3 => Urgency::High,
        _ => return None,
    })
}

pub(in crate::store) fn state_code(state: DeliveryState) -> u8 {
    match state {
        DeliveryState::Accepted => 0,
        DeliveryState::Scheduled => 1,
        DeliveryState::Queued => 2,
        DeliveryState::Dispatched => 3,
        DeliveryState::Delivered => 4,
        DeliveryState::Processed => 5,
        DeliveryState::Expired => 6,
        DeliveryState::Replaced => 7,
        DeliveryState::Cancelled => 8,
        DeliveryState::Rejected => 9,
        DeliveryState::Failed => 10,
        DeliveryState::NoTarget => 11,
    }
}

pub(in crate::store) fn state(code: u8) -> Option<DeliveryState> {
    DeliveryState::ALL.into_iter().find(|state| state_code(*state) == code)
}

pub(in crate::store) fn reason_code(reason: Option<Reason>) -> u8 {
    match reason {
        None => 0,
        Some(Reason::Poison) => 1,
        Some(Reason::DeviceRemoved) => 2,
        Some(Reason::DeviceError) => 3,
        Some(Reason::DeviceFailed) => 4,
        Some(Reason::DeviceRejected) => 5,
        Some(Reason::TooManyAttempts) => 6,
        Some(Reason::QueueFull) => 7,
    }
}

pub(in crate::store) fn reason(code: u8) -> Option<Option<Reason>> {
    Some(match code {
        0 => None,
        1 => Some(Reason::Poison),
        2 => Some(Reason::DeviceRemoved),
        3 => Some(Reason::DeviceError),
        4 => Some(Reason::DeviceFailed),
        5 => Some(Reason::DeviceRejected),
        6 => Some(Reason::TooManyAttempts),
        7 => Some(Reason::QueueFull),
        _ => return None,
    })
}

pub(in crate::store) fn cohort_code(cohort: Cohort) -> u8 {
    match cohort {
        Cohort::Push => 0,
        Cohort::Poll => 1,
        Cohort::Control => 2,
    }
}

pub(in crate::store) fn cohort(code: u8) -> Option<Cohort> {
    [Cohort::Push, Cohort::Poll, Cohort::Control]
        .into_iter()
        .find(|cohort| cohort_code(*cohort) == code)
}

pub(in crate::store) fn transport_code(transport: Transport) -> u8 {
    match transport {
        Transport::Xmpp => 0,
        Transport::Xmpps => 1,
        Transport::WebSocket => 2,
    }
}

pub(in crate::store) fn transport(code: u8) -> Option<Transport> {
    Transport::ALL.into_iter().find(|transport| transport_code(*transport) == code)
}

/// 0 stands for none. Scripts of Redis write `conflict` as 6 by themselves.
pub(in crate::store) fn departure_code(departure: Option<Departure>) -> u8 {
    match departure {
        None => 0,
        Some(Departure::Stream) => 1,
        Some(Departure::Lost) => 2,
        Some(Departure::Silent) => 3,
        Some(Departure::Old) => 4,
        Some(Departure::Stalled) => 5,
        Some(Departure::Conflict) => 6,
        Some(Departure::Shutdown) => 7,
        Some(Departure::Removed) => 8,
        Some(Departure::Tls) => 9,
        Some(Departure::Full) => 10,
        Some(Departure::Expired) => 11,
        Some(Departure::Bug) => 12,
        Some(Departure::NodeLost) => 13,
    }
}

pub(in crate::store) fn departure(code: u8) -> Option<Option<Departure>> {
    if code == 0 {
        return Some(None);
    }
    Departure::ALL
        .into_iter()
        .map(Some)
        .find(|departure| departure_code(*departure) == code)
}

/// Scripts of Redis write `connected` and `disconnected` by themselves.
pub(in crate::store) fn change_code(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Connected => 1,
        ChangeKind::Disconnected => 2,
        ChangeKind::NodeLost => 3,
    }
}

pub(in crate::store) fn change(code: u8) -> Option<ChangeKind> {
    ChangeKind::ALL.into_iter().find(|kind| change_code(*kind) == code)
}
