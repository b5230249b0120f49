//! Sessions as nodes and devices have them: a cursor, what was given, and the numbers by which a device knows a repeat.

use std::collections::HashSet;

use super::{
    super::{Arrival, Cursor, EventId, Lane, QueuedEvent},
    Difference, World, differ,
    known::Event,
    run::Run,
};

/// A session that holds, or held, the seat of its device.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: usize,
    pub(super) epoch: u64,
    pub(super) cursor: Cursor,
    /// It has read all there was: what arrives may be given without a look at the store.
    pub(super) caught_up: bool,
    /// Events with their attempts.
    pub(super) given: HashSet<(EventId, u32)>,
    /// The last number given in each lane.
    seqs: [u64; 4],
}

impl Session {
    pub(super) fn new(node: usize, epoch: u64) -> Self {
        Self {
            node,
            epoch,
            cursor: Cursor::default(),
            caught_up: false,
            given: HashSet::new(),
            seqs: [0; 4],
        }
    }
}

/// What a device remembers over its sessions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    applied: HashSet<(EventId, u32)>,
    seqs: [u64; 4],
    /// In the lane of events that are stored nowhere.
    pub(super) now: u64,
}

/// Whether an event that a store hands out is the one that was accepted.
pub(super) fn is_same(known: &Event, event: &QueuedEvent) -> Result<(), Difference> {
    let queue = event.located.queue;
    let urgency = match event.lane {
        Lane::Queue(urgency, _) => Some(urgency),
        Lane::Now(_) => None,
    };
    let same = queue == Some(known.queue())
        && urgency == Some(known.urgency)
        && event.event.urgency == known.urgency
        && *event.event.json.0 == *known.json
        && event.event.require == known.require
        && event.event.accepted_at == known.accepted_at
        && event.event.deliver_at == known.deliver_at
        && event.event.expires_at() == known.expires_at
        && event.event.collapse_key.as_deref().map(str::to_owned) == known.collapse.map(|key| format!("k{key}"))
        && event.attempt == known.attempt
        && event.seq.0 == known.seq
        && (known.number == 0 || event.located.number == known.number);
    if same {
        Ok(())
    } else {
        differ(format!("an event was handed out as {event:?}; it is {known:?}"))
    }
}

impl<W: World> Run<W> {
    /// The session of a device is given an event.
    fn give(&mut self, device: usize, event: &QueuedEvent) -> Result<(), Difference> {
        let Some(index) = self.reference.find(event.id) else {
            return differ(format!("{event:?} was given, and never posted"));
        };
        let known = &self.reference.events[index];
        if known.device != device {
            return differ(format!("{event:?} was given to another device"));
        }
        is_same(known, event)?;
        let (lane, name) = (known.urgency as usize, (event.id, event.attempt));
        let Some(session) = self.sessions[device].as_mut() else {
            return Ok(());
        };
        if event.seq.0 <= session.seqs[lane] {
            return differ(format!("number {} was given after {}", event.seq.0, session.seqs[lane]));
        }
        session.seqs[lane] = event.seq.0;
        session.given.insert(name);
        let memory = &mut self.memories[device];
        if memory.applied.insert(name) {
            if event.seq.0 <= memory.seqs[lane] && !known.looked_expired {
                return differ(format!("a device takes {event:?} for a repeat: it knows {}", memory.seqs[lane]));
            }
            memory.seqs[lane] = memory.seqs[lane].max(event.seq.0);
        }
        Ok(())
    }

