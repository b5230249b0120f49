//! What a receiver is told besides receipts, pure: that some are missing, and that other webhooks were disabled. Each is sent until it is
//! taken, with pauses of its own, so that one that a receiver does not understand holds up no other.

use std::collections::HashMap;

use crate::domain::{Gap, Timestamp};

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Notice {
    /// Receipts are missing, as was found then.
    Gap(Gap, Timestamp),
    /// The webhook of that id was disabled then.
    Disabled(String, Timestamp),
}

/// What came of a notice so far.
#[derive(Default)]
struct Tried {
    attempts: u32,
    again_at: Timestamp,
}

/// The notices of one webhook: one of them is sent at a time.
#[derive(Default)]
pub(super) struct Notices {
    tried: HashMap<Notice, Tried>,
    under_way: bool,
}

impl Notices {
    /// The first of those that are to be told that is due. It is under way from here on, until it is [`Self::taken`] or [`Self::put_off`].
    pub(super) fn next(&mut self, to_tell: Vec<Notice>, now: Timestamp) -> Option<Notice> {
        if self.under_way {
            return None;
        }
        self.tried.retain(|notice, _| to_tell.contains(notice));
        let is_due = |notice: &Notice| self.tried.get(notice).is_none_or(|tried| tried.again_at <= now);
        let notice = to_tell.into_iter().find(is_due)?;
        self.under_way = true;
        Some(notice)
    }

    /// It was taken.
    pub(super) fn taken(&mut self, notice: &Notice) {
        self.under_way = false;
        self.tried.remove(notice);
    }

    /// It was not, and is sent again at the time that `again_at` makes of the number of attempts.
    pub(super) fn put_off(&mut self, notice: Notice, again_at: impl FnOnce(u32) -> Timestamp) {
        self.under_way = false;
        let tried = self.tried.entry(notice).or_default();
        tried.attempts = tried.attempts.saturating_add(1);
        tried.again_at = again_at(tried.attempts);
    }

    /// The receiver is back, or is another one: nothing need wait for its time any more.
    pub(super) fn hurry(&mut self) {
        self.tried.values_mut().for_each(|tried| tried.again_at = Timestamp(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_one_that_is_not_taken_holds_up_no_other() {
        let all = || ["a", "b"].map(|id| Notice::Disabled(id.to_owned(), Timestamp(1))).to_vec();
        let [a, b] = [all()[0].clone(), all()[1].clone()];
        let mut notices = Notices::default();
        let now = Timestamp(10);
        assert_eq!(notices.next(all(), now), Some(a.clone()));
        assert_eq!(notices.next(all(), now), None, "one is under way");
        notices.put_off(a.clone(), |attempts| Timestamp(10 + u64::from(attempts)));
        assert_eq!(notices.next(all(), now), Some(b.clone()));
        notices.taken(&b);
        assert_eq!(notices.next(vec![a.clone()], now), None);
        assert_eq!(notices.next(vec![a.clone()], Timestamp(11)), Some(a.clone()));
        notices.put_off(a.clone(), |attempts| Timestamp(10 + u64::from(attempts)));
        assert_eq!(notices.next(vec![a.clone()], Timestamp(11)), None, "its second attempt");
        notices.hurry();
        assert_eq!(notices.next(vec![a.clone()], now), Some(a.clone()));
        notices.taken(&a);
        assert_eq!(notices.next(vec![], now), None);
        assert!(notices.tried.is_empty());
    }
}
