//! Random numbers that a seed decides, so that a run can be made again.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for the one of that number.
    #[must_use]
    pub fn of(&self, number: u64) -> Self {
        let mut other = Self(self.0 ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        other.next();
        other
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// A time up to that.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_others_throw_otherwise() {
        let throw = |mut dice: Dice| -> Vec<u64> { (0..20).map(|_| dice.below(1_000)).collect() };
        let dice = Dice::new(7);
        assert_eq!(throw(dice.clone()), throw(Dice::new(7)));
        assert_ne!(throw(dice.clone()), throw(Dice::new(8)));
        assert_ne!(throw(dice.of(1)), throw(dice.of(2)));
        assert!(throw(dice).iter().any(|thrown| *thrown >= 500));
    }
}
