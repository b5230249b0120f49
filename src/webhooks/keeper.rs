//! Which webhooks this node serves: every one that is enabled and that no other node has.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{
    Shared,
    worker::{Figures, Served, Worker},
};
use crate::{
    crew::Crew,
    domain::Timestamp,
    store::{StoreError, Webhook, WebhookDisabled, WebhookEnd},
};

/// A worker.
struct Running {
    /// Closed when the worker is over.
    served: watch::Sender<Served>,
    figures: Arc<Figures>,
    began: Instant,
}

/// The task that starts and ends the workers.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    crew: Crew,
    running: HashMap<String, Running>,
    /// Webhooks that another node had, or whose worker ended: when to try again.
    resting: HashMap<String, Instant>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, crew: Crew) -> Self {
        Self {
            shared,
            crew,
            running: HashMap::new(),
            resting: HashMap::new(),
        }
    }

    /// Looks again and again until the stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.shared.store.webhooks(None).await {
                Ok(all) => self.compare(all),
                // The workers go on with what they know.
                Err(StoreError::Unavailable(why)) => debug!("webhooks are looked for again: {why}"),
                Err(error) => error!(error = %error, "the webhooks cannot be read: {error}"),
            }
            self.gauge();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.nudge.notified() => {}
                () = sleep(self.shared.config.look_every()) => {}
            }
        }
    }

    /// Starts what is missing, tells what has changed, ends what is not wanted any more.
    fn compare(&mut self, all: Vec<Webhook>) {
        let all: Vec<Arc<Webhook>> = all.into_iter().map(Arc::new).collect();
        let enabled = all.iter().filter(|webhook| webhook.disabled.is_none()).count();
        self.shared.metrics.see(enabled, all.len() - enabled);
        let now = Instant::now();
        let pace = self.shared.config.lease() / 3;
        // Dropping the sender ends a worker whose webhook is gone.
        self.running.retain(|id, running| {
            if running.served.is_closed() {
                self.resting.insert(id.clone(), running.began + pace);
                return false;
            }
            all.iter().any(|webhook| webhook.id == *id)
        });
        self.resting.retain(|_, until| *until > now);
        for webhook in &all {
            let served = Served {
                webhook: Arc::clone(webhook),
                disabled: disabled_beside(webhook, &all),
            };
            if let Some(running) = self.running.get(&webhook.id) {
                running.served.send_if_modified(|known| {
                    let changed = *known != served;
                    *known = served;
                    changed
                });
            } else if webhook.disabled.is_none() && !self.resting.contains_key(&webhook.id) {
                self.start(&webhook.id, served);
            }
        }
    }

    fn start(&mut self, id: &str, served: Served) {
        let (sender, receiver) = watch::channel(served);
        let figures = Arc::<Figures>::default();
        let running = Running {
            served: sender,
            figures: Arc::clone(&figures),
            began: Instant::now(),
        };
        self.running.insert(id.to_owned(), running);
        let (shared, stop) = (Arc::clone(&self.shared), self.crew.stop_token());
        self.crew.spawn(async move {
            match Worker::begin(shared, receiver, figures).await {
                Ok(Some(worker)) => worker.run(stop).await,
                Ok(None) => {}
                Err(StoreError::Unavailable(why)) => debug!("a webhook is not served for now: {why}"),
                Err(error) => error!(error = %error, "what is stored of a webhook cannot be read: {error}"),
            }
        });
    }

    fn gauge(&self) {
        let figure = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
        let of_all = || self.running.values().filter(|running| !running.served.is_closed());
        let waiting = of_all().map(|running| running.figures.waiting.load(Ordering::Relaxed)).sum();
        self.shared.metrics.waiting.set(figure(waiting));
        let oldest = of_all()
            .map(|running| running.figures.oldest.load(Ordering::Relaxed))
            .filter(|at| *at > 0)
            .min();
        let age = oldest.map_or(0, |at| self.shared.clock.now().since(Timestamp(at)).as_secs());
        self.shared.metrics.oldest.set(figure(age));
    }
}

/// Webhooks of the same tenant that the service disabled: not those whose tenant did.
fn disabled_beside(webhook: &Webhook, all: &[Arc<Webhook>]) -> Vec<(Arc<Webhook>, WebhookDisabled)> {
    let of_tenant = all.iter().filter(|other| other.tenant == webhook.tenant && other.id != webhook.id);
    of_tenant
        .filter_map(|other| Some((Arc::clone(other), other.disabled?)))
        .filter(|(_, disabled)| disabled.reason != WebhookEnd::Request)
        .collect()
}
