//! Which idempotency keys a device may have, so that the engine is not asked for each new one.
//!
//! Nearly every key is new, and to learn that from the engine takes a look into each of its tables in RAM and filters of many on the disk.
//! A device that is given keys again and again has two bytes of each here. They may say yes to a key that is new, or is forgotten by now,
//! and never no to one that is kept.

use std::time::Duration;

use fjall::Slice;

use super::{
    draft::Draft,
    engine::Space,
    keys::{self, IdempotencyKey},
};
use crate::{domain::Timestamp, store::StoreError};

/// Keys of a device that are remembered, at most: 2 KiB. One that has more is asked for at the engine.
const KEYS_MAX: usize = 1_024;
/// How often the engine is asked before it is read which keys the device has: one that is given a key now and then is not worth that.
const ASKED_MAX: u8 = 4;

/// The keys of one device.
#[derive(Debug)]
pub(super) enum KnownKeys {
    /// Nobody looked; the engine was asked so often.
    Unknown { asked: u8 },
    /// All of them, by the last two bytes of their rows' keys.
    All {
        /// Those that are kept and, as nobody takes any out, those that were since it was read.
        known: Vec<u16>,
        /// When to read them anew.
        until: Timestamp,
    },
    /// Too many, until then.
    Many { until: Timestamp },
}

impl Default for KnownKeys {
    fn default() -> Self {
        Self::Unknown { asked: 0 }
    }
}

impl KnownKeys {
    /// The row of a key as the draft has it, if the device may have it. What is read of it at `now` is good for `kept`, as long as a key
    /// is kept.
    pub(super) fn find(
        &mut self,
        draft: &Draft<'_>,
        key: &IdempotencyKey,
        now: Timestamp,
        kept: Duration,
    ) -> Result<Option<Slice>, StoreError> {
        match self {
            Self::All { until, .. } | Self::Many { until } if now >= *until => *self = Self::default(),
            _ => {}
        }
        if let Self::Unknown { asked } = self {
            *asked += 1;
            if *asked > ASKED_MAX {
                *self = Self::read(draft, key, now.plus(kept))?;
            }
        }
        match self {
            Self::All { known, .. } if !known.contains(&short(key)) => Ok(None),
            _ => draft.get(Space::Ends, key),
        }
    }

    fn read(draft: &Draft<'_>, key: &IdempotencyKey, until: Timestamp) -> Result<Self, StoreError> {
        let mut known = Vec::new();
        for key in draft.keys(Space::Ends, keys::of_same_device(key)) {
            if known.len() >= KEYS_MAX {
                return Ok(Self::Many { until });
            }
            known.push(short(&key?));
        }
        Ok(Self::All { known, until })
    }

    /// The device has this key now.
    pub(super) fn add(&mut self, key: &IdempotencyKey) {
        match self {
            Self::All { known, .. } if known.len() < KEYS_MAX => known.push(short(key)),
            Self::All { until, .. } => *self = Self::Many { until: *until },
            Self::Unknown { .. } | Self::Many { .. } => {}
        }
    }
}

fn short(key: &[u8]) -> u16 {
    match key {
        [.., a, b] => u16::from_be_bytes([*a, *b]),
        _ => 0,
    }
}
