//! The door on the real store, without sockets.
