//! The way to a node that cannot be reached directly: a sharded channel of its name (Redis 7.0, SPUBLISH).
//!
//! A message is taken by whoever listens at that moment or by nobody. What it told of is in the store.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc};
use tracing::debug;

use super::{RedisStore, Shared, connection::Connection, keys::Slot, lane, reply, shards::Route};
use crate::store::StoreError;

/// How often it is looked whether the channel has moved to another server.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn tag(node: &str) -> String {
    format!("h:{node}")
}

impl RedisStore {
    /// Tells a node through Redis, if it listens.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn publish(&self, node: &str, message: &[u8]) -> Result<(), StoreError> {
        let (keys, shards) = (&self.shared.keys, &self.shared.shards);
        let (channel, slot) = (keys.channel(&tag(node)), Slot::of(&tag(node)));
        let make = |_| {
            let mut cmd = redis::cmd("SPUBLISH");
            cmd.arg(&channel).arg(message);
            cmd
        };
        shards.ask(Route::quick(slot), make).await.map(|_| ())
    }
}

/// Hands on what comes for this node, for ever.
pub(super) async fn listen(shared: Arc<Shared>, came: mpsc::Sender<Vec<u8>>) {
    let tag = tag(&shared.nodes.name());
    let (channel, slot) = (shared.keys.channel(&tag), Slot::of(&tag));
    loop {
        let changes = shared.shards.changes.load(Ordering::Relaxed);
        if let Some(settings) = shared.shards.reader_of(slot) {
            let over = Arc::new(Notify::new());
            match subscribe(&shared, &settings, &channel, &came, &over).await {
                // It is dropped, and closed, when it is over.
                Ok(_connection) => loop {
                    tokio::select! {
                        () = over.notified() => break,
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                    if shared.shards.changes.load(Ordering::Relaxed) != changes {
                        break;
                    }
                },
                Err(error) => debug!("the channel of this node cannot be listened to: {error}"),
            }
            // What was published meanwhile is lost.
            shared.missed_arrivals.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn subscribe(
    shared: &Arc<Shared>,
    settings: &lane::Settings,
    channel: &str,
    came: &mpsc::Sender<Vec<u8>>,
    over: &Arc<Notify>,
) -> Result<Connection, redis::RedisError> {
    let (came, over, shared) = (came.clone(), over.clone(), shared.clone());
    let taken = move |push: PushInfo| {
        match push.kind {
            PushKind::SMessage => {
                let message = push.data.into_iter().nth(1).and_then(reply::bytes);
                if message.is_none_or(|message| came.try_send(message).is_err()) {
                    shared.missed_arrivals.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The slot moved, or the connection is gone.
            PushKind::Disconnection | PushKind::SUnsubscribe => over.notify_one(),
            _ => {}
        }
        Ok::<(), ()>(())
    };
    let mut connection = lane::connect_for_pushes(settings, taken).await?;
    let _: Value = redis::cmd("SSUBSCRIBE").arg(channel).query_async(&mut connection).await?;
    Ok(connection)
}
