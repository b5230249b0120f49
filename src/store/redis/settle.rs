//! Settle: an event ends, or is put off.

use super::{
    Shared,
    keys::{self, Slot},
    record::{self, Ending},
    reply::{Packed, p48},
    script,
    shards::Route,
};
use crate::{
    domain::{Clock as _, Located, Outcome, Reason},
    store::{Settle, Settled, StoreError, codes},
};

/// What the script answers of an event that ended before, when more may have to be written.
const ENDED_BEFORE: u8 = 6;

impl Shared {
    pub(super) async fn settle_one(&self, settle: &Settle) -> Result<Settled, StoreError> {
        let device = &settle.device;
        let bucket = device.bucket();
        let is_there = settle.located.tenant == device.tenant && settle.located.bucket == bucket;
        let Some(queue) = settle.located.queue.filter(|_| is_there) else {
            return Ok(Settled::Unknown);
        };
        let field = keys::field(queue, settle.located.number);
        // A session may know it where it was before it was put at the tail again: the id tells where it was born.
        let born = match self.ids.open(settle.id) {
            Some(Located {
                queue: Some(queue),
                number,
                ..
            }) => keys::field(queue, number),
            _ => field,
        };
        let told = settle.told.as_deref();
        let now = self.clock.now();
        let kept_ms = self.limits.idempotency_kept_secs.saturating_mul(1000);
        let prefix = record::receipt_prefix(device.tenant, Some(settle.located.ordinal), &device.device);
        let ending = Ending::encode(settle.outcome, settle.at, settle.epoch, told)?;
        let given_up = Outcome::Failed(Reason::TooManyAttempts);
        let route = Route::durable(Slot::of_bucket(bucket));
        let answer = if let Outcome::Again { after, at_next_session } = settle.outcome {
            let keys = [
                self.keys.device('p', device),
                self.keys.device('q', device),
                self.keys.device('s', device),
                self.keys.bucket('o', bucket),
                self.keys.bucket('w', bucket),
                self.keys.bucket('n', bucket),
            ];
            let ending_given_up = Ending::encode(given_up, settle.at, settle.epoch, told)?;
            let member = keys::member(device);
            let make = |_| {
                let mut cmd = script::PUT_OFF.call(&keys);
                cmd.arg(&field)
                    .arg(&born)
                    .arg(&ending)
                    .arg(&ending_given_up)
                    .arg(self.limits.attempts_max)
                    .arg(settle.at.plus(after).0)
                    .arg(u8::from(at_next_session))
                    .arg(now.0)
                    .arg(kept_ms)
                    .arg(&prefix)
                    .arg(&member);
                cmd
            };
            self.shards.ask(route, make).await?
        } else {
            let kind = match settle.outcome {
                Outcome::Delivered => b"d",
                Outcome::Processed => b"p",
                _ => b"x",
            };
            let keys = [
                self.keys.device('q', device),
                self.keys.device('s', device),
                self.keys.bucket('o', bucket),
            ];
            // What a device says of it is bounded far below.
            let length = u16::try_from(ending.len()).unwrap_or(u16::MAX).to_be_bytes();
            let fixed = [kind, &field[..], &born, &p48(now.0), &p48(kept_ms), &length, &ending, &prefix].concat();
            let make = |_| {
                let mut cmd = script::SETTLE.call(&keys);
                cmd.arg(&fixed);
                cmd
            };
            let answer = self.shards.ask(route, make).await?;
            if Packed::new(&answer, "the answer to settle")?.byte()? == ENDED_BEFORE {
                let keys = [
                    self.keys.device('s', device),
                    self.keys.bucket('o', bucket),
                    self.keys.bucket('n', bucket),
                ];
                let make = |_| {
                    let mut cmd = script::LATE.call(&keys);
                    cmd.arg(&kind[..]).arg(&born).arg(&ending).arg(&prefix);
                    cmd
                };
                self.shards.ask(route, make).await?
            } else {
                answer
            }
        };
        let mut packed = Packed::new(&answer, "the answer to settle")?;
        match packed.byte()? {
            0 => Ok(Settled::Unknown),
            1 => {
                let (waited, expires_at) = record::times(packed.bytes(12)?, settle.at).ok_or_else(|| packed.damaged())?;
                let urgency = codes::urgency(packed.byte()?).ok_or_else(|| packed.damaged())?;
                self.counters.went(bucket, 1);
                let outcome = if packed.byte()? == 0 { settle.outcome } else { given_up };
                self.touch(bucket);
                Ok(Settled::Now {
                    outcome,
                    waited,
                    urgency,
                    expires_at,
                })
            }
            2 => {
                self.touch(bucket);
                Ok(Settled::Again)
            }
            3 => Ok(Settled::OutcomeWanted),
            4 => {
                self.touch(bucket);
                let state = codes::state(packed.byte()?).ok_or_else(|| packed.damaged())?;
                Ok(Settled::Before(state))
            }
            _ => Err(packed.damaged()),
        }
    }
}
