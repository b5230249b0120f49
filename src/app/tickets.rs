//! The nodes share the secrets of their TLS tickets: read at the start and every minute, rotated with the time.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    domain::Clock,
    store::{StoreError, redis::RedisStore},
    tls::{TICKET_PERIOD, TicketSecret, TicketSecrets},
};

/// How often it is looked for new ones, and whether a period is over.
const EVERY: Duration = Duration::from_secs(60);

/// Keeps the secrets as they are in the store.
pub(super) struct Tickets {
    store: Arc<RedisStore>,
    clock: Arc<dyn Clock>,
    secrets: TicketSecrets,
    /// As they were read last.
    read: Vec<TicketSecret>,
}

impl Tickets {
    /// Reads them, or makes them.
    pub(super) async fn open(store: Arc<RedisStore>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let mut tickets = Self {
            store,
            clock,
            secrets: TicketSecrets::default(),
            read: Vec::new(),
        };
        tickets.look().await?;
        Ok(tickets)
    }

    /// What TLS is served with.
    pub(super) fn secrets(&self) -> TicketSecrets {
        self.secrets.clone()
    }

    /// Looks again and again. While the store is away, those that are known do for one period more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if let Err(error) = self.look().await {
                debug!("the secrets of TLS tickets cannot be read: {error}");
                self.secrets.replace(self.period(), self.read.clone());
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let period = self.period();
        let read = self.store.ticket_secrets(period, TICKET_PERIOD).await?;
        self.read = read.into_iter().map(|(period, secret)| TicketSecret { period, secret }).collect();
        self.secrets.replace(period, self.read.clone());
        Ok(())
    }

    fn period(&self) -> u64 {
        self.clock.now().0 / 1_000 / TICKET_PERIOD.as_secs()
    }
}
