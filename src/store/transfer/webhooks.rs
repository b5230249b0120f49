//! Webhooks in an export: with their secrets, how far the sending is, and what waits. Dead letters stay behind.

use serde::{Deserialize, Serialize};

use super::{Row, RowPage, Taken};
use crate::store::{Stepped, StoreError, Unsent, Webhook, WebhookDisabled, WebhookEnd, WebhookProgress, WebhookStep, Webhooks};

/// A webhook, and its work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookRow {
    /// The webhook. Its secrets are in it.
    pub webhook: Webhook,
    /// How far the sending is.
    pub progress: WebhookProgress,
    /// Receipts that wait to be sent again.
    pub waiting: Vec<Unsent>,
}

/// Who takes the lease for an import.
const IMPORT: &str = "import";

/// One webhook a page; `after` is the id of the one before.
pub(in crate::store) async fn exported(store: &dyn Webhooks, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
    let after = after.unwrap_or_default();
    let mut behind = store
        .webhooks(None)
        .await?
        .into_iter()
        .filter(|webhook| webhook.id.as_bytes() > after.as_slice());
    let mut page = RowPage::default();
    if let Some(webhook) = behind.next() {
        let work = store.webhook_work(&webhook.id).await?;
        page.next = behind.next().map(|_| webhook.id.clone().into_bytes());
        page.rows.push(Row::Webhook(Box::new(WebhookRow {
            webhook,
            progress: work.progress,
            waiting: work.waiting,
        })));
    }
    Ok(page)
}

/// Takes one in. Until its work is there it is disabled, so that nobody serves it; one that is complete stays as it is.
pub(in crate::store) async fn imported(store: &dyn Webhooks, row: &WebhookRow) -> Result<Taken, StoreError> {
    let id = &row.webhook.id;
    let unready = Webhook {
        revision: 0,
        disabled: Some(WebhookDisabled {
            reason: WebhookEnd::Request,
            since: row.webhook.created_at,
        }),
        ..row.webhook.clone()
    };
    if !store.change_webhook(id, None, Some(unready)).await? {
        return Ok(Taken::Present);
    }
    let in_use = || StoreError::Conflict("the webhook is being changed".into());
    let fence = store
        .lease_webhook(id, IMPORT, std::time::Duration::from_secs(60))
        .await?
        .ok_or_else(in_use)?;
    let step = WebhookStep {
        progress: row.progress.clone(),
        waiting: row.waiting.clone(),
        ..WebhookStep::default()
    };
    match store.step_webhook(id, fence, std::time::Duration::ZERO, &step, u64::MAX).await? {
        Stepped::Made { .. } => {}
        Stepped::Lost => return Err(in_use()),
    }
    let ready = Webhook {
        revision: row.webhook.revision.max(1),
        ..row.webhook.clone()
    };
    if store.change_webhook(id, Some(0), Some(ready)).await? {
        Ok(Taken::Stored)
    } else {
        Err(in_use())
    }
}
