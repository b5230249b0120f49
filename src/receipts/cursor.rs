//! Where a consumer is in the receipts of its tenant.

use axum::http::HeaderMap;

pub(super) use crate::domain::ReceiptCursor as Cursor;
use crate::{
    domain::{Generation, Missing, Refusal},
    http::{Parameters, single},
    store::FeedBounds,
};

/// Where a consumer wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With what comes now.
    Now,
    /// With the oldest that is kept.
    Oldest,
    /// Behind what it has seen.
    Behind(Cursor),
}

impl Start {
    /// Reads it: a header that a client repeats by itself, and is the newer one, comes before the parameters.
    pub(super) fn take(headers: &HeaderMap, parameters: &mut Parameters) -> Result<Self, Refusal> {
        const WHY: &str = "it is not an id of this stream; leave it out to begin with what comes now, or say from=oldest";
        let last = parameters.take("last_event_id")?;
        let from = parameters.take("from")?;
        let refuse = |name: &str, why: String| Refusal::InvalidParameter {
            name: name.to_owned(),
            why,
        };
        let from = match from.as_deref() {
            None => None,
            Some("now") => Some(Self::Now),
            Some("oldest") => Some(Self::Oldest),
            Some(other) => return Err(refuse("from", format!("{other:?} is neither now nor oldest"))),
        };
        let last = match last.filter(|last| !last.is_empty()) {
            None => None,
            Some(last) => Some(last.parse().map_err(|()| refuse("last_event_id", WHY.to_owned()))?),
        };
        if let Some(last) = single(headers, "last-event-id")?.filter(|last| !last.is_empty()) {
            return last.parse().map(Self::Behind).map_err(|()| Refusal::InvalidField {
                field: "Last-Event-ID".to_owned(),
                why: WHY.to_owned(),
            });
        }
        Ok(last.map(Self::Behind).or(from).unwrap_or(Self::Now))
    }
}

/// Where a stream begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// All up to here is behind it.
    pub(super) position: u64,
    /// What is missing: the first and the last position, where they are known.
    pub(super) missing: Option<(Missing, Option<(u64, u64)>)>,
}

impl Begin {
    /// Where a consumer that wants to begin at `start` begins in what there is. Pure.
    pub(super) fn at(start: Start, generation: Generation, bounds: FeedBounds) -> Self {
        let behind_all = bounds.oldest.saturating_sub(1);
        let at = |position| Self { position, missing: None };
        match start {
            Start::Now => at(bounds.newest),
            Start::Oldest => at(behind_all),
            // What it has seen of what is here nobody can tell: all of it comes.
            Start::Behind(cursor) if cursor.generation != generation => Self {
                position: behind_all,
                missing: Some((Missing::OtherStore, None)),
            },
            Start::Behind(Cursor { position, .. }) => Self {
                position: bounds.nearest(position),
                missing: bounds
                    .missing_behind(position)
                    .map(|(missing, from, to)| (missing, Some((from, to)))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_begins_where_nothing_is_skipped_without_a_word() {
        let here = Generation(7);
        let behind = |position| {
            Start::Behind(Cursor {
                position,
                generation: here,
            })
        };
        let check = |start, oldest, newest, position, missing| {
            let found = Begin::at(start, here, FeedBounds { oldest, newest });
            assert_eq!(found, Begin { position, missing }, "{start:?} in {oldest}..={newest}");
        };
        check(Start::Now, 0, 0, 0, None);
        check(Start::Now, 3, 9, 9, None);
        check(Start::Oldest, 0, 0, 0, None);
        check(Start::Oldest, 3, 9, 2, None);
        check(behind(0), 1, 9, 0, None);
        check(behind(2), 3, 9, 2, None);
        check(behind(9), 3, 9, 9, None);
        check(behind(1), 3, 9, 2, Some((Missing::Dropped, Some((2, 2)))));
        check(behind(0), 3, 9, 2, Some((Missing::Dropped, Some((1, 2)))));
        check(behind(12), 3, 9, 9, Some((Missing::Lost, Some((10, 12)))));
        check(behind(u64::MAX), 0, 0, 0, Some((Missing::Lost, Some((1, u64::MAX)))));
        let elsewhere = Start::Behind(Cursor {
            position: 5,
            generation: Generation(8),
        });
        check(elsewhere, 3, 9, 2, Some((Missing::OtherStore, None)));
    }
}
