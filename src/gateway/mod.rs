//! Doors to devices: sockets, TLS, sessions.

mod link;

pub use link::{Behind, Link, Links, Offer};
