//! Fake devices and a light HTTP backend, to test and to load an unpoll server from outside.
//!
//! The device is a reading of the RFCs of its own: it shares no code with the server, so that two readings must agree.
//! It is checked against a foreign server (Prosody) in `tests/prosody.rs`.
//!
//! The way through it: [`transport`] opens the socket, [`frame`] cuts the stream into stanzas, [`xml`] reads one, [`sasl`] proves
//! the password, [`sasl2`] in one round trip, [`options`] say what a device is like, [`session`] is the stream, [`event`] understands what arrives, [`record`] keeps what was applied,
//! [`device`] is what a test holds, [`crowd`] is many of them for little memory, [`wander`] is many with several nodes to go to, [`raw`] is the bare stream for protocol tests.
//! [`poller`] is a box that still polls, [`counted`] what its socket carried; [`poster`] is the backend's side, both read an
//! [`answer`]. [`server`] starts a server, [`process`] and [`report`] measure.

pub mod answer;
mod attendant;
pub mod counted;
pub mod crowd;
pub mod device;
pub mod dice;
pub mod error;
pub mod event;
pub mod frame;
mod login;
pub mod options;
pub mod poller;
pub mod poster;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod record;
pub mod redis;
pub mod report;
pub mod sasl;
pub mod sasl2;
pub mod server;
pub mod session;
pub mod storm;
pub mod transport;
pub mod wander;
pub mod xml;

pub use answer::Answer;
pub use counted::Traffic;
pub use device::{Device, Kill, Resumption};
pub use error::Error;
pub use options::{Acks, Login, Managed, Options};
pub use poller::{Door, Poller};
pub use poster::Poster;
pub use raw::Raw;
pub use sasl::{Mechanism, Password};
pub use session::Session;
pub use transport::{Security, Trust};
