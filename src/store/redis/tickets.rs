//! Secrets of TLS tickets: one a period, random, made by the first node that needs it, and gone when no ticket of it is taken any more.

use std::time::Duration;

use super::{
    RedisStore,
    keys::{SHARED, Slot},
    reply,
    shards::Route,
};
use crate::store::{StoreError, codec::damaged};

impl RedisStore {
    /// The secrets of the period before, of that one, and of the next, with their numbers; those of the latter two are made where they
    /// are missing. `length`: of a period; a secret is kept for three of them, from the period before its own.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn ticket_secrets(&self, period: u64, length: Duration) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
        let kept = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_mul(3);
        let mut secrets = Vec::with_capacity(3);
        // Where there is none of the past, nobody gave out tickets then.
        if let Some(before) = period.checked_sub(1)
            && let Some(secret) = self.ticket_secret(before, None).await?
        {
            secrets.push((before, secret));
        }
        for period in [period, period.saturating_add(1)] {
            let secret = self.ticket_secret(period, Some(kept)).await?;
            secrets.push((period, secret.ok_or_else(|| damaged("a secret of TLS tickets"))?));
        }
        Ok(secrets)
    }

    /// One of them. `make`: make it if it is not there, to be kept for so many milliseconds.
    async fn ticket_secret(&self, period: u64, make: Option<u64>) -> Result<Option<[u8; 32]>, StoreError> {
        let (keys, shards) = (&self.shared.keys, &self.shared.shards);
        let key = keys.shared(&format!("ticket:{period}"));
        if let Some(kept) = make {
            let mut fresh = [0_u8; 32];
            aws_lc_rs::rand::fill(&mut fresh).map_err(|_| StoreError::Unavailable("the system gives no random numbers".into()))?;
            let set = |_| {
                let mut cmd = redis::cmd("SET");
                cmd.arg(&key).arg(&fresh[..]).arg("NX").arg("PX").arg(kept);
                cmd
            };
            shards.ask(Route::durable(Slot::of(SHARED)), set).await?;
        }
        let get = |_| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(&key);
            cmd
        };
        // Where it was written: by the same way it is read.
        let found = reply::bytes(shards.ask(Route::durable(Slot::of(SHARED)), get).await?);
        match found {
            Some(secret) => secret.try_into().map(Some).map_err(|_| damaged("a secret of TLS tickets")),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Redis;
    use super::*;

    #[tokio::test]
    async fn all_nodes_find_the_same_secrets_and_each_period_has_its_own() {
        let redis = Redis::single().await;
        let (store, length) = (redis.redis(), Duration::from_secs(3_600));
        let first = store.ticket_secrets(7, length).await.unwrap();
        assert_eq!(
            first.iter().map(|(period, _)| *period).collect::<Vec<_>>(),
            [7, 8],
            "nobody was there before"
        );
        assert_ne!(first[0].1, first[1].1);
        assert_eq!(store.ticket_secrets(7, length).await.unwrap(), first);
        let next = store.ticket_secrets(8, length).await.unwrap();
        assert_eq!((&next[..2], next[2].0), (&first[..], 9));
        assert_eq!(store.ticket_secrets(0, length).await.unwrap().len(), 2);
    }
}
