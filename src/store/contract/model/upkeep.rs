//! Housekeeping and what waits again: steps whose work is seen only by a look.

use super::{
    super::{Cursor, DeliveryState},
    Difference, World, differ,
    run::Run,
    step::DEVICES,
};

impl<W: World> Run<W> {
    pub(super) async fn sweep(&mut self, node: usize) -> Result<(), Difference> {
        let now = self.now(node);
        let mut expired = 0;
        // Each node looks after a part.
        for other in 0..W::NODES {
            expired += match self.calls(other).sweep(now).await {
                Ok(expired) => expired,
                Err(why) => return differ(format!("housekeeping failed: {why}")),
            };
        }
        let store = self.world.store(node);
        let mut ended = 0;
        for index in self.reference.overdue(now) {
            let known = &self.reference.events[index];
            let tenant = self.reference.devices[known.device].key.tenant;
            match store.delivery(tenant, known.id).await {
                Ok(Some(found)) if found.state == DeliveryState::Expired => {
                    self.reference.expired(index, now);
                    ended += 1;
                }
                Ok(Some(found)) if found.state == known.state && self.lingers => {}
                other => return differ(format!("at {now} {known:?} is overdue; after housekeeping it is {other:?}")),
            }
        }
        if expired != ended {
            return differ(format!("{ended} events expired; housekeeping says {expired}"));
        }
        self.reference.swept(now);
        Ok(())
    }

    pub(super) async fn requeue(&mut self, node: usize, limit: usize) -> Result<(), Difference> {
        let now = self.now(node);
        let (mut said, mut limited) = (0, false);
        for other in 0..W::NODES {
            match self.world.store(other).requeue_due(now, limit).await {
                Ok(moved) => {
                    limited |= moved >= limit;
                    said += moved;
                }
                Err(why) => return differ(format!("requeueing failed: {why}")),
            }
        }
        let store = self.world.store(node);
        let mut moved: Vec<(usize, u64)> = Vec::new();
        for index in 0..self.reference.events.len() {
            let known = &self.reference.events[index];
            let Some(pause) = known.pause else { continue };
            let tenant = self.reference.devices[known.device].key.tenant;
            let found = match store.delivery(tenant, known.id).await {
                Ok(Some(found)) if found.state == DeliveryState::Queued || found.state == known.state => found,
                other => return differ(format!("{known:?} waits for its moment; it is {other:?}")),
            };
            let is_moved = found.attempt == known.attempt + 1;
            let must = pause.latest <= now && !limited && !self.lingers;
            if (is_moved && pause.earliest > now) || (!is_moved && must) {
                return differ(format!("at {now} {known:?} is {found:?}"));
            }
            if is_moved {
                moved.push((index, found.seq.0));
            }
        }
        if said < moved.len() {
            return differ(format!("{} events went to the tail; {said} are said", moved.len()));
        }
        // In the order in which they were due, where that is sure.
        let pause = |index: &usize| self.reference.events[*index].pause;
        let is_sure = moved
            .iter()
            .filter_map(|(index, _)| pause(index))
            .all(|pause| pause.earliest == pause.latest);
        moved.sort_by_key(|(index, seq)| {
            let known = &self.reference.events[*index];
            let due = known
                .pause
                .filter(|_| is_sure)
                .map(|pause| (pause.latest, known.queue(), known.place));
            (due, *seq)
        });
        for (index, seq) in moved {
            self.reference.requeued(index, seq)?;
            let (device, id) = (self.reference.events[index].device, self.reference.events[index].id);
            if self.reference.events[index].expires_at > now {
                self.owes_arrival(device, id);
            }
        }
        // Where they are now is seen before anybody is told.
        self.look_for_tails(node).await
    }

    /// Learns the places of events that went to a tail, as far as a node can see them.
    pub(super) async fn look_for_tails(&mut self, node: usize) -> Result<(), Difference> {
        for device in (0..DEVICES)
            .filter(|device| self.reference.devices[*device].present)
            .collect::<Vec<_>>()
        {
            match self.calls(node).pending(&self.key(device), Cursor::default(), 1_000).await {
                Ok(page) => self.see(&page)?,
                Err(why) => return differ(format!("what waits cannot be read: {why}")),
            }
        }
        Ok(())
    }
}
