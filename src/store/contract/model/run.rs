//! One sequence on one world.

use std::sync::{Arc, atomic::AtomicU32};

use super::{
    super::{Clock, DeviceKey, EventId, START, Tenant, TenantId, Timestamp},
    Difference, World,
    calls::{Calls, Flaw},
    limits,
    reference::Reference,
    session::{Memory, Session},
    step::{DEVICES, Step},
};

/// A world, what it should be, and who lives in it.
pub(super) struct Run<W> {
    pub(super) world: W,
    pub(super) reference: Reference,
    /// The session of each device.
    pub(super) sessions: Vec<Option<Session>>,
    pub(super) memories: Vec<Memory>,
    /// Hints that each node will not hear.
    pub(super) deaf: [usize; 2],
    /// Arrivals that a node must hear of.
    pub(super) owed: Vec<(usize, EventId)>,
    /// A node was killed, and may be counted as live for a while.
    pub(super) lingers: bool,
    /// The last epoch may be lost with a node that was killed.
    pub(super) epoch_is_sure: [bool; DEVICES],
    pub(super) steps: usize,
    flaw: Option<Flaw>,
    turn: Arc<AtomicU32>,
    pub(super) posted: u64,
    pub(super) session: u128,
}

/// The devices: the same two ids in two tenants. They share a bucket in each, and so all that is kept for a bucket.
pub fn devices() -> impl Iterator<Item = DeviceKey> {
    [(0, "fz"), (0, "dy5"), (1, "fz"), (1, "dy5")]
        .into_iter()
        .map(|(tenant, id)| DeviceKey {
            tenant: TenantId(tenant),
            device: id.parse().unwrap(),
        })
}

impl<W: World> Run<W> {
    /// A world with both tenants and all devices but one.
    pub(super) async fn new(world: W, flaw: Option<Flaw>) -> Result<Self, Difference> {
        let mut run = Self {
            world,
            reference: Reference::new(limits(), devices()),
            sessions: (0..DEVICES).map(|_| None).collect(),
            memories: (0..DEVICES).map(|_| Memory::default()).collect(),
            deaf: [0; 2],
            owed: Vec::new(),
            lingers: false,
            epoch_is_sure: [true; DEVICES],
            steps: 0,
            flaw,
            turn: Arc::default(),
            posted: 0,
            session: 0,
        };
        let tenant = Tenant {
            id: 1,
            name: "other".into(),
            domain: "other.example".into(),
            limits: None,
            removed_at: None,
        };
        run.world
            .store(0)
            .put_tenant(tenant)
            .await
            .map_err(|why| Difference(why.to_string()))?;
        for device in 0..DEVICES - 1 {
            run.add(0, device).await?;
        }
        Ok(run)
    }

    pub(super) fn calls(&self, node: usize) -> Calls {
        Calls {
            store: self.world.store(node),
            flaw: self.flaw,
            turn: Arc::clone(&self.turn),
        }
    }

    pub(super) fn ignores_lost_hints(&self) -> bool {
        self.flaw == Some(Flaw::IgnoresLostHints)
    }

    pub(super) fn now(&self, node: usize) -> Timestamp {
        self.world.clock(node).now()
    }

    pub(super) fn key(&self, device: usize) -> DeviceKey {
        self.reference.devices[device].key.clone()
    }

    /// Takes a step; compares.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), Difference> {
        self.steps += 1;
        match step {
            Step::Post(node, posts) => self.post(node % W::NODES, posts).await?,
            Step::Connect { node, device, stale, page } => {
                self.connect(node % W::NODES, device % DEVICES, *stale).await?;
                if *page > 0 {
                    self.read_on(device % DEVICES, *page, false).await?;
                }
            }
            Step::Resume { device, page } => self.read_on(device % DEVICES, (*page).max(1), false).await?,
            Step::Drop { device } => self.sessions[device % DEVICES] = None,
            Step::Release { node, device, back } => self.release(node % W::NODES, device % DEVICES, *back).await?,
            Step::Settle(node, ends) => self.settle(node % W::NODES, ends).await?,
            Step::Requeue { node, limit } => self.requeue(node % W::NODES, (*limit).max(1)).await?,
            Step::Sweep { node } => self.sweep(node % W::NODES).await?,
            Step::Remove { node, device } => self.remove(node % W::NODES, device % DEVICES).await?,
            Step::Add { node, device } => self.add(node % W::NODES, device % DEVICES).await?,
            Step::LoseHints { node, hints } => self.deaf[node % W::NODES] += hints,
            Step::Clock { node, secs } => {
                let clock = self.world.clock(node % W::NODES);
                clock.set(Timestamp(clock.now().0.saturating_add_signed(secs * 1_000)));
            }
            Step::Crash { node } => {
                self.world.crash(node % W::NODES, None).await;
                self.crashed(node % W::NODES);
            }
            Step::KillServer => {
                self.world.kill_server(None).await;
                self.reference.skips |= W::HAS_SERVER;
            }
            Step::FlushScripts => self.world.flush_scripts().await,
            Step::Interrupted(step, by) => self.interrupted(step, *by).await?,
        }
        self.look_at_clocks();
        self.hear().await?;
        self.agree(self.steps % W::NODES, self.steps.is_multiple_of(12)).await
    }

    /// What has expired by any clock may have been passed over by somebody.
    pub(super) fn look_at_clocks(&mut self) {
        let latest = (0..W::NODES).map(|node| self.now(node)).max().unwrap_or(START);
        for event in &mut self.reference.events {
            event.looked_expired |= event.expires_at <= latest;
        }
    }

    /// The sessions of a node are gone with it, and its seats, now or when it is found dead.
    pub(super) fn crashed(&mut self, node: usize) {
        self.deaf[node] = 0;
        self.owed.clear();
        self.lingers |= !W::SEATS_DIE_WITH_THEIR_NODE;
        for (device, session) in self.sessions.iter_mut().enumerate() {
            session.take_if(|session| session.node == node);
            let holder = &mut self.reference.devices[device].holder;
            if W::SEATS_DIE_WITH_THEIR_NODE {
                *holder = None;
                self.epoch_is_sure[device] = false;
                // Numbers of what is stored nowhere begin at the clock again.
                self.memories[device].now = 0;
            } else if let Some(holder) = holder.as_mut().filter(|holder| holder.node == node) {
                holder.ghost = true;
            }
        }
    }
}
