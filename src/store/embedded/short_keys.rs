//! Idempotency keys of a store that an earlier version wrote: their rows had all 16 bytes of the key.

use super::{
    draft::Draft,
    engine::{Engine, Space},
};
use crate::store::StoreError;

/// There once no key is longer than today's.
pub(super) const DONE: &[u8] = b"Mshort-keys";
/// Rows of one commit.
const TOGETHER: usize = 2_000;
/// How long rows were, and are.
const LONG: usize = 23;
const SHORT: usize = 20;

/// Gives every idempotency key its row of today, so that what was accepted before is still a repeat.
pub(super) fn shorten(engine: &Engine) -> Result<(), StoreError> {
    if engine.get(Space::Rows, DONE)?.is_some() {
        return Ok(());
    }
    let (mut draft, mut count) = (Draft::new(engine), 0);
    for row in engine.prefix(Space::Ends, b"i") {
        let (key, row) = row?;
        let Some(short) = key.get(..SHORT).filter(|_| key.len() == LONG) else {
            continue;
        };
        draft.put(Space::Ends, short, row);
        draft.remove(Space::Ends, key);
        count += 1;
        if count % TOGETHER == 0 {
            engine.commit(std::mem::replace(&mut draft, Draft::new(engine)).finish())?;
        }
    }
    draft.put(Space::Rows, DONE, Vec::new());
    draft.must_sync();
    engine.commit(draft.finish())?;
    if count > 0 {
        tracing::info!("{count} idempotency keys have shorter rows now");
    }
    Ok(())
}
