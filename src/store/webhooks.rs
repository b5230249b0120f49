//! Webhooks: whom a tenant's receipts are sent to, how far that is, and what could not be sent.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Mailbox, Receipt, Records, StoreError};
use crate::domain::{DeliveryState, Gap, Generation, TenantId, Timestamp};

/// A secret that messages are signed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSecret {
    /// `whsec_` and Base64, as its receiver has it.
    pub text: String,
    /// Until when it signs, too, after another took its place. `None`: it is the one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecret(***, until {:?})", self.until)
    }
}

/// Why nothing is sent to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookEnd {
    /// Its tenant said so.
    Request,
    /// Its receiver answered 410.
    Gone,
    /// Every attempt failed for too long.
    Failing,
}

impl WebhookEnd {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Request, Self::Gone, Self::Failing];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

/// Since when a webhook is disabled, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookDisabled {
    /// Why.
    pub reason: WebhookEnd,
    /// Since when.
    pub since: Timestamp,
}

/// A webhook as its tenant wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id: `wh_` and 16 characters, the same in no two tenants.
    pub id: String,
    /// Whose it is.
    pub tenant: u16,
    /// Where to.
    pub url: String,
    /// The states that are sent. Empty: all.
    pub states: Vec<DeliveryState>,
    /// Secrets that sign, the newest first.
    pub secrets: Vec<WebhookSecret>,
    /// Set while nothing is sent.
    pub disabled: Option<WebhookDisabled>,
    /// Receipts behind this position of the tenant's log are sent.
    pub begins_behind: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its tenant last changed it.
    pub updated_at: Timestamp,
    /// When it was last enabled.
    pub enabled_at: Timestamp,
    /// Rises with every change of this row.
    pub revision: u64,
}

impl Webhook {
    /// Whose it is.
    pub fn tenant(&self) -> TenantId {
        TenantId(self.tenant)
    }
}

/// How far the sending is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookProgress {
    /// All receipts up to this position were sent, or wait in rows of their own. `None`: it has not begun.
    pub cursor: Option<u64>,
    /// The life of the store that the cursor is of. `None`: its log was not looked into yet.
    pub generation: Option<Generation>,
    /// Receipts that are missing, and that the receiver is still to be told of, each with when that was found.
    pub gaps: Vec<(Gap, Timestamp)>,
    /// When the attempts began to fail, if none has succeeded since.
    pub failing_since: Option<Timestamp>,
    /// The last attempt that succeeded.
    pub delivered_at: Option<Timestamp>,
    /// What was wrong with the last one that did not.
    pub error: Option<String>,
    /// Webhooks of the tenant that were disabled and that this one was told of: id, and since when.
    pub told: Vec<(String, Timestamp)>,
}

/// A receipt that was not taken, and waits to be sent again or was given up. One that waits behind another of its device, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsent {
    /// The receipt.
    pub receipt: Receipt,
    /// When it was first to be sent.
    pub since: Timestamp,
    /// Attempts that failed.
    pub attempts: u32,
    /// When to send it again, or when it was given up.
    pub at: Timestamp,
    /// What was wrong the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is stored of the sending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebhookWork {
    /// How far it is.
    pub progress: WebhookProgress,
    /// What waits, oldest receipt first.
    pub waiting: Vec<Unsent>,
    /// How many were given up and are kept.
    pub dead_letters: u64,
}

/// A change of what is stored of the sending, made in one step. Making it twice comes to the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebhookStep {
    /// How far it is now.
    pub progress: WebhookProgress,
    /// Receipts that wait: new, or changed.
    pub waiting: Vec<Unsent>,
    /// Positions of those that wait no more.
    pub done: Vec<u64>,
    /// Those that were given up.
    pub dead: Vec<Unsent>,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was made.
    Made {
        /// Dead letters were put back among what waits since the lease was taken: read it anew.
        redriven: bool,
        /// Dead letters that were dropped, the oldest ones, because there were too many.
        dropped: u64,
    },
    /// Somebody else has the lease, or the webhook is gone: nothing was changed.
    Lost,
}

/// Webhooks. One node at a time serves one, by a lease.
#[async_trait]
pub trait Webhooks: Mailbox + Records {
    /// Those of a tenant, or all of all tenants, in order of their ids. A tenant that was removed has none.
    async fn webhooks(&self, tenant: Option<TenantId>) -> Result<Vec<Webhook>, StoreError>;

    /// Adds a webhook (`revision` `None`), changes the one of that revision, or with `to` `None` removes it with all that waits. False:
    /// it is not of that revision any more, or its tenant was removed; nothing was changed.
    async fn change_webhook(&self, id: &str, revision: Option<u64>, to: Option<Webhook>) -> Result<bool, StoreError>;

    /// Takes the lease of a webhook, if nobody else has it, and answers its fence: a number that no earlier holder had. A holder that
    /// asks again gets a new one. `None`: another has it, or there is no such webhook.
    async fn lease_webhook(&self, id: &str, holder: &str, lasts: Duration) -> Result<Option<u64>, StoreError>;

    /// What is stored of the sending.
    async fn webhook_work(&self, id: &str) -> Result<WebhookWork, StoreError>;

    /// Makes a step, if `fence` is that of the last who took the lease, and extends the lease; by nothing: gives it up. At most
    /// `dead_max` dead letters are kept.
    async fn step_webhook(&self, id: &str, fence: u64, lasts: Duration, step: &WebhookStep, dead_max: u64) -> Result<Stepped, StoreError>;

    /// Receipts that were given up, behind a position, oldest first.
    async fn dead_letters(&self, id: &str, after: u64, limit: usize) -> Result<Vec<Unsent>, StoreError>;

    /// Puts those dead letters back among what waits, as far as no more than `waiting_max` wait then; answers how many. Each as given
    /// here: as if it had never been tried.
    async fn redrive(&self, id: &str, letters: &[Unsent], waiting_max: u64) -> Result<u64, StoreError>;

    /// The newest position in the log of a tenant, with all that this process wrote before.
    async fn newest_receipt(&self, tenant: TenantId) -> Result<u64, StoreError>;
}
