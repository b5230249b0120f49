//! What nodes tell one another: hints. The store stays the truth, so each of them may be lost, late or repeated.

use std::{net::SocketAddr, sync::Arc};

use super::{Arrival, DeviceKey};
use crate::domain::Epoch;

/// Something that the node of a session should know.
#[derive(Debug, Clone)]
pub enum Hint {
    /// An event was stored for a device whose session is there.
    Arrived(Arrival),
    /// A newer session holds the seat; the one of that epoch or an older one is over.
    Displaced {
        /// Whose seat.
        device: DeviceKey,
        /// The holder that was displaced.
        epoch: Epoch,
    },
    /// The device was removed; its session of that epoch is over.
    Removed {
        /// Which device.
        device: DeviceKey,
        /// The holder of its seat.
        epoch: Epoch,
    },
}

/// A hint and the node that it is for.
#[derive(Debug, Clone)]
pub struct Addressed {
    /// The node's name, `n3`.
    pub node: Arc<str>,
    /// What to tell it.
    pub hint: Hint,
}

/// Another live node, as it published itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, `n3`.
    pub node: Arc<str>,
    /// Which life of that name.
    pub incarnation: u32,
    /// Where it takes hints.
    pub address: SocketAddr,
    /// SHA-256 of the certificate that it shows there, in DER.
    pub fingerprint: [u8; 32],
}