    /// The session of a device reads on: one page, or to the end.
    pub(super) async fn read_on(&mut self, device: usize, limit: usize, to_the_end: bool) -> Result<(), Difference> {
        loop {
            let Some(session) = &self.sessions[device] else { return Ok(()) };
            let (node, cursor) = (session.node, session.cursor);
            let key = self.reference.devices[device].key.clone();
            if self.reference.waiting(device).any(|event| event.number == 0) {
                self.look_for_tails(node).await?;
            }
            let page = self.calls(node).pending(&key, cursor, limit).await;
            let page = match page {
                Ok(page) => page,
                Err(why) if self.reference.devices[device].present => return differ(format!("a session cannot read: {why}")),
                Err(_) => return Ok(()),
            };
            self.see(&page)?;
            let now = self.now(node);
            let owed: Vec<EventId> = self
                .reference
                .deliverable(device, now)
                .iter()
                .filter(|event| !cursor.covers(event.queue(), event.number))
                .map(|event| event.id)
                .collect();
            let found: Vec<EventId> = page.events.iter().map(|event| event.id).collect();
            if found[..] != owed[..limit.min(owed.len())] || page.more != (owed.len() > limit) {
                return differ(format!(
                    "behind {cursor:?} are {owed:?}; the page has {found:?}, more: {}",
                    page.more
                ));
            }
            for event in &page.events {
                self.give(device, event)?;
                if let (Some(session), Some(queue)) = (&mut self.sessions[device], event.located.queue) {
                    session.cursor.advance(queue, event.located.number);
                }
            }
            if let Some(session) = &mut self.sessions[device] {
                session.caught_up = !page.more;
            }
            if !page.more || !to_the_end {
                return Ok(());
            }
        }
    }

    /// Nodes hear what they were told; some of it may be lost.
    pub(super) async fn hear(&mut self) -> Result<(), Difference> {
        for node in 0..W::NODES {
            let owed: Vec<EventId> = self.owed.extract_if(.., |(of, _)| *of == node).map(|(_, id)| id).collect();
            let mut came = self.world.arrivals(node, owed.len()).await;
            if let Some(missing) = owed.iter().find(|id| !came.iter().any(|arrival| arrival.event.id == **id)) {
                return differ(format!("node {node} has the session, and was not told of {missing}"));
            }
            let lost = self.deaf[node].min(came.len());
            self.deaf[node] -= lost;
            if came.drain(..lost).any(|arrival| arrival.after.is_none()) && !self.ignores_lost_hints() {
                // Where arrivals come in order the engine counts those that it dropped, and all sessions read on.
                for session in self.sessions.iter_mut().flatten().filter(|session| session.node == node) {
                    session.caught_up = false;
                }
            }
            for arrival in came {
                self.arrived(node, &arrival).await?;
            }
        }
        Ok(())
    }

    async fn arrived(&mut self, node: usize, arrival: &Arrival) -> Result<(), Difference> {
        let event = &arrival.event;
        let of = |key: &super::super::DeviceKey| key.tenant == event.event.tenant && key.device == event.event.device;
        let Some(device) = self.reference.devices.iter().position(|device| of(&device.key)) else {
            return differ(format!("an arrival for a device that there is not: {event:?}"));
        };
        if !self.reference.devices[device].epochs.contains(&arrival.epoch.0) {
            return differ(format!("an arrival names epoch {}, which nobody has", arrival.epoch));
        }
        let Some(queue) = event.located.queue else {
            return self.passed(device, node, arrival);
        };
        let Some(session) = self.sessions[device].as_ref() else {
            return Ok(());
        };
        if session.epoch != arrival.epoch.0 || session.node != node || !session.caught_up {
            return Ok(());
        }
        if session.cursor.covers(queue, event.located.number) {
            return Ok(());
        }
        let reached = session.cursor.first.max(session.cursor.rest);
        if arrival.after.is_some_and(|after| after > reached) && !self.ignores_lost_hints() {
            return self.read_on(device, 100, true).await;
        }
        // One that is moved or over by now is given by nobody.
        let index = self.reference.find(event.id);
        let is_current = index.is_some_and(|index| self.reference.events[index].attempt == event.attempt);
        if is_current && event.event.expires_at() > self.now(node) {
            self.give(device, event)?;
        }
        if let Some(session) = &mut self.sessions[device] {
            session.cursor.advance(queue, event.located.number);
        }
        Ok(())
    }

    /// An event that is stored nowhere is given to whoever is there.
    fn passed(&mut self, device: usize, node: usize, arrival: &Arrival) -> Result<(), Difference> {
        let holds = |session: &Session| session.epoch == arrival.epoch.0 && session.node == node;
        if self.sessions[device].as_ref().is_some_and(holds) {
            let memory = &mut self.memories[device];
            if arrival.event.seq.0 <= memory.now {
                return differ(format!("number {} in the lane now comes after {}", arrival.event.seq.0, memory.now));
            }
            memory.now = arrival.event.seq.0;
        }
        Ok(())
    }
}
