//! From the place where an event was born, which its id names, to where it is.

use super::{engine::Space, keys::Place, record::decode_end};
use crate::store::StoreError;

/// Where the event that was born at `place` is now, and its row. `None`: it does not wait.
pub(super) fn find<T>(place: Place, get: impl Fn(Space, &[u8]) -> Result<Option<T>, StoreError>) -> Result<Option<(Place, T)>, StoreError>
where
    T: AsRef<[u8]>,
{
    if let Some(row) = get(Space::Events, &place.event_key())? {
        return Ok(Some((place, row)));
    }
    let Some(row) = get(Space::Ends, &place.end_key())? else {
        return Ok(None);
    };
    let Some(number) = decode_end(row.as_ref())?.1.waits_at else {
        return Ok(None);
    };
    let place = Place { number, ..place };
    Ok(get(Space::Events, &place.event_key())?.map(|row| (place, row)))
}
