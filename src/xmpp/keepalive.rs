//! The keepalive that a device asks for (design §4.5): `<keepalive xmlns='urn:unpoll:event:1' seconds='…'/>` in its available
//! presence. The echo of the presence carries what it gets, within the bounds; it holds for the session, resumptions included.

use std::{io::Write as _, time::Duration};

use super::{action::Action, element::Tag, ns, stream::ServerStream};

/// What a presence asks for, in seconds.
fn asked(presence: Tag<'_>) -> Option<u64> {
    presence.child("keepalive", ns::EVENT)?.attribute("seconds")?.parse().ok()
}

/// Appends what it gets.
pub(super) fn write(out: &mut Vec<u8>, keepalive: Duration) {
    // Writing to a Vec cannot fail.
    _ = write!(out, "<keepalive xmlns='{}' seconds='{}'/>", ns::EVENT, keepalive.as_secs());
}

impl ServerStream {
    /// Silence after which the device is asked for a sign of life.
    pub(super) fn keepalive(&self) -> Duration {
        let own = self.session.as_ref().and_then(|session| session.keepalive);
        own.unwrap_or(self.config.keepalive)
    }

    /// Takes what a presence asks for; answers what it gets. A presence that asks for nothing changes nothing.
    pub(super) fn negotiate_keepalive(&mut self, presence: Tag<'_>) -> Option<Duration> {
        let asked = Duration::from_secs(asked(presence)?);
        let given = asked.min(self.config.keepalive_max).max(self.config.keepalive_min);
        let session = self.session.as_mut()?;
        if session.keepalive.replace(given) != Some(given) {
            self.actions.push_back(Action::Keepalive(given));
        }
        Some(given)
    }
}
