//! Events that go to the store together.

use futures_util::future::join_all;

use super::{super::Parts, outcome::Outcome};
use crate::{
    domain::Refusal,
    store::{DeviceKey, EnqueuedKind, NewEvent, Registered},
};

/// An event that waits for the store.
pub(super) struct Waiting {
    pub index: usize,
    pub new: NewEvent,
}

/// What became of it.
pub(super) struct Done {
    pub index: usize,
    pub outcome: Outcome,
}

/// Stores them in order, or with `validate_only` looks whether they could be. One answer each, in order.
pub(super) async fn store(parts: &Parts, group: Vec<Waiting>, validate_only: bool) -> Vec<Done> {
    let indexes: Vec<usize> = group.iter().map(|waiting| waiting.index).collect();
    let events: Vec<NewEvent> = group.into_iter().map(|waiting| waiting.new).collect();
    let room = parts.admission.group(events.len()).await;
    // What stops meanwhile takes nothing more.
    let room = room.and_then(|room| parts.draining().map_or(Ok(room), Err));
    let outcomes = match room {
        Err(refusal) => vec![Outcome::Refused(refusal); events.len()],
        Ok(_room) if validate_only => join_all(events.into_iter().map(|new| valid(parts, new))).await,
        Ok(_room) => enqueue(parts, events).await,
    };
    let missing = || Outcome::Refused(Refusal::Internal("the store gave no answer".into()));
    let outcomes = outcomes.into_iter().chain(std::iter::repeat_with(missing));
    let done = |(index, outcome)| Done { index, outcome };
    indexes.into_iter().zip(outcomes).map(done).collect()
}

async fn enqueue(parts: &Parts, events: Vec<NewEvent>) -> Vec<Outcome> {
    let devices: Vec<_> = events.iter().map(|new| new.event.device.clone()).collect();
    let waiting = parts.throttle.shed.wait(events.len());
    let answers = parts.store.enqueue(events).await;
    drop(waiting);
    let mut away = None;
    let mut outcomes = Vec::with_capacity(answers.len());
    for (answer, device) in answers.into_iter().zip(&devices) {
        if let Ok(enqueued) = &answer
            && enqueued.kind == EnqueuedKind::New
        {
            parts.metrics.accepted(enqueued);
            if !enqueued.replaced.is_empty() {
                (parts.replaced)(enqueued.replaced.len() as u64);
            }
        }
        outcomes.push(Outcome::of(answer, device, &mut away));
    }
    outcomes
}

async fn valid(parts: &Parts, new: NewEvent) -> Outcome {
    match parts.look(new).await {
        Ok(()) => Outcome::Valid,
        Err(refusal) => Outcome::Refused(refusal),
    }
}

impl Parts {
    /// `validate_only`: everything is checked but the room in the queue, and nothing is stored.
    pub(in super::super) async fn look(&self, new: NewEvent) -> Result<(), Refusal> {
        let key = DeviceKey {
            tenant: new.event.tenant,
            device: new.event.device,
        };
        match self.store.device(&key).await {
            Ok(Registered::Present(_)) => Ok(()),
            Ok(Registered::Removed(_)) => Err(Refusal::RemovedDevice(key.device)),
            Ok(Registered::Unknown) => Err(Refusal::UnknownDevice(key.device)),
            Err(error) => Err(error.refusal(&key.device)),
        }
    }
}
