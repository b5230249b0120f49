//! A step that is under way when its caller, its node or the server goes: its answer may be lost, and the store decides.

use std::sync::Arc;

use futures_util::{FutureExt, poll};
use parking_lot::Mutex;

use super::{
    super::{Cursor, EventId, Outcome, Queue, Registered, Settle, Timestamp},
    Difference, World,
    agree::is_right,
    differ,
    known::Owed,
    run::Run,
    step::{End, Interruption, Post, Step},
};
use crate::domain::Located;

impl<W: World> Run<W> {
    pub(super) async fn interrupted(&mut self, step: &Step, by: Interruption) -> Result<(), Difference> {
        match step {
            Step::Post(node, posts) => match posts.as_slice() {
                [post] if post.ttl_secs > 0 => self.interrupted_post(node % W::NODES, post, by).await,
                _ => Ok(()),
            },
            Step::Settle(node, ends) => match ends.as_slice() {
                [end] if !end.wrong_device => self.interrupted_end(node % W::NODES, end, by).await,
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    async fn interrupted_post(&mut self, node: usize, post: &Post, by: Interruption) -> Result<(), Difference> {
        let (coming, new) = self.coming(node, post);
        let calls = self.calls(node);
        let answer = self
            .interrupt(node, by, coming.device, async move { calls.enqueue(vec![new]).await.pop() })
            .await;
        let page = self
            .world
            .store(node)
            .pending(&self.key(coming.device), Cursor::default(), 1_000)
            .await;
        let events = page.map(|page| page.events).unwrap_or_default();
        let mut stored = events.iter().find(|event| event.event.json.0 == coming.json).map(|event| event.id);
        if coming.deliver_at.is_some() {
            // It is on no page yet: it is the one that nobody knows.
            let listed = self
                .world
                .store(node)
                .deliveries(&self.key(coming.device), None, 100)
                .await
                .unwrap_or_default();
            stored = listed
                .iter()
                .map(|delivery| delivery.id)
                .find(|id| self.reference.find(*id).is_none());
        }
        let mut owed = self.reference.owed(&coming);
        if stored.is_some() && owed != Owed::New && self.reference.forget_key(&coming) {
            owed = self.reference.owed(&coming);
        }
        match (owed, stored, answer.flatten()) {
            (Owed::New, Some(id), Some(Ok(done))) if done.id != id => differ(format!("{coming:?} is {id}, and {done:?}")),
            (Owed::New, Some(id), _) => self.accepted(node, &coming, id).await.map(|_| ()),
            (Owed::New, None, Some(Ok(done))) if self.reference.find(done.id).is_none() => {
                differ(format!("{coming:?} was accepted as {done:?}, and is lost"))
            }
            (_, None, _) => Ok(()),
            (owed, Some(id), _) => differ(format!("{coming:?} is owed {owed:?}, and was stored as {id}")),
        }
    }

    async fn interrupted_end(&mut self, node: usize, end: &End, by: Interruption) -> Result<(), Difference> {
        let Some((ending, settle)) = self.ending(node, end) else {
            return Ok(());
        };
        let known = &self.reference.events[ending.event];
        if !self.reference.remembered(known, self.now(node)).0 {
            return Ok(());
        }
        let (device, tenant, id) = (known.device, settle.device.tenant, known.id);
        let now = self.now(node);
        let calls = self.calls(node);
        let answer = self
            .interrupt(node, by, device, async move { calls.settle(vec![settle]).await.pop() })
            .await;
        let found = match self.world.store(node).delivery(tenant, id).await {
            Ok(Some(found)) => found,
            other => return differ(format!("an event of which an end was under way is {other:?}")),
        };
        let mut after = self.reference.clone();
        after.settle(&ending, now);
        if is_right(&after.events[ending.event], &found) {
            self.reference = after;
        } else if !is_right(&self.reference.events[ending.event], &found) || matches!(answer.flatten(), Some(Ok(_))) {
            return differ(format!(
                "{ending:?} was under way; it was {:?}, and is {found:?}",
                self.reference.events[ending.event]
            ));
        }
        Ok(())
    }

    /// Does something while something happens. Answers what came of it, if anybody heard it.
    async fn interrupt<T: Send + 'static>(
        &mut self,
        node: usize,
        by: Interruption,
        device: usize,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let heard = Arc::new(Mutex::new(None));
        let told = Arc::clone(&heard);
        let mut under_way = async move {
            let answer = work.await;
            *told.lock() = Some(answer);
        }
        .boxed();
        match by {
            Interruption::Caller => {
                let _ = poll!(&mut under_way);
                drop(under_way);
                self.wait_behind(node, device).await;
            }
            Interruption::Node => {
                self.world.crash(node, Some(under_way)).await;
                self.crashed(node);
            }
            Interruption::Server => {
                self.world.kill_server(Some(under_way)).await;
                self.reference.skips |= W::HAS_SERVER;
            }
        }
        heard.lock().take()
    }

    /// What was asked for a device before is done when this is.
    async fn wait_behind(&self, node: usize, device: usize) {
        let key = self.key(device);
        let store = self.world.store(node);
        let known = self.reference.events.iter().rfind(|event| event.device == device);
        let ordinal = match known.and_then(|event| store.locate(key.tenant, event.id)) {
            Some(located) => located.ordinal,
            None => match store.device(&key).await {
                Ok(Registered::Present(found)) => found.ordinal,
                // There is nothing of it to wait for.
                _ => return,
            },
        };
        let located = Located {
            tenant: key.tenant,
            bucket: key.bucket(),
            ordinal,
            queue: Some(Queue::Rest),
            number: (1 << 48) - 1,
        };
        let nothing = Settle {
            device: key,
            id: EventId([0; 20]),
            located,
            outcome: Outcome::Cancelled,
            at: Timestamp(0),
            epoch: None,
            told: None,
        };
        store.settle(vec![nothing]).await;
    }
}
