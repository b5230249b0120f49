//! When to send again.

use std::time::Duration;

use crate::domain::Timestamp;

/// The pause after that many attempts that failed: it doubles from `first` up to `max`, and a random half of it is left out, so that
/// what failed together does not come again together.
pub(super) fn pause(attempts: u32, first: Duration, max: Duration, random: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).filter(|factor| *factor > 0);
    let whole = doubled
        .and_then(|factor| first.checked_mul(factor))
        .map_or(max, |pause| pause.min(max));
    let half = whole / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Random bits for [`pause`]. A system that gives none takes the middle.
pub(super) fn random() -> u32 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u32::from_be_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}

/// The pause that `Retry-After` asks for (RFC 9110 §10.2.3), seconds or a date. `None`: it is neither.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_millisecond();
    Some(Timestamp(u64::try_from(date).unwrap_or(0)).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(3_600);

    #[test]
    fn pauses_double_within_their_bounds() {
        let check = |attempts, random, expected: u64| {
            assert_eq!(
                pause(attempts, FIRST, MAX, random).as_millis(),
                u128::from(expected),
                "{attempts} {random}"
            );
        };
        check(1, 0, 500);
        check(1, u32::MAX, 1_000);
        check(2, u32::MAX, 2_000);
        check(12, u32::MAX, 2_048_000);
        check(13, u32::MAX, 3_600_000);
        check(32, 0, 1_800_000);
        check(33, 0, 1_800_000);
        check(u32::MAX, u32::MAX, 3_600_000);
        check(0, u32::MAX, 1_000);
    }

    #[test]
    fn a_receiver_says_when() {
        let now: Timestamp = "2026-11-29T10:00:00Z".parse().unwrap();
        let check = |value, expected: Option<u64>| assert_eq!(retry_after(value, now).map(|pause| pause.as_secs()), expected, "{value}");
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("99999999999999999999999", Some(u64::MAX));
        check("Sun, 29 Nov 2026 10:02:00 GMT", Some(120));
        check("Sun, 29 Nov 2026 09:00:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
        check("", None);
    }
}
