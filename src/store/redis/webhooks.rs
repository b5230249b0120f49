//! Webhooks: all of them, and their work, in the slot of what all nodes share.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use serde::de::DeserializeOwned;

use super::{
    RedisStore,
    keys::{SHARED, Slot},
    mover,
    reply::{self, Reply},
    script,
    shards::Route,
    shared::json,
};
use crate::{
    domain::TenantId,
    store::{Records, Stepped, StoreError, Unsent, Webhook, WebhookStep, WebhookWork, Webhooks, codec::damaged},
};

/// Reads a row: revision, space, JSON.
fn read_webhook(row: &[u8]) -> Result<Webhook, StoreError> {
    let json = row.iter().position(|byte| *byte == b' ').and_then(|at| row.get(at + 1..));
    read(json.unwrap_or_default(), "a webhook")
}

fn write_webhook(webhook: &Webhook) -> Result<Vec<u8>, StoreError> {
    let mut row = format!("{} ", webhook.revision).into_bytes();
    row.extend(json(webhook)?);
    Ok(row)
}

fn read<T: DeserializeOwned>(row: &[u8], what: &'static str) -> Result<T, StoreError> {
    serde_json::from_slice(row).map_err(|_| damaged(what))
}

fn read_unsent(rows: Value) -> Result<Vec<Unsent>, StoreError> {
    const WHAT: &str = "receipts that a webhook did not take";
    let Value::Array(rows) = rows else { return Err(damaged(WHAT)) };
    let row = |row| read(&reply::bytes(row).ok_or_else(|| damaged(WHAT))?, WHAT);
    rows.into_iter().map(row).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Keys of one webhook.
struct Names {
    all: String,
    state: String,
    waiting: String,
    dead: String,
}

impl RedisStore {
    fn names(&self, id: &str) -> Names {
        let keys = &self.shared.keys;
        Names {
            all: keys.shared("webhooks"),
            state: keys.shared(&format!("webhook:{id}")),
            waiting: keys.shared(&format!("webhook:{id}:waiting")),
            dead: keys.shared(&format!("webhook:{id}:dead")),
        }
    }

    /// All that are stored.
    async fn stored_webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let rows = self.shared_read("HGETALL", &[&self.names("").all]).await?;
        let rows = reply::hash(rows, "webhooks")?;
        rows.iter().map(|(_, row)| read_webhook(row)).collect()
    }

    /// Takes away the webhooks of tenants that were removed, with all that waits for them. Answers how many.
    pub(super) async fn sweep_webhooks(&self) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for webhook in self.stored_webhooks().await? {
            if self.shared.is_gone(webhook.tenant()) {
                dropped += u64::from(self.change_webhook(&webhook.id, Some(webhook.revision), None).await?);
            }
        }
        Ok(dropped)
    }

    async fn shared_read(&self, name: &str, arguments: &[&str]) -> Result<Value, StoreError> {
        let make = |_| {
            let mut cmd = redis::cmd(name);
            for argument in arguments {
                cmd.arg(*argument);
            }
            cmd
        };
        self.shared.shards.ask(Route::read(Slot::of(SHARED)), make).await
    }
}

