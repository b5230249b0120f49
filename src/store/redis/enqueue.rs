//! Enqueue: an event goes into the queue of its device, or passes it.

use super::{
    Shared,
    keys::{self, Slot},
    record::{self, NewRecord},
    reply::{Packed, Reply, p48, u48},
    script,
    seat::{self},
    shards::Route,
};
use crate::{
    domain::{Clock as _, DeliveryState, Durability, EventId, Lane, Located, Queue, Seq},
    store::{Arrival, DeviceKey, Enqueued, EnqueuedKind, NewEvent, QueuedEvent, StoreError, codes},
};

/// What the script answers, and has changed nothing, when it needs the row of the device: at its first event.
const ORDINAL_UNKNOWN: u8 = 6;

impl Shared {
    pub(super) async fn enqueue_one(&self, new: NewEvent) -> Result<Enqueued, StoreError> {
        let device = DeviceKey {
            tenant: new.event.tenant,
            device: new.event.device.clone(),
        };
        if new.event.ttl.is_zero() {
            return self.pass(&device, new).await;
        }
        let NewEvent { event, idempotency } = new;
        let record = NewRecord::of(&event, idempotency.as_ref())?;
        let (bucket, queue) = (device.bucket(), Queue::of(event.urgency));
        let mut keys = vec![
            self.keys.device('p', &device),
            self.keys.device('q', &device),
            self.keys.bucket('n', bucket),
            self.keys.bucket('z', bucket),
        ];
        let script = if event.deliver_at.is_some() {
            keys.extend([
                self.keys.device('s', &device),
                self.keys.bucket('o', bucket),
                self.keys.device('d', &device),
                self.keys.bucket('w', bucket),
            ]);
            &script::SCHEDULE
        } else if idempotency.is_some() || event.collapse_key.is_some() {
            keys.extend([self.keys.device('s', &device), self.keys.bucket('o', bucket)]);
            &script::ENQUEUE_KEYED
        } else {
            &script::ENQUEUE
        };
        let now = self.clock.now();
        let data = record::pack_data(&event.json.0);
        let id_length = u8::try_from(device.device.as_str().len()).unwrap_or(u8::MAX);
        let name_length = u8::try_from(keys::member(&device).len()).unwrap_or(u8::MAX);
        let make = |keys: &[String], floor: u64| {
            let fixed = [
                &keys::field(queue, 0)[..1],
                &[seat::lane_at(codes::urgency_code(event.urgency))],
                &record.head,
                &p48(now.0),
                &p48(floor),
                &p48(self.limits.idempotency_kept_secs.saturating_mul(1000)),
                &u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes(),
                &self.limits.queue_max_events.to_be_bytes(),
                &p48(self.limits.queue_max_bytes),
                &device.tenant.0.to_be_bytes(),
                &[id_length, name_length],
                idempotency.as_ref().map_or(&[][..], |idempotency| &idempotency.body),
                &record.rest,
            ];
            let mut cmd = script.call(keys);
            cmd.arg(fixed.concat()).arg(&*data);
            cmd
        };
        let route = Route {
            // With a key the second time is answered as the first.
            repeatable: idempotency.is_some(),
            ..Route::durable(Slot::of_bucket(bucket))
        };
        // Asked before it is written: the level may rise meanwhile.
        let durability = self.durability();
        let mut answer = self.shards.ask(route, |floor| make(&keys, floor)).await?;
        if Packed::new(&answer, "the answer to enqueue")?.byte()? == ORDINAL_UNKNOWN {
            keys.push(self.keys.device('d', &device));
            answer = self.shards.ask(route, |floor| make(&keys, floor)).await?;
        }
        let mut packed = Packed::new(&answer, "the answer to enqueue")?;
        match packed.byte()? {
            0 => Err(StoreError::UnknownDevice),
            1 => Err(StoreError::RemovedDevice),
            found @ (2 | 3) => {
                let owner = self.owner(&device, packed.u32()?);
                let (queue, number) = keys::read_field(packed.bytes(7)?).ok_or_else(|| packed.damaged())?;
                let id = owner.id(queue, number);
                if found == 2 {
                    return Err(StoreError::KeyReused(id));
                }
                let state = codes::state(packed.byte()?).ok_or_else(|| packed.damaged())?;
                let seat = self.live_seat(packed.rest()).await;
                if state == DeliveryState::Queued {
                    // The first time may have told nobody: it was written, and its answer was lost or came too late.
                    self.tell(
                        seat.as_ref(),
                        |_| Some(Arrival::READ_FIRST),
                        || QueuedEvent {
                            id,
                            located: owner.located(queue, number),
                            lane: Lane::Queue(event.urgency, self.generation()),
                            seq: Seq(0),
                            attempt: 1,
                            event: event.clone(),
                        },
                    );
                }
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::Repeat,
                    durability,
                    state,
                    seat,
                    replaced: Vec::new(),
                })
            }
            4 => Err(StoreError::QueueFull {
                events: packed.u32()?,
                bytes: packed.u48()?,
            }),
            5 => {
                let owner = self.owner(&device, packed.u32()?);
                let (number, seq) = (packed.u48()?, packed.u48()?);
                let (ended, place) = (packed.byte()?, packed.bytes(7)?);
                let replaced = match ended {
                    // What had expired already was not replaced.
                    0 | 2 => None,
                    _ => Some(keys::read_field(place).ok_or_else(|| packed.damaged())?),
                };
                if ended == 0 {
                    self.counters.came(bucket);
                } else {
                    self.touch(bucket);
                }
                let seat = self.live_seat(packed.rest()).await;
                let id = owner.id(queue, number);
                let replaced: Vec<EventId> = replaced.into_iter().map(|(queue, number)| owner.id(queue, number)).collect();
                if event.deliver_at.is_some() {
                    return Ok(Enqueued {
                        id,
                        kind: EnqueuedKind::New,
                        durability,
                        state: DeliveryState::Scheduled,
                        seat,
                        replaced,
                    });
                }
                self.counters.accepted(event.accepted_at);
                self.watches.wake([&device]);
                self.announce(seat.as_ref(), || QueuedEvent {
                    id,
                    located: owner.located(queue, number),
                    lane: Lane::Queue(event.urgency, self.generation()),
                    seq: Seq(seq),
                    attempt: 1,
                    event: event.clone(),
                });
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::New,
                    durability,
                    state: DeliveryState::Queued,
                    seat,
                    replaced,
                })
            }
            _ => Err(packed.damaged()),
        }
    }

    /// An event with a TTL of 0: to whoever holds the seat now, or to nobody.
    pub(super) async fn pass(&self, device: &DeviceKey, new: NewEvent) -> Result<Enqueued, StoreError> {
        let event = new.event;
        let keys = [self.keys.device('d', device), self.keys.device('p', device)];
        let make = |_| {
            let mut cmd = script::PASS.call(&keys);
            cmd.arg(event.accepted_at.0);
            cmd
        };
        let route = Route::quick(Slot::of_bucket(device.bucket()));
        let mut reply = Reply::new(self.shards.ask(route, make).await?, "the answer to enqueue")?;
        match reply.int()? {
            0 => return Err(StoreError::UnknownDevice),
            1 => return Err(StoreError::RemovedDevice),
            _ => {}
        }
        let owner = self.owner(device, u32::from_be_bytes(reply.array()?));
        let number = u48(&reply.array::<6>()?).ok_or_else(|| reply.damaged())?;
        let seat = self.live_seat(&reply.bytes()?).await;
        let located = Located {
            queue: None,
            ..owner.located(Queue::Rest, number)
        };
        let id = self.ids.seal(located);
        self.announce(seat.as_ref(), || QueuedEvent {
            id,
            located,
            lane: Lane::Now(self.generation()),
            seq: Seq(number),
            attempt: 1,
            event,
        });
        Ok(Enqueued {
            id,
            kind: EnqueuedKind::New,
            durability: Durability::None,
            state: if seat.is_some() {
                DeliveryState::Accepted
            } else {
                DeliveryState::NoTarget
            },
            seat,
            replaced: Vec::new(),
        })
    }
}
