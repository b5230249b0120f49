//! The seats of dead nodes are ended, so that the feed of presence tells of their devices.
//!
//! A node that the others have not heard is counted as lost: its life is written into a table, and should it live after all, it goes on
//! as another life of its name. One node at a time ends the seats of that life, bucket by bucket; how many buckets are done is written
//! beside it, and another node goes on from there. Each seat is ended in one step that looks whether it is still that life's, so that two
//! nodes which do it for a moment tell nothing twice.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use redis::Value;

use super::{
    RedisStore, Shared, feed,
    keys::{self, BUCKETS, SHARED, Slot},
    loss::{Loss, read_losses},
    mover::{Log, Rows},
    nodes::milliseconds,
    reply::Reply,
    script,
    shards::Route,
};
use crate::{
    domain::{Clock as _, Departure, DeviceId, TenantId},
    store::{DeviceKey, Ended, StoreError, codec::damaged},
};

/// How long a node ends seats before another may, if it says nothing meanwhile.
const FOR: Duration = Duration::from_secs(5);
/// Devices of one step, at most.
const DEVICES: usize = 200;
/// Buckets at once, at most.
const TOGETHER: usize = 8;
/// Devices that are looked at for one seat that may be ended: most devices have their seats elsewhere.
const LOOKS: usize = 10;

/// Where to go on in a bucket.
#[derive(Debug, Clone)]
struct Place {
    tenant: TenantId,
    after: Vec<u8>,
}

/// Where the last round stopped: buckets below `done` are done, and of the others those that have no place any more.
#[derive(Default)]
pub(super) struct Round {
    of: Option<(u16, u32)>,
    done: u16,
    begun: BTreeMap<u16, Option<Place>>,
}

/// What a round may still do.
struct Budget {
    seats: AtomicUsize,
    looks: AtomicUsize,
    /// Devices of one step: so few that all buckets that are worked on have their part.
    step: usize,
}

impl Budget {
    fn of(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            seats: AtomicUsize::new(limit),
            looks: AtomicUsize::new(limit.saturating_mul(LOOKS).max(usize::from(BUCKETS))),
            step: (limit / TOGETHER).clamp(1, DEVICES),
        }
    }

    /// Takes as many devices as both allow; 0: the round is over.
    fn take(&self) -> usize {
        let most = self.step;
        let take = |from: &AtomicUsize, most: usize| {
            let mut taken = 0;
            let change = |left: usize| {
                taken = left.min(most);
                Some(left - taken)
            };
            // The change never declines.
            let _ = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
            taken
        };
        let looks = take(&self.looks, most);
        let seats = take(&self.seats, looks);
        self.looks.fetch_add(looks - seats, Ordering::Relaxed);
        seats
    }

    /// Of so many that were taken, so many devices were looked at (a step is one look at least), and so many seats ended.
    fn used(&self, taken: usize, looked: usize, ended: usize) {
        self.looks.fetch_add(taken.saturating_sub(looked.max(1)), Ordering::Relaxed);
        self.seats.fetch_add(taken.saturating_sub(ended), Ordering::Relaxed);
    }
}

impl Shared {
    fn losses_keys(&self) -> [String; 3] {
        [
            self.keys.shared("nodes"),
            self.keys.shared("losses"),
            self.keys.shared("ends-seats"),
        ]
    }

    /// Counts as lost what seems to be, and asks to be the one who ends seats. `None`: another is.
    async fn take_losses(&self) -> Result<Option<Vec<Loss>>, StoreError> {
        let (number, incarnation) = self.nodes.me();
        let keys = self.losses_keys();
        let seem_lost = self.nodes.seem_lost();
        let make = |_| {
            let mut cmd = script::LOSSES.call(&keys);
            cmd.arg(format!("{number}:{incarnation}")).arg(milliseconds(FOR));
            for (number, incarnation) in &seem_lost {
                cmd.arg(*number).arg(&incarnation.to_be_bytes());
            }
            cmd
        };
        let value = self.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        let mut reply = Reply::new(value, "the table of lost nodes")?;
        if reply.int()? == 0 {
            return Ok(None);
        }
        let losses = read_losses(reply.next()?)?;
        self.nodes.know_losses(losses.clone());
        Ok(Some(losses))
    }

    /// Writes how far the seats of a lost node are ended.
    async fn put_loss(&self, loss: Loss, done: u16) -> Result<(), StoreError> {
        let (number, incarnation) = self.nodes.me();
        let keys = self.losses_keys();
        let done = if done >= BUCKETS { "done".to_owned() } else { done.to_string() };
        let make = |_| {
            let mut cmd = script::LOSS.call(&keys);
            cmd.arg(format!("{number}:{incarnation}"))
                .arg(format!("{}:{}", loss.number, loss.incarnation))
                .arg(loss.number)
                .arg(&loss.incarnation.to_be_bytes())
                .arg(&done);
            cmd
        };
        self.shards.ask(Route::durable(Slot::of(SHARED)), make).await.map(|_| ())
    }

    /// Tells every tenant that the node is lost: once, whoever tells it how many times.
    async fn tell_loss(&self, loss: Loss, tenants: &[TenantId]) -> Result<(), StoreError> {
        let row = feed::node_lost(loss.number, self.clock.now());
        for tenant in tenants {
            let source = format!("n{}", loss.number);
            let mut rows = Rows::default();
            rows.push(u64::from(loss.incarnation), &row)?;
            self.append(*tenant, Log::Feed, &source, &rows).await?;
        }
        Ok(())
    }