#[async_trait]
impl Webhooks for RedisStore {
    async fn webhooks(&self, tenant: Option<TenantId>) -> Result<Vec<Webhook>, StoreError> {
        let mut found = self.stored_webhooks().await?;
        found.retain(|webhook| tenant.is_none_or(|tenant| tenant == webhook.tenant()) && !self.shared.is_gone(webhook.tenant()));
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    async fn change_webhook(&self, id: &str, revision: Option<u64>, to: Option<Webhook>) -> Result<bool, StoreError> {
        let names = self.names(id);
        let keys = [
            names.all,
            names.state,
            names.waiting,
            names.dead,
            self.shared.keys.shared("tenants"),
        ];
        let tenant = to.as_ref().map(|to| to.tenant.to_string()).unwrap_or_default();
        let row = to.as_ref().map(write_webhook).transpose()?.unwrap_or_default();
        let revision = revision.map(|revision| revision.to_string()).unwrap_or_default();
        let make = |_| {
            let mut cmd = script::WEBHOOK.call(&keys);
            cmd.arg(id).arg(&revision).arg(&row).arg(&tenant);
            cmd
        };
        let answer = self.shared.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        Ok(reply::int(&answer) == Some(1))
    }

    async fn lease_webhook(&self, id: &str, holder: &str, lasts: Duration) -> Result<Option<u64>, StoreError> {
        let names = self.names(id);
        let keys = [names.all, names.state];
        let make = |_| {
            let mut cmd = script::WEBHOOK_LEASE.call(&keys);
            cmd.arg(id).arg(holder).arg(millis(lasts));
            cmd
        };
        // What must not be lost is the fence: a server that takes over without it would give it out again.
        let answer = self.shared.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        let fence = reply::int(&answer).and_then(|fence| u64::try_from(fence).ok());
        Ok(fence.filter(|fence| *fence > 0))
    }

    async fn webhook_work(&self, id: &str) -> Result<WebhookWork, StoreError> {
        let names = self.names(id);
        let progress = self.shared_read("HGET", &[&names.state, "progress"]).await?;
        let progress = reply::bytes(progress)
            .map(|row| read(&row, "the progress of a webhook"))
            .transpose()?;
        let waiting = read_unsent(self.shared_read("ZRANGE", &[&names.waiting, "0", "-1"]).await?)?;
        let dead = reply::int(&self.shared_read("ZCARD", &[&names.dead]).await?);
        Ok(WebhookWork {
            progress: progress.unwrap_or_default(),
            waiting,
            dead_letters: dead.and_then(|dead| u64::try_from(dead).ok()).unwrap_or(0),
        })
    }

    async fn step_webhook(&self, id: &str, fence: u64, lasts: Duration, step: &WebhookStep, dead_max: u64) -> Result<Stepped, StoreError> {
        let names = self.names(id);
        let keys = [names.state, names.waiting, names.dead];
        let progress = json(&step.progress)?;
        let rows = |unsent: &[Unsent]| {
            let row = |unsent: &Unsent| Ok((unsent.receipt.position, json(unsent)?));
            unsent.iter().map(row).collect::<Result<Vec<_>, StoreError>>()
        };
        let (waiting, dead) = (rows(&step.waiting)?, rows(&step.dead)?);
        let make = |_| {
            let mut cmd = script::WEBHOOK_STEP.call(&keys);
            cmd.arg(fence).arg(millis(lasts)).arg(&progress).arg(dead_max);
            cmd.arg(step.done.len()).arg(waiting.len()).arg(dead.len());
            for position in &step.done {
                cmd.arg(position);
            }
            for (position, row) in waiting.iter().chain(&dead) {
                cmd.arg(position).arg(row);
            }
            cmd
        };
        let answer = self.shared.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        let mut answer = Reply::new(answer, "a step of a webhook")?;
        let redriven = answer.int()?;
        if redriven < 0 {
            return Ok(Stepped::Lost);
        }
        Ok(Stepped::Made {
            redriven: redriven > 0,
            dropped: answer.count()?,
        })
    }

    async fn dead_letters(&self, id: &str, after: u64, limit: usize) -> Result<Vec<Unsent>, StoreError> {
        let (dead, from) = (self.names(id).dead, format!("({after}"));
        let arguments = [&dead, &from, "+inf", "LIMIT", "0", &limit.to_string()];
        read_unsent(self.shared_read("ZRANGEBYSCORE", &arguments).await?)
    }

    async fn redrive(&self, id: &str, letters: &[Unsent], waiting_max: u64) -> Result<u64, StoreError> {
        let names = self.names(id);
        let keys = [names.state, names.waiting, names.dead];
        let rows: Vec<(u64, Vec<u8>)> = letters
            .iter()
            .map(|letter| Ok((letter.receipt.position, json(letter)?)))
            .collect::<Result<_, StoreError>>()?;
        let make = |_| {
            let mut cmd = script::WEBHOOK_REDRIVE.call(&keys);
            cmd.arg(waiting_max);
            for (position, row) in &rows {
                cmd.arg(position).arg(row);
            }
            cmd
        };
        let answer = self.shared.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        let put = reply::int(&answer).and_then(|put| u64::try_from(put).ok());
        put.ok_or_else(|| damaged("the answer to a redrive"))
    }

    async fn newest_receipt(&self, tenant: TenantId) -> Result<u64, StoreError> {
        mover::round(self).await?;
        Ok(self.receipt_bounds(tenant).await?.newest)
    }
}
