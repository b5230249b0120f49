//! Where a consumer is in the receipts of its tenant.

use std::{fmt, str::FromStr};

use axum::http::HeaderMap;

use crate::{
    domain::{Generation, Refusal},
    http::{Parameters, single},
    store::FeedBounds,
};

/// The id of a server-sent event, `1207.3f`: a position, and the life of the store in which it was given. Another life may give the same
/// position to another receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) position: u64,
    pub(super) generation: Generation,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.position, self.generation.0)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, generation) = text.split_once('.').ok_or(())?;
        let cursor = Self {
            position: position.parse().map_err(drop)?,
            generation: Generation(u32::from_str_radix(generation, 16).map_err(drop)?),
        };
        // One that this service did not write is none of its cursors.
        if cursor.to_string() == text { Ok(cursor) } else { Err(()) }
    }
}

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

/// What became of receipts that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They were kept as long as is set.
    Dropped,
    /// The store lost them.
    Lost,
    /// They are those of another store, or of another life of this one.
    OtherStore,
}

impl Missing {
    pub(super) const ALL: [Self; 3] = [Self::Dropped, Self::Lost, Self::OtherStore];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Lost => "lost",
            Self::OtherStore => "other-store",
        }
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
        let gap = |position, missing, range| Self {
            position,
            missing: Some((missing, range)),
        };
        match start {
            Start::Now => at(bounds.newest),
            Start::Oldest => at(behind_all),
            // What it has seen of what is here nobody can tell: all of it comes.
            Start::Behind(cursor) if cursor.generation != generation => gap(behind_all, Missing::OtherStore, None),
            Start::Behind(Cursor { position, .. }) if position > bounds.newest => {
                gap(bounds.newest, Missing::Lost, Some((bounds.newest + 1, position)))
            }
            Start::Behind(Cursor { position, .. }) if position < behind_all => {
                gap(behind_all, Missing::Dropped, Some((position + 1, behind_all)))
            }
            Start::Behind(cursor) => at(cursor.position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_in_no_other_way() {
        let cursor: Cursor = "1207.3f".parse().unwrap();
        assert_eq!((cursor.position, cursor.generation), (1207, Generation(0x3f)));
        assert_eq!(cursor.to_string(), "1207.3f");
        for text in [
            "",
            "1207",
            "1207.",
            ".3f",
            "+1.3f",
            "01.3f",
            "1.3F",
            "1.03f",
            "-1.3f",
            "1.3f.1",
            "1.1ffffffff",
            "1 .3f",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(()), "{text}");
        }
    }

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