    /// Ends the seats that the node has among some devices of a bucket; answers how many.
    async fn lose(&self, loss: Loss, bucket: u16, tenant: TenantId, names: &[Vec<u8>]) -> Result<usize, StoreError> {
        let mut keys = vec![self.keys.bucket(Log::Feed.outbox(), bucket)];
        for name in names {
            let device: Option<DeviceId> = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            let device = device.ok_or_else(|| damaged("the name of a device"))?;
            keys.push(self.keys.device('p', &DeviceKey { tenant, device }));
        }
        let node = [&loss.number.to_be_bytes()[..], &loss.incarnation.to_be_bytes()].concat();
        let head = feed::left(self.clock.now(), Departure::NodeLost);
        let of_tenant = keys::members_of(tenant);
        let make = |_| {
            let mut cmd = script::LOSE.call(&keys);
            cmd.arg(&node).arg(&head).arg(&of_tenant);
            for name in names {
                cmd.arg(name);
            }
            cmd
        };
        let lost = match self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await? {
            Value::Int(lost) => usize::try_from(lost).unwrap_or(0),
            _ => return Err(damaged("the answer to the end of seats")),
        };
        if lost > 0 {
            self.touch_feed(bucket);
        }
        Ok(lost)
    }

    /// A part of a bucket. Answers how many seats were ended, and where to go on.
    async fn end_in_bucket(
        &self,
        loss: Loss,
        bucket: u16,
        place: Option<Place>,
        tenants: &[TenantId],
        budget: &Budget,
    ) -> Result<(usize, Option<Place>), StoreError> {
        let mut ended = 0;
        let (first, mut after) = match place {
            Some(place) => (place.tenant, place.after),
            None => (TenantId(0), b"-".to_vec()),
        };
        for tenant in tenants.iter().copied().filter(|tenant| *tenant >= first) {
            if tenant != first {
                after = b"-".to_vec();
            }
            loop {
                let most = budget.take();
                if most == 0 {
                    return Ok((ended, Some(Place { tenant, after })));
                }
                let names = self.names(bucket, tenant, &after, most).await?;
                let lost = if names.is_empty() {
                    0
                } else {
                    self.lose(loss, bucket, tenant, &names).await?
                };
                ended += lost;
                budget.used(most, names.len(), lost);
                match names.last().filter(|_| names.len() >= most) {
                    Some(last) => after = [b"(", last.as_slice()].concat(),
                    None => break,
                }
            }
        }
        Ok((ended, None))
    }
}

/// One bounded round.
pub(super) async fn round(store: &RedisStore, limit: usize) -> Result<Ended, StoreError> {
    // One round at a time; whoever comes second waits for its turn.
    let mut round = store.losses.lock().await;
    let shared = &store.shared;
    let nothing_to_do = !shared.nodes.has_open_losses() && shared.nodes.seem_lost().is_empty();
    if nothing_to_do || !shared.nodes.may_claim() {
        *round = Round::default();
        return Ok(Ended::default());
    }
    let Some(losses) = shared.take_losses().await? else {
        // Whoever does it may die, so that this node is to go on.
        *round = Round::default();
        return Ok(Ended { seats: 0, more: true });
    };
    let Some((loss, done)) = losses.iter().find_map(|loss| Some((*loss, loss.done?))) else {
        return Ok(Ended::default());
    };
    let tenants: Vec<TenantId> = shared.memory.tenants.read().keys().map(|tenant| TenantId(*tenant)).collect();
    if round.of != Some((loss.number, loss.incarnation)) {
        shared.tell_loss(loss, &tenants).await?;
        *round = Round {
            of: Some((loss.number, loss.incarnation)),
            done,
            begun: BTreeMap::new(),
        };
    }
    let budget = Budget::of(limit);
    let open: Vec<(u16, Option<Place>)> = (round.done..BUCKETS)
        .filter_map(|bucket| match round.begun.get(&bucket) {
            Some(None) => None,
            Some(Some(place)) => Some((bucket, Some(place.clone()))),
            None => Some((bucket, None)),
        })
        .collect();
    let mut parts = stream::iter(open)
        .map(|(bucket, place)| {
            let (budget, tenants) = (&budget, &tenants);
            async move { (bucket, shared.end_in_bucket(loss, bucket, place, tenants, budget).await) }
        })
        .buffer_unordered(limit.clamp(1, TOGETHER));
    let (mut seats, mut failed) = (0, None);
    while let Some((bucket, part)) = parts.next().await {
        match part {
            Ok((ended, place)) => {
                seats += ended;
                round.begun.insert(bucket, place);
            }
            Err(error) => failed = Some(error),
        }
    }
    drop(parts);
    while let Some(None) = round.begun.get(&round.done) {
        let done = round.done;
        round.begun.remove(&done);
        round.done += 1;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if round.done > done {
        shared.put_loss(loss, round.done).await?;
    }
    if round.done >= BUCKETS {
        tracing::info!("every seat of the lost node n{} is ended", loss.number);
        *round = Round::default();
    }
    Ok(Ended {
        seats: seats as u64,
        more: true,
    })
}
