//! Posts: what they ask for, and whether they are answered as they are owed.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        Data, DeliveryState, Durability, Enqueued, EnqueuedKind, EventId, Idempotency, NewEvent, Require, StoreError, Timestamp, Urgency,
    },
    Difference, World, differ,
    known::{Coming, Owed},
    run::Run,
    step::{DEVICES, Post, is_copy},
};
use crate::domain::Event;

impl<W: World> Run<W> {
    /// Whose session must be told of what is stored for a device.
    pub(super) fn owes_arrival(&mut self, device: usize, id: EventId) {
        if let Some(holder) = self.reference.devices[device].holder.as_ref().filter(|holder| !holder.ghost) {
            self.owed.push((holder.node, id));
        }
    }

    /// The event that a post asks for.
    pub(super) fn coming(&mut self, node: usize, post: &Post) -> (Coming, NewEvent) {
        let device = post.device % DEVICES;
        self.posted += 1;
        let now = self.now(node);
        let later = |secs: i64| Timestamp(now.0.saturating_add_signed(secs * 1_000));
        let json: Arc<str> = format!(r#"{{"n":{},"x":"{}"}}"#, self.posted, "x".repeat(post.bytes)).into();
        let coming = Coming {
            device,
            json: Arc::clone(&json),
            urgency: Urgency::ALL[post.urgency % 4],
            require: [Require::Acknowledged, Require::Received, Require::Processed][post.require % 3],
            ttl_secs: post.ttl_secs,
            collapse: post.collapse,
            key: post.key,
            deliver_at: post.deliver_in.map(later),
            at: now,
        };
        let key = self.key(device);
        let event = Event {
            tenant: key.tenant,
            device: key.device,
            accepted_at: coming.at,
            deliver_at: coming.deliver_at,
            ttl: Duration::from_secs(post.ttl_secs),
            urgency: coming.urgency,
            collapse_key: post.collapse.map(|key| format!("k{key}").into()),
            require: coming.require,
            json: Data(json),
        };
        let idempotency = post.key.map(|(key, body)| Idempotency {
            key: [key; 16],
            body: [body; 16],
            is_copy: is_copy(key),
        });
        (coming, NewEvent { event, idempotency })
    }

    pub(super) async fn post(&mut self, node: usize, posts: &[Post]) -> Result<(), Difference> {
        let (coming, events): (Vec<_>, Vec<_>) = posts.iter().map(|post| self.coming(node, post)).unzip();
        let answers = self.calls(node).enqueue(events).await;
        if answers.len() != coming.len() {
            return differ(format!("{} posts have {} answers", coming.len(), answers.len()));
        }
        for (coming, answer) in coming.iter().zip(answers) {
            self.answered(node, coming, answer).await?;
        }
        Ok(())
    }

    /// A post has its answer.
    pub(super) async fn answered(&mut self, node: usize, coming: &Coming, answer: Result<Enqueued, StoreError>) -> Result<(), Difference> {
        let mut owed = self.reference.owed(coming);
        if !fits(coming, &owed, &answer) && self.reference.forget_key(coming) {
            owed = self.reference.owed(coming);
        }
        if !fits(coming, &owed, &answer) {
            return differ(format!("{coming:?} is owed {owed:?}, and was answered with {answer:?}"));
        }
        let Ok(done) = answer else { return Ok(()) };
        self.is_held(coming.device, done.seat.as_ref())?;
        match owed {
            Owed::New => {
                let replaced = self.accepted(node, coming, done.id).await?;
                if replaced != done.replaced {
                    return differ(format!("{replaced:?} are replaced; the answer names {:?}", done.replaced));
                }
                if coming.deliver_at.is_none() {
                    self.owes_arrival(coming.device, done.id);
                }
            }
            Owed::Passed => {
                let expected = if done.seat.is_some() {
                    DeliveryState::Accepted
                } else {
                    DeliveryState::NoTarget
                };
                if done.state != expected || done.durability != Durability::None {
                    return differ(format!("what is stored nowhere was answered with {done:?}"));
                }
                self.owes_arrival(coming.device, done.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// An event is stored under that id.
    pub(super) async fn accepted(&mut self, node: usize, coming: &Coming, id: EventId) -> Result<Vec<EventId>, Difference> {
        let (store, key) = (self.world.store(node), self.key(coming.device));
        let located = store.locate(key.tenant, id);
        let right = |place: &crate::domain::Located| place.queue == Some(crate::domain::Queue::of(coming.urgency));
        let Some(place) = located.filter(right) else {
            return differ(format!("the id of {coming:?} names the place {located:?}"));
        };
        let replaced = self.reference.accept(coming, id, place.number)?;
        let seq = match store.delivery(key.tenant, id).await {
            Ok(Some(delivery)) => delivery.seq.0,
            other => return differ(format!("{coming:?} was accepted, and is not there: {other:?}")),
        };
        match (coming.deliver_at, seq) {
            (Some(_), 0) => {}
            (Some(_), seq) => return differ(format!("{coming:?} has the number {seq} before it is due")),
            (None, seq) => self.reference.number_in_lane(self.reference.events.len() - 1, seq)?,
        }
        Ok(replaced)
    }
}

/// Whether an answer is what a post is owed.
fn fits(coming: &Coming, owed: &Owed, answer: &Result<Enqueued, StoreError>) -> bool {
    match (owed, answer) {
        (Owed::Unknown, Err(StoreError::UnknownDevice)) | (Owed::Removed, Err(StoreError::RemovedDevice)) => true,
        (Owed::Full(count, size), Err(StoreError::QueueFull { events, bytes })) => (count, size) == (events, bytes),
        (Owed::Reused(id), Err(StoreError::KeyReused(first))) => id == first,
        (Owed::Repeat(id, state), Ok(done)) => (EnqueuedKind::Repeat, id, state) == (done.kind, &done.id, &done.state),
        (Owed::New, Ok(done)) => done.kind == EnqueuedKind::New && done.state == coming.waits_as(),
        (Owed::Passed, Ok(done)) => done.kind == EnqueuedKind::New,
        _ => false,
    }
}
