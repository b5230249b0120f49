//! Waiting for news of a device without its seat.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::DeviceKey;

/// Who waits for news of which device. An engine owns one, and wakes it once what it stored can be read.
#[derive(Debug, Default)]
pub struct Watches {
    watched: Mutex<HashMap<DeviceKey, watch::Sender<()>>>,
}

impl Watches {
    /// Begins to wait for news of a device.
    pub fn watch(self: &Arc<Self>, device: &DeviceKey) -> Watch {
        Watch {
            woken: self.watched.lock().entry(device.clone()).or_default().subscribe(),
            device: device.clone(),
            watches: Arc::clone(self),
        }
    }

    /// The devices that somebody waits for.
    pub fn devices(&self) -> Vec<DeviceKey> {
        self.watched.lock().keys().cloned().collect()
    }

    /// Wakes whoever waits for one of these devices.
    pub fn wake<'a>(&self, devices: impl IntoIterator<Item = &'a DeviceKey>) {
        let watched = self.watched.lock();
        if watched.is_empty() {
            return;
        }
        for sender in devices.into_iter().filter_map(|device| watched.get(device)) {
            sender.send_replace(());
        }
    }
}

/// One wait for news of a device. Whatever is stored after it was made wakes it: make it first, then read the queue.
#[derive(Debug)]
pub struct Watch {
    woken: watch::Receiver<()>,
    device: DeviceKey,
    watches: Arc<Watches>,
}

impl Watch {
    /// Completes when something was stored since the last call. It is a hint: it may be late, and in a failure of the store
    /// never come, so look again after a while all the same.
    pub async fn woken(&mut self) {
        if self.woken.changed().await.is_err() {
            // Unreachable while this watch keeps its place; nothing more would come.
            std::future::pending::<()>().await;
        }
    }

    /// How many wait for this device, this one included.
    pub fn count(&self) -> usize {
        self.watches
            .watched
            .lock()
            .get(&self.device)
            .map_or(0, watch::Sender::receiver_count)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watches.watched.lock();
        // This one is still counted.
        if watched.get(&self.device).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::TenantId;

    fn key(device: &str) -> DeviceKey {
        DeviceKey {
            tenant: TenantId(0),
            device: device.parse().unwrap(),
        }
    }

    #[test]
    fn all_who_wait_for_a_device_are_woken_and_nobody_else() {
        let watches = Arc::new(Watches::default());
        let (mut one, mut two, mut other) = (watches.watch(&key("a")), watches.watch(&key("a")), watches.watch(&key("b")));
        assert_eq!((one.count(), other.count()), (2, 1));
        watches.wake([&key("a"), &key("c")]);
        assert!(one.woken().now_or_never().is_some(), "though it was not waiting at that moment");
        assert!(two.woken().now_or_never().is_some());
        assert!(other.woken().now_or_never().is_none());
        assert!(one.woken().now_or_never().is_none(), "it was told");
    }

    #[test]
    fn who_waits_no_more_leaves_nothing_behind() {
        let watches = Arc::new(Watches::default());
        let (one, two) = (watches.watch(&key("a")), watches.watch(&key("a")));
        drop(one);
        assert_eq!(two.count(), 1);
        drop(two);
        assert!(watches.watched.lock().is_empty());
    }
}
