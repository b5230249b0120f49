//! The protocol, pure: no socket, clock or store. Bytes and facts go in, with the time; bytes and actions come out.
//!
//! [`ServerStream`] is one connection's stream (RFC 6120); [`Session`] is what outlives a connection (XEP-0198 §5). The
//! socket loop around it (`gateway`) is short and dull: it feeds what it read, answers [`Action`]s, and writes `output`.

pub mod stream;

pub use stream::{Action, Credentials, Ended, LifeSign, ServerStream, Session, SessionEnd, StreamConfig, StreamError, Traffic};
