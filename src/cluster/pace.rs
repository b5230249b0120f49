//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double, each up to a half longer by chance, so that nodes that lost one another at once do not return at once.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        let mut byte = [0];
        // Without random bytes there is no chance in it.
        let chance = aws_lc_rs::rand::fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
        pause + pause * chance / 512
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut pauses = Pauses::default();
        let mut wanted = FIRST;
        for _ in 0..12 {
            let pause = pauses.next();
            assert!(pause >= wanted && pause < wanted * 3 / 2, "{pause:?}");
            wanted = (wanted * 2).min(LONGEST);
        }
    }
}
