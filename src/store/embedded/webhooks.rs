//! Webhooks. Their leases are in RAM: one process has the store.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    EmbeddedStore,
    draft::Draft,
    engine::{Engine, Space},
    keys,
    op::Op,
    registry::is_removed,
    steps::Book,
};
use crate::{
    domain::{TenantId, Timestamp},
    store::{Records, Stepped, StoreError, Unsent, Webhook, WebhookProgress, WebhookStep, WebhookWork, Webhooks, codec::damaged},
};

/// What the writer is asked to do with a webhook.
pub(super) enum Step {
    Change(String, Option<u64>, Option<Box<Webhook>>),
    Lease(String, String, Duration),
    Work {
        id: String,
        fence: u64,
        lasts: Duration,
        step: Box<WebhookStep>,
        dead_max: u64,
    },
    Redrive(String, Vec<Unsent>, u64),
}

/// What it found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Done {
    Changed(bool),
    Leased(Option<u64>),
    Stepped(Stepped),
    Redriven(u64),
}

/// Who serves a webhook.
#[derive(Default)]
pub(super) struct Lease {
    holder: String,
    fence: u64,
    until: Timestamp,
    redriven: bool,
}

/// Leases by the ids of their webhooks.
pub(super) type Leases = HashMap<String, Lease>;

fn encode(row: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(row).map_err(|error| StoreError::Corrupt(error.to_string().into()))
}

fn decode<T: DeserializeOwned>(row: &[u8], what: &'static str) -> Result<T, StoreError> {
    serde_json::from_slice(row).map_err(|_| damaged(what))
}

fn decode_webhook(row: &[u8]) -> Result<Webhook, StoreError> {
    decode(row, "a webhook")
}

fn decode_unsent(row: &[u8]) -> Result<Unsent, StoreError> {
    decode(row, "a receipt that a webhook did not take")
}

impl Book {
    pub(super) fn webhook(&mut self, draft: &mut Draft<'_>, step: &Step) -> Result<Done, StoreError> {
        match step {
            Step::Change(id, revision, to) => self.change_webhook(draft, id, *revision, to.as_deref()).map(Done::Changed),
            Step::Lease(id, holder, lasts) => self.lease_webhook(draft, id, holder, *lasts).map(Done::Leased),
            Step::Work {
                id,
                fence,
                lasts,
                step,
                dead_max,
            } => self.step_webhook(draft, id, *fence, *lasts, step, *dead_max).map(Done::Stepped),
            Step::Redrive(id, letters, waiting_max) => self.redrive(draft, id, letters, *waiting_max).map(Done::Redriven),
        }
    }

    fn change_webhook(&mut self, draft: &mut Draft<'_>, id: &str, revision: Option<u64>, to: Option<&Webhook>) -> Result<bool, StoreError> {
        let key = keys::webhook(id);
        let is = draft.get(Space::Rows, &key)?.map(|row| decode_webhook(&row)).transpose()?;
        if is.as_ref() == to {
            // The step was made before, and its answer lost.
            return Ok(true);
        }
        if is.map(|is| is.revision) != revision {
            return Ok(false);
        }
        match to {
            Some(webhook) if is_removed(draft, webhook.tenant())? => return Ok(false),
            Some(webhook) => draft.put(Space::Rows, key, encode(webhook)?),
            None => self.forget_webhook(draft, id)?,
        }
        draft.must_sync();
        Ok(true)
    }

    /// Takes a webhook away, and all that waits for it.
    fn forget_webhook(&mut self, draft: &mut Draft<'_>, id: &str) -> Result<(), StoreError> {
        draft.remove(Space::Rows, keys::webhook(id));
        draft.remove(Space::Rows, keys::webhook_progress(id));
        for prefix in [keys::webhook_waiting(id, None), keys::webhook_dead(id, None)] {
            for row in draft.prefix(Space::Rows, &prefix)?.into_keys() {
                draft.remove(Space::Rows, row);
            }
        }
        // Whoever serves it finds at its next step that the lease is lost.
        self.webhook_leases.remove(id);
        Ok(())
    }

