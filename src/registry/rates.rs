//! `limits` in the body of a tenant or a key: how much may be posted.

use crate::{
    domain::{RateLimit, Refusal},
    http::json::{Field, Fields},
};

/// The largest number of either kind.
pub(super) const MOST: u32 = 10_000_000;

/// Takes `limits` out: `{"deliveries_per_second", "burst"}`, where `burst` is as many as a second has when it is left out. `None`
/// when there are none, or `null`.
pub(super) fn take(fields: &mut Fields<'_>) -> Result<Option<RateLimit>, Refusal> {
    let Some(field) = fields.take("limits").filter(|field| !field.is_null()) else {
        return Ok(None);
    };
    let mut limits = field.object()?;
    let deliveries_per_second = number(&limits.need("deliveries_per_second")?)?;
    let burst = match limits.take("burst") {
        Some(field) => number(&field)?,
        None => deliveries_per_second,
    };
    limits.finish()?;
    Ok(Some(RateLimit {
        deliveries_per_second,
        burst,
    }))
}

fn number(field: &Field<'_>) -> Result<u32, Refusal> {
    let number = field.integer()?;
    let found = u32::try_from(number).ok().filter(|number| (1..=MOST).contains(number));
    found.ok_or_else(|| field.invalid(format!("it is {number}; 1 to {MOST} are allowed")))
}
