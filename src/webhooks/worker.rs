//! Serves one webhook, for as long as this node has its lease.

mod reading;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Shared, backoff,
    message::Message,
    notices::{Notice, Notices},
    queue::Queue,
    sender::{Attempt, Verdict},
    url_in_logs,
};
use crate::{
    domain::Timestamp,
    store::{Stepped, StoreError, Unsent, Webhook, WebhookDisabled, WebhookEnd, WebhookProgress, WebhookStep},
};

/// Receipts read at once.
const PAGE: usize = 200;
/// When a store that did not answer is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long the last requests may take when the node stops or the webhook ends here.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A receiver that took nothing for so long and takes something now is back: nothing need wait for its own time any more.
const OUTAGE: Duration = Duration::from_secs(60);
/// What waited for it is sent within so long then.
const HURRY_WITHIN: Duration = Duration::from_secs(5);
/// How often a change of the webhook's row is tried that others change, too.
const TRIES: usize = 5;

/// A webhook as the keeper sees it now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Served {
    pub(super) webhook: Arc<Webhook>,
    /// Webhooks of the same tenant that the service disabled.
    pub(super) disabled: Vec<(Arc<Webhook>, WebhookDisabled)>,
}

/// What the keeper reads of a worker, for gauges.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) waiting: AtomicU64,
    /// When the oldest receipt that is to be sent came to its state; 0: there is none.
    pub(super) oldest: AtomicU64,
}

/// Why a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// It is not wanted any more here, or is to read everything anew.
    Told,
    /// The webhook is to be disabled.
    Disable(WebhookEnd),
}

/// What was sent.
enum Sent {
    Receipt(Box<Unsent>),
    Notice(Notice),
}

type Sending = FuturesUnordered<BoxFuture<'static, (Sent, Attempt)>>;

pub(super) struct Worker {
    shared: Arc<Shared>,
    served: watch::Receiver<Served>,
    figures: Arc<Figures>,
    id: String,
    url: String,
    fence: u64,
    queue: Queue,
    progress: WebhookProgress,
    /// As it was stored last.
    stored: WebhookProgress,
    /// A step that may not have been stored.
    unsaved: Option<WebhookStep>,
    /// When the lease was extended last.
    leased_at: Instant,
    saved_at: Instant,
    look_at: Instant,
    /// The last page that was read was full.
    more: bool,
    /// The receiver asked not to be asked before.
    paused_until: Timestamp,
    notices: Notices,
    leaving: Option<Leaving>,
}

impl Worker {
    /// Takes the lease. `None`: another node has it.
    pub(super) async fn begin(
        shared: Arc<Shared>,
        mut served: watch::Receiver<Served>,
        figures: Arc<Figures>,
    ) -> Result<Option<Self>, StoreError> {
        let webhook = Arc::clone(&served.borrow_and_update().webhook);
        let leased_at = Instant::now();
        let lease = shared.store.lease_webhook(&webhook.id, &shared.node, shared.config.lease()).await?;
        let Some(fence) = lease else { return Ok(None) };
        let work = shared.store.webhook_work(&webhook.id).await?;
        let mut progress = work.progress;
        let mut queue = Queue::new(progress.cursor.unwrap_or(webhook.begins_behind), work.waiting);
        // What was before it was enabled is forgotten, and nothing waits for a time that was set then.
        if progress.failing_since.is_some_and(|since| since < webhook.enabled_at) {
            progress.failing_since = None;
            queue.hurry(shared.clock.now(), HURRY_WITHIN);
        }
        debug!(webhook.id = %webhook.id, "this node serves the webhook {}", webhook.id);
        Ok(Some(Self {
            queue,
            stored: progress.clone(),
            progress,
            id: webhook.id.clone(),
            url: webhook.url.clone(),
            shared,
            served,
            figures,
            fence,
            unsaved: None,
            leased_at,
            saved_at: leased_at,
            look_at: leased_at,
            more: false,
            paused_until: Timestamp(0),
            notices: Notices::default(),
            leaving: None,
        }))
    }

