//! The protocol, pure: no socket, clock or store. Bytes and facts go in, with the time; bytes and actions come out.
//!
//! [`ServerStream`] is one connection's stream (RFC 6120); [`Session`] is what outlives a connection (XEP-0198 §5). The
//! socket loop around it (`gateway`) is short and dull: it feeds what it read, answers [`Action`]s, and writes `output`.
//!
//! Inside, `framer` makes frames of bytes, and the stage that the stream is in takes them: `header`, `login` and `bind`
//! before there is a session, `stanza` and `management` in it. `push` writes events, `liveness` has the timers.

mod action;
mod bind;
mod bind2;
mod config;
mod disco;
mod element;
mod error;
mod event;
mod external;
mod flood;
mod framer;
mod framing;
mod header;
mod keepalive;
mod lifetime;
mod liveness;
mod login;
mod management;
mod namespaces;
mod ns;
mod outcome;
mod push;
mod reported;
mod sasl;
mod sasl2;
mod session;
mod standby;
mod stanza;
pub mod stream;
mod text;
mod traffic;
mod window;

#[cfg(test)]
mod tests;

pub use action::{Action, Credentials, Ended, Pinned, SessionEnd, Telling};
pub use config::{Hosts, StreamConfig};
pub use error::StreamError;
pub use external::PeerCertificate;
pub use flood::FloodLimits;
pub use framing::{Framing, Message, Unreadable, messages};
pub use push::Pushed;
pub use sasl::binding::Bindings;
pub use session::Session;
pub use stream::ServerStream;
pub use traffic::{LifeSign, Traffic};

/// The names of all SASL mechanisms that a device can log in by, the safest first.
pub fn mechanisms() -> impl Iterator<Item = &'static str> {
    sasl::Mechanism::all().map(sasl::Mechanism::name)
}
