//! The audit log: a sorted set a tenant, entries in JSON by their positions.

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore, Shared,
    keys::{self, Slot},
    reply, script,
    shards::Route,
    shared::json,
};
use crate::{
    domain::{AuditEntry, TenantId, Timestamp},
    store::{
        AuditLog, StoreError, audit_position,
        codec::damaged,
        transfer::{AuditRow, Taken},
    },
};

/// Entries that are dropped in one step.
const TOGETHER: u64 = 1_000;

fn unreadable() -> StoreError {
    damaged("the audit log")
}

fn number(text: Value) -> Option<u64> {
    std::str::from_utf8(&reply::bytes(text)?).ok()?.parse().ok()
}

impl Shared {
    fn audit_key(&self, tenant: TenantId) -> (String, Slot) {
        (self.keys.tenant(tenant, "audit"), Slot::of(&keys::tenant_tag(tenant)))
    }

    /// Writes an entry; in the place of `before`, if that is there. Answers its position.
    async fn write_audit(&self, tenant: TenantId, least: u64, row: &[u8], before: &[u8]) -> Result<u64, StoreError> {
        let (key, slot) = self.audit_key(tenant);
        let keys = [key];
        let make = |_| {
            let mut cmd = script::AUDIT.call(&keys);
            cmd.arg(least).arg(row).arg(before);
            cmd
        };
        number(self.shards.ask(Route::durable(slot), make).await?).ok_or_else(unreadable)
    }

    pub(super) async fn read_audit(
        &self,
        tenant: TenantId,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let (key, slot) = self.audit_key(tenant);
        let make = |_| {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(&key).arg(from).arg(format!("({to}")).arg("BYSCORE");
            cmd.arg("LIMIT").arg(0).arg(limit).arg("WITHSCORES");
            cmd
        };
        let Value::Array(found) = self.shards.ask(Route::read(slot), make).await? else {
            return Err(unreadable());
        };
        let (mut entries, mut found) = (Vec::with_capacity(found.len() / 2), found.into_iter());
        while let Some(row) = found.next() {
            let row = reply::bytes(row).ok_or_else(unreadable)?;
            let position = found.next().and_then(number).ok_or_else(unreadable)?;
            entries.push((position, serde_json::from_slice(&row).map_err(|_| unreadable())?));
        }
        Ok(entries)
    }

    /// What is too old or too much goes. Answers how many.
    pub(super) async fn trim_audit(&self, tenant: TenantId, now: Timestamp) -> Result<u64, StoreError> {
        let (key, slot) = self.audit_key(tenant);
        let (max, kept_secs) = (self.limits.audit_max, self.limits.audit_kept_secs);
        let old = audit_position(Timestamp((now.0 + 1).saturating_sub(kept_secs.saturating_mul(1_000))));
        let count = async |cmd: &[&str]| {
            let make = |_| {
                let mut made = redis::cmd(cmd.first().copied().unwrap_or_default());
                made.arg(&key);
                for argument in cmd.iter().skip(1) {
                    made.arg(*argument);
                }
                made
            };
            let answer = self.shards.ask(Route::read(slot), make).await?;
            let count = reply::int(&answer).and_then(|count| u64::try_from(count).ok());
            count.ok_or_else(unreadable)
        };
        let mut dropped = 0;
        loop {
            let too_old = count(&["ZCOUNT", "-inf", &format!("({old}")]).await?;
            let too_many = count(&["ZCARD"]).await?.saturating_sub(max);
            let go = too_old.max(too_many).min(TOGETHER);
            let Some(last) = go.checked_sub(1) else { return Ok(dropped) };
            let make = |_| {
                let mut cmd = redis::cmd("ZRANGE");
                cmd.arg(&key).arg(last).arg(last).arg("WITHSCORES");
                cmd
            };
            let Value::Array(found) = self.shards.ask(Route::read(slot), make).await? else {
                return Err(unreadable());
            };
            // Another node trims, too.
            let Some(up_to) = found.into_iter().nth(1) else {
                return Ok(dropped);
            };
            let up_to = number(up_to).ok_or_else(unreadable)?;
            // By position: a repeat of it drops nothing else.
            let make = |_| {
                let mut cmd = redis::cmd("ZREMRANGEBYSCORE");
                cmd.arg(&key).arg("-inf").arg(up_to);
                cmd
            };
            let went = self.shards.ask(Route::quick(slot), make).await?;
            dropped += reply::int(&went).and_then(|went| u64::try_from(went).ok()).ok_or_else(unreadable)?;
        }
    }

    pub(super) async fn import_audit(&self, rows: &[AuditRow]) -> Result<Taken, StoreError> {
        let Some(first) = rows.first() else { return Ok(Taken::Present) };
        let (key, slot) = self.audit_key(TenantId(first.tenant));
        let members = rows.iter().map(|row| json(&row.entry)).collect::<Result<Vec<_>, _>>()?;
        let make = |_| {
            let mut cmd = redis::cmd("ZADD");
            cmd.arg(&key).arg("NX");
            for (row, member) in rows.iter().zip(&members) {
                cmd.arg(row.position).arg(member);
            }
            cmd
        };
        let added = self.shards.ask(Route::durable(slot), make).await?;
        Ok(if added == Value::Int(0) { Taken::Present } else { Taken::Stored })
    }
}

#[async_trait]
impl AuditLog for RedisStore {
    async fn begin_audit(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, StoreError> {
        self.shared.write_audit(tenant, audit_position(entry.at), &json(entry)?, &[]).await
    }

    async fn end_audit(&self, tenant: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), StoreError> {
        let written = self.shared.write_audit(tenant, position, &json(ended)?, &json(begun)?).await;
        written.map(|_| ())
    }

    async fn audit(&self, tenant: TenantId, from: u64, to: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.shared.read_audit(tenant, from, to, limit).await
    }
}