    /// Serves until the stop, or until the webhook is another's, disabled, or gone.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut sending = Sending::new();
        let mut leave_by = None;
        loop {
            if self.leaving.is_some() {
                let by = *leave_by.get_or_insert(Instant::now() + LAST_WORDS);
                if sending.is_empty() || Instant::now() >= by {
                    break;
                }
            } else {
                self.look().await;
                self.start_sending(&mut sending);
            }
            if !self.save_if_due().await {
                debug!(webhook.id = %self.id, "another node serves the webhook {}, or it is gone", self.id);
                return;
            }
            self.tell_figures();
            let wake = self.wake_at(leave_by, &sending);
            tokio::select! {
                Some((sent, attempt)) = sending.next(), if !sending.is_empty() => self.judge(sent, attempt),
                changed = self.served.changed() => if changed.is_ok() {
                    self.compare();
                } else {
                    // The webhook is gone, or the keeper.
                    self.leaving.get_or_insert(Leaving::Told);
                    leave_by.get_or_insert(Instant::now());
                },
                () = stop.cancelled(), if self.leaving.is_none() => self.leaving = Some(Leaving::Told),
                () = sleep_until(wake) => {}
            }
        }
        // What was interrupted holds the cursor, or has its row: whoever comes next sends it again.
        drop(sending);
        match self.save(Duration::ZERO).await {
            Ok(false) => {}
            Ok(true) => {
                if let Some(Leaving::Disable(reason)) = self.leaving {
                    self.disable(reason).await;
                }
            }
            Err(error) => debug!(webhook.id = %self.id, "the last step of the webhook {} was not stored: {error}", self.id),
        }
    }

    /// Takes what the keeper says of the webhook now.
    fn compare(&mut self) {
        let webhook = Arc::clone(&self.served.borrow_and_update().webhook);
        if webhook.disabled.is_some() {
            self.leaving.get_or_insert(Leaving::Told);
        }
        if webhook.url != self.url {
            // Another receiver: what the one before did is not its fault.
            self.url.clone_from(&webhook.url);
            self.paused_until = Timestamp(0);
            self.hurry(self.shared.clock.now());
        }
    }

    /// Whether the lease is this node's for sure.
    fn is_sure(&self) -> bool {
        self.leased_at.elapsed() < self.shared.config.lease()
    }

    /// Whether so much of the window is free that it is worth reading.
    fn has_room(&self) -> bool {
        let window = self.shared.config.window_max.max(1);
        self.queue.room(&self.shared.config) * 2 >= window
    }

    fn start_sending(&mut self, sending: &mut Sending) {
        let now = self.shared.clock.now();
        if !self.is_sure() || now < self.paused_until {
            return;
        }
        let served = self.served.borrow().clone();
        if let Some(notice) = self.notices.next(self.to_tell(&served), now) {
            match message_of(&notice, &served) {
                Some(message) => self.post(sending, &served.webhook, Sent::Notice(notice), message),
                None => self.notices.taken(&notice),
            }
        }
        while sending.len() < self.shared.config.requests_max.max(1) {
            let Some(unsent) = self.queue.next(now) else { return };
            match Message::of(&unsent.receipt) {
                Ok(message) => self.post(sending, &served.webhook, Sent::Receipt(Box::new(unsent)), message),
                Err(error) => {
                    error!(error = %error, "a receipt cannot be written as JSON: {error}");
                    self.queue.give_up(unsent.receipt.position, now, error.to_string());
                }
            }
        }
    }

    /// What the receiver is to be told besides receipts.
    fn to_tell(&self, served: &Served) -> Vec<Notice> {
        let gaps = self.progress.gaps.iter().map(|(gap, at)| Notice::Gap(gap.clone(), *at));
        let disabled = served.disabled.iter().filter(|(webhook, disabled)| {
            let told = self
                .progress
                .told
                .iter()
                .any(|(id, since)| *id == webhook.id && *since == disabled.since);
            webhook.id != self.id && disabled.since >= served.webhook.enabled_at && !told
        });
        gaps.chain(disabled.map(|(webhook, disabled)| Notice::Disabled(webhook.id.clone(), disabled.since)))
            .collect()
    }

    fn post(&self, sending: &mut Sending, webhook: &Arc<Webhook>, sent: Sent, message: Message) {
        let (sender, webhook) = (self.shared.sender.clone(), Arc::clone(webhook));
        sending.push(Box::pin(async move {
            let attempt = sender.send(&webhook, &message).await;
            (sent, attempt)
        }));
    }

    /// Takes what came of an attempt.
    fn judge(&mut self, sent: Sent, attempt: Attempt) {
        let (config, now) = (&self.shared.config, self.shared.clock.now());
        self.shared.metrics.attempt(attempt.verdict);
        if attempt.verdict == Verdict::Delivered {
            self.progress.delivered_at = Some(now);
            self.paused_until = Timestamp(0);
            match sent {
                Sent::Receipt(unsent) => self.queue.sent(unsent.receipt.position),
                Sent::Notice(notice) => self.told(notice),
            }
            if self.progress.failing_since.take().is_some_and(|since| now.since(since) >= OUTAGE) {
                self.hurry(now);
            }
            return;
        }
        let failing_since = *self.progress.failing_since.get_or_insert(now);
        debug!(webhook.id = %self.id, "an attempt of the webhook {} failed: {}", self.id, attempt.error);
        self.progress.error = Some(attempt.error.clone());
        let asked = attempt.retry_after.unwrap_or_default().min(config.retry_pause_max());
        self.paused_until = self.paused_until.max(now.plus(asked));
        let pause = |attempts: u32| {
            let first = Duration::from_millis(config.retry_first_ms);
            backoff::pause(attempts, first, config.retry_pause_max(), backoff::random()).max(asked)
        };
        match sent {
            Sent::Notice(notice) => self.notices.put_off(notice, |attempts| now.plus(pause(attempts))),
            Sent::Receipt(unsent) if attempt.verdict == Verdict::Gone => self.queue.put_back(unsent.receipt.position),
            Sent::Receipt(unsent) if now.since(unsent.since) >= config.retry_for() => {
                self.shared.metrics.dead_letters.inc();
                self.queue.give_up(unsent.receipt.position, now, attempt.error);
            }
            Sent::Receipt(unsent) => {
                let at = now.plus(pause(unsent.attempts.saturating_add(1)));
                self.queue.put_off(unsent.receipt.position, at, attempt.error);
            }
        }
        if attempt.verdict == Verdict::Gone {
            self.leaving = Some(Leaving::Disable(WebhookEnd::Gone));
        } else if now.since(failing_since) >= config.disable_after() {
            self.leaving = Some(Leaving::Disable(WebhookEnd::Failing));
        }
    }

    /// The receiver is back, or is another one: what waits need not wait much longer.
    fn hurry(&mut self, now: Timestamp) {
        self.queue.hurry(now, HURRY_WITHIN);
        self.notices.hurry();
    }

    fn told(&mut self, notice: Notice) {
        self.notices.taken(&notice);
        match notice {
            Notice::Gap(gap, at) => self.progress.gaps.retain(|known| *known != (gap.clone(), at)),
            Notice::Disabled(id, since) => self.told_disabled(id, since),
        }
    }

    fn told_disabled(&mut self, id: String, since: Timestamp) {
        self.progress.told.push((id, since));
        let served = self.served.borrow();
        let still = |told: &(String, Timestamp)| {
            let same = |(webhook, disabled): &(Arc<Webhook>, WebhookDisabled)| webhook.id == told.0 && disabled.since == told.1;
            served.disabled.iter().any(same)
        };
        self.progress.told.retain(still);
    }

    /// Stores how far it is, when there is something new or the lease is to be extended. False: the lease is lost.
    async fn save_if_due(&mut self) -> bool {
        let config = &self.shared.config;
        let since = self.saved_at.elapsed();
        let renew = self.leased_at.elapsed() >= config.lease() / 3 && since >= config.look_every().min(config.lease() / 6);
        if !(renew || since >= config.look_every() && self.is_dirty()) {
            return true;
        }
        let lease = config.lease();
        self.save(lease).await.unwrap_or_else(|error| {
            debug!(webhook.id = %self.id, "a step of the webhook {} was not stored: {error}", self.id);
            true
        })
    }

    fn is_dirty(&self) -> bool {
        self.unsaved.is_some()
            || !self.queue.is_clean()
            || self.stored.cursor != Some(self.queue.cursor())
            || WebhookProgress {
                cursor: self.stored.cursor,
                ..self.progress.clone()
            } != self.stored
    }

    async fn save(&mut self, lasts: Duration) -> Result<bool, StoreError> {
        self.saved_at = Instant::now();
        // What may not have been stored comes first, and comes to the same when it was.
        if self.unsaved.is_some() && !self.save_step(lasts).await? {
            return Ok(false);
        }
        self.progress.cursor = Some(self.queue.cursor());
        let delta = self.queue.delta();
        self.unsaved = Some(WebhookStep {
            progress: self.progress.clone(),
            waiting: delta.waiting,
            done: delta.done,
            dead: delta.dead,
        });
        self.save_step(lasts).await
    }

    async fn save_step(&mut self, lasts: Duration) -> Result<bool, StoreError> {
        let Some(step) = &self.unsaved else { return Ok(true) };
        let (asked_at, dead_max) = (Instant::now(), self.shared.config.dead_letters_max);
        let stepped = self.shared.store.step_webhook(&self.id, self.fence, lasts, step, dead_max).await?;
        let Stepped::Made { redriven, dropped } = stepped else {
            return Ok(false);
        };
        if dropped > 0 {
            warn!(webhook.id = %self.id, "the webhook {} has too many dead letters: {dropped} of the oldest are dropped", self.id);
        }
        if redriven {
            self.leaving.get_or_insert(Leaving::Told);
        }
        self.leased_at = asked_at;
        if let Some(step) = self.unsaved.take() {
            self.stored = step.progress;
        }
        Ok(true)
    }

    /// Disables the webhook, unless its tenant has done so, or has enabled it anew.
    async fn disable(&self, reason: WebhookEnd) {
        let served = Arc::clone(&self.served.borrow().webhook);
        for _ in 0..TRIES {
            let all = match self.shared.store.webhooks(Some(served.tenant())).await {
                Ok(all) => all,
                Err(error) => {
                    debug!(webhook.id = %self.id, "the webhook {} is disabled at its next attempt: {error}", self.id);
                    return;
                }
            };
            let Some(mut webhook) = all.into_iter().find(|webhook| webhook.id == self.id) else {
                return;
            };
            if webhook.disabled.is_some() || webhook.enabled_at != served.enabled_at {
                return;
            }
            let (revision, since) = (webhook.revision, self.shared.clock.now());
            webhook.disabled = Some(WebhookDisabled { reason, since });
            webhook.revision += 1;
            match self.shared.store.change_webhook(&self.id, Some(revision), Some(webhook)).await {
                Ok(true) => {
                    self.shared.metrics.disabled(reason);
                    let (url, error) = (url_in_logs(&served.url), self.progress.error.as_deref().unwrap_or_default());
                    warn!(
                        webhook.id = %self.id,
                        "the webhook {} to {url} is disabled ({}): {error}; PATCH /v1/webhooks/{} with enabled: true resumes it",
                        self.id, reason.as_str(), self.id
                    );
                    self.shared.nudge.notify_one();
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    debug!(webhook.id = %self.id, "the webhook {} is disabled at its next attempt: {error}", self.id);
                    return;
                }
            }
        }
    }

    fn tell_figures(&self) {
        self.figures.waiting.store(self.queue.waiting() as u64, Ordering::Relaxed);
        let oldest = self.queue.oldest().map_or(0, |at| at.0);
        self.figures.oldest.store(oldest, Ordering::Relaxed);
    }

    /// When there is something to do, if nothing happens.
    fn wake_at(&self, leave_by: Option<Instant>, sending: &Sending) -> Instant {
        let config = &self.shared.config;
        let save_in = if self.is_dirty() {
            config.look_every().min(config.lease() / 3)
        } else {
            config.lease() / 3
        };
        let wake = self.saved_at + save_in;
        if let Some(by) = leave_by {
            return wake.min(by);
        }
        if self.more && self.has_room() {
            return Instant::now();
        }
        let mut wake = wake.min(self.look_at);
        // While nothing may be sent, what is due waits for that.
        if let Some(due) = self.queue.due_at()
            && self.is_sure()
            && sending.len() < config.requests_max.max(1)
        {
            let pause = due.max(self.paused_until).since(self.shared.clock.now());
            wake = wake.min(Instant::now() + pause);
        }
        wake
    }
}

/// `None`: there is nothing to tell any more.
fn message_of(notice: &Notice, served: &Served) -> Option<Message> {
    match notice {
        Notice::Gap(gap, at) => Some(Message::gap(&served.webhook, gap, *at)),
        Notice::Disabled(id, since) => {
            let found = served
                .disabled
                .iter()
                .find(|(webhook, disabled)| webhook.id == *id && disabled.since == *since);
            found.map(|(webhook, disabled)| Message::disabled(webhook, disabled))
        }
    }
}
