//! Where the events of a request come from, one after the other.

use std::vec;

use bytes::Bytes;

use crate::{domain::Refusal, http::Lines};

/// The events that are still to come.
pub(super) enum Source {
    /// Of a batch: they are all here.
    Batch(vec::IntoIter<Bytes>),
    /// Lines, as they arrive.
    Lines(Lines),
}

/// The text of one event; `None`: it is longer than allowed, and was skipped.
pub(super) type Item = Option<Bytes>;

impl Source {
    /// The next one. `None`: that was the last. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// `BodyTooSlow`, `BodyBroken`: what came before stands.
    pub async fn next(&mut self) -> Result<Option<Item>, Refusal> {
        match self {
            Self::Batch(items) => Ok(items.next().map(Some)),
            Self::Lines(lines) => Ok(lines.next().await?.map(|line| line.bytes)),
        }
    }

    /// Whether a part of an event is here whose rest did not come.
    pub fn is_unfinished(&self) -> bool {
        match self {
            Self::Batch(_) => false,
            Self::Lines(lines) => lines.is_unfinished(),
        }
    }
}
