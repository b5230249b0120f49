//! What a person looks for when a device misbehaves: named in the log once, and told by the API of presence.

use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::{
    connection::{Connection, State},
    metrics::{Misbehaved, Reason},
    sessions::Entry,
    shared::Shared,
};
use crate::{
    domain::{DeviceId, TenantId, Timestamp},
    presence::{Incidents, LastClose},
    store::DeviceKey,
};

impl Connection {
    /// A device that has not taken what waits for it for some time is named, once until it took all of it.
    pub(super) fn watch_reader(&self, state: &mut State, now: Instant) {
        let waits = state.stalled_since.map(|since| now.saturating_duration_since(since));
        let Some(waits) = waits.filter(|waits| *waits >= self.shared.config.slow_after()) else {
            return;
        };
        if state.slow_since.is_some() {
            return;
        }
        let at = Timestamp(self.shared.clock.now().0.saturating_sub(millis(waits)));
        state.slow_since = Some(at);
        self.shared.metrics.misbehaved(Misbehaved::SlowReader);
        if let Some(seated) = &state.seated {
            tracing::warn!(
                device.id = %seated.key.device,
                bytes = state.queue.len(),
                "{} does not read: {} bytes wait for it since {} s",
                seated.key.device,
                state.queue.len(),
                waits.as_secs()
            );
        }
    }

    /// A device that sends too much is named, once until it paused.
    pub(super) fn watch_sender(&self, state: &mut State) {
        let flooding = state.stream.flooding();
        if flooding && !state.flooding {
            self.shared.metrics.misbehaved(Misbehaved::Flood);
            if let Some(seated) = &state.seated {
                tracing::warn!(
                    device.id = %seated.key.device,
                    "{} sends more than it may, and is read more slowly",
                    seated.key.device
                );
            }
        }
        state.flooding = flooding;
    }

    /// The device asked for another keepalive: presence, the ledger and the kernel follow.
    pub(super) fn keepalive(&self, state: &mut State, keepalive: Duration) {
        if let Some(seated) = &mut state.seated {
            // It spoke just now: time up to here counts as it was.
            self.shared.meter.proof(&mut seated.account, self.shared.clock.now());
            self.shared.meter.keepalive(&mut seated.account, keepalive);
        }
        self.backstop(keepalive);
    }

    /// Keepalive of the kernel, a backstop only: the stream asks for signs of life itself, and a device should not wake up twice.
    pub(super) fn backstop(&self, keepalive: Duration) {
        let backstop = TcpKeepalive::new()
            .with_time(keepalive * 2)
            .with_interval(self.shared.config.overdue());
        if let Err(error) = SockRef::from(&self.socket).set_tcp_keepalive(&backstop) {
            tracing::debug!(error = %error, "the keepalive of a connection was not set: {error}");
        }
    }
}

impl Shared {
    /// What is known of a device's behaviour.
    pub(super) fn incidents(&self, tenant: TenantId, device: &DeviceId) -> Incidents {
        let key = DeviceKey {
            tenant,
            device: device.clone(),
        };
        let (slow_since, flooding) = match self.sessions.get(&key) {
            Some(Entry::Live(connection)) => {
                let state = connection.state.lock();
                (state.slow_since, state.flooding)
            }
            _ => (None, false),
        };
        Incidents {
            slow_since,
            flooding,
            last_close: self.closes.get(&key),
            seat_changes: self.sessions.changes(&key, Instant::now()),
        }
    }

    /// Remembers why a connection ended.
    pub(super) fn closed(&self, key: &DeviceKey, reason: Reason) {
        let last = LastClose {
            reason: reason.as_str().into(),
            at: self.clock.now(),
        };
        self.closes.put(key.clone(), last);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
