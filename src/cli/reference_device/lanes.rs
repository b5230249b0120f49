//! What a device remembers against repeats: one number a lane.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Lanes that are remembered. There are four urgencies in two stores; more come only with a new generation of the store, and
/// then the oldest are of no use.
const LANES_MAX: usize = 64;

/// The last number applied in each lane, the lane heard from last at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lanes(VecDeque<(String, u64)>);

impl Lanes {
    /// Whether number `seq` of `lane`, or a higher one, was applied.
    pub fn knows(&self, lane: &str, seq: u64) -> bool {
        self.0.iter().any(|(name, last)| name == lane && seq <= *last)
    }

    /// Whether number `seq` of `lane` is new; it counts as applied from then on.
    pub fn is_news(&mut self, lane: &str, seq: u64) -> bool {
        let known = self.0.iter().position(|(name, _)| name == lane).and_then(|at| self.0.remove(at));
        let (name, last) = match known {
            Some((name, last)) => (name, Some(last)),
            None => (lane.to_owned(), None),
        };
        if self.0.len() >= LANES_MAX {
            self.0.pop_front();
        }
        let news = last.is_none_or(|last| seq > last);
        self.0.push_back((name, if news { seq } else { last.unwrap_or(seq) }));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_known_by_one_number_a_lane() {
        let mut lanes = Lanes::default();
        let mut check = |lane: &str, seq, expected| assert_eq!(lanes.is_news(lane, seq), expected, "{lane} {seq}");
        check("normal.3f", 1, true);
        check("normal.3f", 1, false);
        check("high.3f", 1, true);
        check("normal.3f", 7, true); // holes are expired or replaced events
        check("normal.3f", 6, false);
        check("normal.3f", 7, false);
        check("normal.40", 1, true); // another generation of the store starts anew
        check("normal.3f", 8, true);
    }

    #[test]
    fn the_lanes_heard_from_last_are_kept() {
        let mut lanes = Lanes::default();
        for number in 0..LANES_MAX {
            assert!(lanes.is_news(&format!("lane-{number}"), 5));
        }
        assert!(!lanes.is_news("lane-0", 5));
        assert!(lanes.is_news("one more", 5));
        assert_eq!(lanes.0.len(), LANES_MAX);
        assert!(!lanes.is_news("lane-0", 5));
        assert!(lanes.is_news("lane-1", 5), "the one not heard from for longest is gone");
    }
}