    /// Takes all webhooks of a tenant away.
    pub(super) fn forget_webhooks(&mut self, draft: &mut Draft<'_>, tenant: TenantId) -> Result<(), StoreError> {
        for row in draft.prefix(Space::Rows, keys::WEBHOOK)?.into_values() {
            let webhook = decode_webhook(&row)?;
            if webhook.tenant() == tenant {
                self.forget_webhook(draft, &webhook.id)?;
            }
        }
        Ok(())
    }

    fn lease_webhook(&mut self, draft: &Draft<'_>, id: &str, holder: &str, lasts: Duration) -> Result<Option<u64>, StoreError> {
        if draft.get(Space::Rows, &keys::webhook(id))?.is_none() {
            return Ok(None);
        }
        let lease = self.webhook_leases.entry(id.to_owned()).or_default();
        if lease.holder != holder && lease.until > self.now {
            return Ok(None);
        }
        holder.clone_into(&mut lease.holder);
        lease.fence += 1;
        lease.redriven = false;
        lease.until = self.now.plus(lasts);
        Ok(Some(lease.fence))
    }

    fn step_webhook(
        &mut self,
        draft: &mut Draft<'_>,
        id: &str,
        fence: u64,
        lasts: Duration,
        step: &WebhookStep,
        dead_max: u64,
    ) -> Result<Stepped, StoreError> {
        let Some(lease) = self.webhook_leases.get_mut(id).filter(|lease| lease.fence == fence) else {
            return Ok(Stepped::Lost);
        };
        lease.until = self.now.plus(lasts);
        let redriven = lease.redriven;
        // Nothing of it needs a sync: what a power cut takes is sent again, and all of a step goes together.
        let (key, row) = (keys::webhook_progress(id), encode(&step.progress)?);
        if draft.get(Space::Rows, &key)?.is_none_or(|known| *known != *row) {
            draft.put(Space::Rows, key, row);
        }
        for position in &step.done {
            draft.remove(Space::Rows, keys::webhook_waiting(id, Some(*position)));
        }
        for unsent in &step.waiting {
            let key = keys::webhook_waiting(id, Some(unsent.receipt.position));
            draft.put(Space::Rows, key, encode(unsent)?);
        }
        let mut dropped = 0;
        if !step.dead.is_empty() {
            for letter in &step.dead {
                draft.put(Space::Rows, keys::webhook_dead(id, Some(letter.receipt.position)), encode(letter)?);
            }
            let all = draft.prefix(Space::Rows, &keys::webhook_dead(id, None))?;
            dropped = (all.len() as u64).saturating_sub(dead_max);
            for (key, _) in all.into_iter().zip(0..dropped).map(|(row, _)| row) {
                draft.remove(Space::Rows, key);
            }
        }
        Ok(Stepped::Made { redriven, dropped })
    }

    fn redrive(&mut self, draft: &mut Draft<'_>, id: &str, letters: &[Unsent], waiting_max: u64) -> Result<u64, StoreError> {
        let waiting = draft.prefix(Space::Rows, &keys::webhook_waiting(id, None))?.len() as u64;
        let mut put = 0;
        for letter in letters {
            let key = keys::webhook_dead(id, Some(letter.receipt.position));
            if waiting + put >= waiting_max || draft.get(Space::Rows, &key)?.is_none() {
                continue;
            }
            draft.remove(Space::Rows, key);
            draft.put(
                Space::Rows,
                keys::webhook_waiting(id, Some(letter.receipt.position)),
                encode(letter)?,
            );
            put += 1;
        }
        if put > 0 {
            draft.must_sync();
            self.webhook_leases.entry(id.to_owned()).or_default().redriven = true;
        }
        Ok(put)
    }
}

fn unsent(engine: &Engine, prefix: &[u8]) -> Result<Vec<Unsent>, StoreError> {
    engine.prefix(Space::Rows, prefix).map(|row| decode_unsent(&row?.1)).collect()
}

