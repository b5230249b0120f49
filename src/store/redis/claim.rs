//! Claim and release: who holds the seat of a device.

use redis::Value;

use super::{
    Shared, feed,
    held::Goodbye,
    keys::{self, Slot},
    mover::Log,
    reply::{Reply, p48, u48},
    script,
    seat::{self, Holder},
    shards::Route,
};
use crate::{
    domain::Epoch,
    store::{Claimed, DeviceKey, Hint, NewSeat, StoreError, codec::damaged},
};

impl Shared {
    pub(super) async fn claim_seat(&self, device: &DeviceKey, session: &NewSeat) -> Result<Claimed, StoreError> {
        if !self.nodes.may_claim() {
            return Err(StoreError::Unavailable(
                "this node is cut off from the others and claims no seats".into(),
            ));
        }
        let (number, incarnation) = self.nodes.me();
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.device('q', device),
            self.keys.device('f', device),
            self.keys.bucket('w', bucket),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ];
        let mut seat = Holder::encode(session, number, incarnation);
        let member = keys::member(device);
        let mut tokens = match &session.fast {
            Some(_) => self.row('f', device).await?.unwrap_or_default(),
            None => Vec::new(),
        };
        loop {
            let changed = match &session.fast {
                Some(change) => super::registry::changed_tokens(&tokens, session.credential_generation, change)?,
                None => Vec::new(),
            };
            let make = |floor: u64| {
                let mut cmd = script::CLAIM.call(&keys);
                cmd.arg(&session.credential_generation.to_be_bytes())
                    .arg(&seat)
                    // Epochs are times: a seat that could not be claimed at once is as old as its session (`held`).
                    .arg(floor.max(session.at.0))
                    .arg(session.at.0)
                    .arg(&member)
                    .arg(u8::from(session.fast.is_some()))
                    .arg(&tokens)
                    .arg(&changed);
                cmd
            };
            let value = self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await?;
            let mut reply = Reply::new(value, "the answer to claim")?;
            match reply.int()? {
                0 => return Err(StoreError::UnknownDevice),
                1 => return Err(StoreError::RemovedDevice),
                2 => {
                    self.rows.forget(device);
                    return Err(StoreError::Conflict("the credentials of the device were changed".into()));
                }
                // Another login changed them meanwhile.
                3 => tokens = reply.bytes()?,
                4 => {
                    let epoch = Epoch(u48(&reply.array::<6>()?).ok_or_else(|| reply.damaged())?);
                    let displaced = self.live_seat(&reply.bytes()?).await.filter(|seat| seat.session != session.session);
                    let waiting = u32::try_from(reply.count()?).unwrap_or(u32::MAX);
                    self.touch_feed(bucket);
                    let me = self.nodes.me();
                    if me == (number, incarnation) {
                        self.held.take(device, epoch, seat);
                    } else {
                        // The others counted the node as lost meanwhile: the seat is that of its life now.
                        seat::put_node(&mut seat, me.0, me.1);
                        self.held.take(device, epoch, seat);
                        self.held.owe_claim(device);
                    }
                    if let Some(seat) = displaced.as_ref().filter(|seat| *seat.node != *self.nodes.name()) {
                        let (device, epoch) = (device.clone(), seat.epoch);
                        self.hint(&seat.node, Hint::Displaced { device, epoch });
                    }
                    return Ok(Claimed { epoch, displaced, waiting });
                }
                _ => return Err(reply.damaged()),
            }
        }
    }

    pub(super) async fn release_seat(&self, device: &DeviceKey, goodbye: Goodbye) -> Result<bool, StoreError> {
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ];
        let (head, member) = (feed::left(goodbye.at, goodbye.why), keys::member(device));
        let make = |_| {
            let mut cmd = script::RELEASE.call(&keys);
            cmd.arg(&p48(goodbye.epoch.0)).arg(goodbye.last_seen_at.0).arg(&head).arg(&member);
            cmd
        };
        let value = self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await?;
        match value {
            Value::Int(0) => Err(StoreError::UnknownDevice),
            Value::Int(1) => Err(StoreError::RemovedDevice),
            Value::Int(2) => Ok(false),
            Value::Int(3) => {
                self.touch_feed(bucket);
                Ok(true)
            }
            _ => Err(damaged("the answer to release")),
        }
    }
}
