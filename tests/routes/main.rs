//! The HTTP parts over the real embedded store, without sockets: each request goes straight into the router.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bad_events;
mod devices;
mod events;
mod fuzz;
mod keys;
mod many;
mod scene;
mod several;
mod what_became;