/// All that are stored, in order of their ids.
fn stored(engine: &Engine) -> Result<Vec<Webhook>, StoreError> {
    engine
        .prefix(Space::Rows, keys::WEBHOOK)
        .map(|row| decode_webhook(&row?.1))
        .collect()
}

impl EmbeddedStore {
    /// Takes away what tenants that were removed left, as they did in earlier versions. Answers how many webhooks.
    pub(super) async fn sweep_webhooks(&self) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for webhook in self.shared.read(stored)? {
            if self.shared.is_gone(webhook.tenant()) {
                dropped += u64::from(self.change_webhook(&webhook.id, Some(webhook.revision), None).await?);
            }
        }
        Ok(dropped)
    }

    async fn ask_of_webhook(&self, step: Step) -> Result<Done, StoreError> {
        self.ask(|answer| Op::Webhook(step, answer)).await?
    }
}

/// An answer to another question: a bug.
fn mixed_up<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the writer answered something else".into()))
}

#[async_trait]
impl Webhooks for EmbeddedStore {
    async fn webhooks(&self, tenant: Option<TenantId>) -> Result<Vec<Webhook>, StoreError> {
        self.shared.read(|engine| {
            let mut found = stored(engine)?;
            found.retain(|webhook| tenant.is_none_or(|tenant| tenant == webhook.tenant()) && !self.shared.is_gone(webhook.tenant()));
            Ok(found)
        })
    }

    async fn change_webhook(&self, id: &str, revision: Option<u64>, to: Option<Webhook>) -> Result<bool, StoreError> {
        match self.ask_of_webhook(Step::Change(id.to_owned(), revision, to.map(Box::new))).await? {
            Done::Changed(changed) => Ok(changed),
            _ => mixed_up(),
        }
    }

    async fn lease_webhook(&self, id: &str, holder: &str, lasts: Duration) -> Result<Option<u64>, StoreError> {
        match self.ask_of_webhook(Step::Lease(id.to_owned(), holder.to_owned(), lasts)).await? {
            Done::Leased(fence) => Ok(fence),
            _ => mixed_up(),
        }
    }

    async fn webhook_work(&self, id: &str) -> Result<WebhookWork, StoreError> {
        self.shared.read(|engine| {
            let progress = engine.get(Space::Rows, &keys::webhook_progress(id))?;
            let progress: Option<WebhookProgress> = progress.map(|row| decode(&row, "the progress of a webhook")).transpose()?;
            Ok(WebhookWork {
                progress: progress.unwrap_or_default(),
                waiting: unsent(engine, &keys::webhook_waiting(id, None))?,
                dead_letters: engine.prefix(Space::Rows, &keys::webhook_dead(id, None)).count() as u64,
            })
        })
    }

    async fn step_webhook(&self, id: &str, fence: u64, lasts: Duration, step: &WebhookStep, dead_max: u64) -> Result<Stepped, StoreError> {
        let step = Step::Work {
            id: id.to_owned(),
            fence,
            lasts,
            step: Box::new(step.clone()),
            dead_max,
        };
        match self.ask_of_webhook(step).await? {
            Done::Stepped(stepped) => Ok(stepped),
            _ => mixed_up(),
        }
    }

    async fn dead_letters(&self, id: &str, after: u64, limit: usize) -> Result<Vec<Unsent>, StoreError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        self.shared.read(|engine| {
            let (from, to) = (keys::webhook_dead(id, Some(from)), keys::webhook_dead(id, Some(u64::MAX)));
            engine
                .range(Space::Rows, &from, &to)
                .take(limit)
                .map(|row| decode_unsent(&row?.1))
                .collect()
        })
    }

    async fn redrive(&self, id: &str, letters: &[Unsent], waiting_max: u64) -> Result<u64, StoreError> {
        match self
            .ask_of_webhook(Step::Redrive(id.to_owned(), letters.to_vec(), waiting_max))
            .await?
        {
            Done::Redriven(put) => Ok(put),
            _ => mixed_up(),
        }
    }

    async fn newest_receipt(&self, tenant: TenantId) -> Result<u64, StoreError> {
        Ok(self.receipt_bounds(tenant).await?.newest)
    }
}
