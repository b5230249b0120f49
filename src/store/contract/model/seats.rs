//! Devices and their seats: who comes, who goes, and who is the device.

use super::{
    super::{DeviceChange, Epoch, NewSeat, SessionId, StoreError, Transport},
    Difference, World, differ,
    known::Holder,
    run::Run,
    session::Session,
};
use crate::store::Seat;

impl<W: World> Run<W> {
    /// Whether a seat is the one that the device has.
    pub(super) fn is_held(&self, device: usize, seat: Option<&Seat>) -> Result<(), Difference> {
        let holder = self.reference.devices[device].holder.as_ref();
        let right = match (holder, seat) {
            (None, None) => true,
            (Some(holder), None) => holder.ghost,
            (None, Some(_)) => false,
            (Some(holder), Some(seat)) => seat.epoch.0 == holder.epoch && seat.session.0 == holder.session,
        };
        if right {
            Ok(())
        } else {
            differ(format!("the seat is {seat:?}; it should be {holder:?}"))
        }
    }

    pub(super) async fn connect(&mut self, node: usize, device: usize, stale: bool) -> Result<(), Difference> {
        self.session += 1;
        let (at, key, before) = (self.now(node), self.key(device), self.reference.devices[device].clone());
        let is_stale = stale && before.generation > 0;
        let seat = NewSeat {
            session: SessionId(self.session),
            node: self.world.name(node),
            transport: Transport::Xmpps,
            at,
            credential_generation: before.generation - u32::from(is_stale),
            fast: None,
        };
        let claimed = match self.calls(node).store.claim(&key, seat).await {
            Err(StoreError::Conflict(_)) if is_stale && before.present => return Ok(()),
            Err(StoreError::UnknownDevice) if !before.known => return Ok(()),
            Err(StoreError::RemovedDevice) if before.known && !before.present => return Ok(()),
            Ok(claimed) if before.present && !is_stale => claimed,
            other => return differ(format!("a claim for {before:?} was answered with {other:?}")),
        };
        if before.epochs.last().is_some_and(|last| *last >= claimed.epoch.0) {
            return differ(format!("the epoch {} comes after {:?}", claimed.epoch, before.epochs));
        }
        self.is_held(device, claimed.displaced.as_ref())?;
        let waiting = self.reference.size(device).0;
        if claimed.waiting != waiting {
            return differ(format!("{waiting} events wait; a claim says {}", claimed.waiting));
        }
        let device_now = &mut self.reference.devices[device];
        device_now.epochs.push(claimed.epoch.0);
        device_now.holder = Some(Holder {
            epoch: claimed.epoch.0,
            session: self.session,
            node,
            ghost: false,
        });
        self.epoch_is_sure[device] = true;
        self.reference.hasten(device, at);
        self.sessions[device] = Some(Session::new(node, claimed.epoch.0));
        Ok(())
    }

    pub(super) async fn release(&mut self, node: usize, device: usize, back: usize) -> Result<(), Difference> {
        let before = self.reference.devices[device].clone();
        let epoch = before.epochs.iter().rev().nth(back).copied().unwrap_or(1);
        let released = self.calls(node).release(&before.key, Epoch(epoch), self.now(node)).await;
        let holder = before.holder.filter(|holder| holder.epoch == epoch);
        match released {
            Err(StoreError::UnknownDevice) if !before.known => {}
            Err(StoreError::RemovedDevice) if before.known && !before.present => {}
            Ok(true) if before.present && holder.is_some() => {
                self.reference.devices[device].holder = None;
                self.sessions[device] = None;
            }
            Ok(false) if before.present && holder.as_ref().is_none_or(|holder| holder.ghost) => {}
            other => {
                return differ(format!(
                    "the goodbye of epoch {epoch} was answered with {other:?}; the seat is {holder:?}"
                ));
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&mut self, node: usize, device: usize) -> Result<(), Difference> {
        let (now, before) = (self.now(node), self.reference.devices[device].clone());
        match self.world.store(node).remove_device(&before.key, now).await {
            Err(StoreError::UnknownDevice) if !before.known => Ok(()),
            Err(StoreError::RemovedDevice) if before.known && !before.present => Ok(()),
            Ok(seat) if before.present => {
                self.is_held(device, seat.as_ref())?;
                self.reference.remove(device, now);
                self.sessions[device] = None;
                Ok(())
            }
            other => differ(format!("the removal of {before:?} was answered with {other:?}")),
        }
    }

    pub(super) async fn add(&mut self, node: usize, device: usize) -> Result<(), Difference> {
        let key = self.key(device);
        let added = self
            .world
            .store(node)
            .put_device(&key, DeviceChange::default(), true, self.now(node))
            .await;
        let was_present = self.reference.devices[device].present;
        self.reference.add(device);
        let now = &self.reference.devices[device];
        match added {
            Ok((found, created)) if created != was_present && found.credential_generation == now.generation => Ok(()),
            other => differ(format!("{now:?} was added: {other:?}")),
        }
    }
}
