//! Turns at the CPU for connections that log in: at most a few at once, so that sessions which are up never stand behind a
//! crowd. Who has begun goes before who is new, because a login that is finished makes room, and one that is not was in vain.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Of so many turns the last one goes to a newcomer, if one waits: they are never starved.
const NEWCOMER_EVERY: u32 = 4;

/// Who asks for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// It has logged in half-way, or shows a ticket of an earlier connection: most likely it resumes.
    Known,
    /// Nothing is known of it.
    Newcomer,
}

#[derive(Default)]
struct Queue {
    free: usize,
    known: VecDeque<oneshot::Sender<Turn>>,
    newcomers: VecDeque<oneshot::Sender<Turn>>,
    given: u32,
}

/// The turns of one gateway.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<Queue>>);

/// One turn; dropping it gives it to the next.
pub(super) struct Turn(Option<Arc<Mutex<Queue>>>);

impl Turns {
    /// At most `at_once` turns are out.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: at_once.max(1),
            ..Queue::default()
        })))
    }

    /// Waits for a turn. Who gives up waiting loses his place.
    pub(super) async fn take(&self, who: Who) -> Turn {
        loop {
            let called = {
                let mut queue = self.0.lock();
                if queue.free > 0 {
                    queue.free -= 1;
                    return Turn(Some(self.0.clone()));
                }
                let (call, called) = oneshot::channel();
                match who {
                    Who::Known => queue.known.push_back(call),
                    Who::Newcomer => queue.newcomers.push_back(call),
                }
                called
            };
            if let Ok(turn) = called.await {
                return turn;
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        let queue = self.0.lock();
        queue.known.len() + queue.newcomers.len()
    }
}

impl Queue {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.given = self.given.wrapping_add(1);
        let (first, second) = if self.given.is_multiple_of(NEWCOMER_EVERY) {
            (&mut self.newcomers, &mut self.known)
        } else {
            (&mut self.known, &mut self.newcomers)
        };
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        loop {
            let next = {
                let mut queue = shared.lock();
                match queue.next() {
                    Some(next) => next,
                    None => {
                        queue.free += 1;
                        return;
                    }
                }
            };
            match next.send(Self(Some(shared.clone()))) {
                Ok(()) => return,
                // It gave up waiting. Taken apart, the turn goes to the next here, not by another drop.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_has_begun_goes_first_and_newcomers_are_not_starved() {
        let turns = Turns::new(1);
        let first = turns.take(Who::Newcomer).now_or_never().unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, who) in [("n1", Who::Newcomer), ("n2", Who::Newcomer)]
            .into_iter()
            .chain((0..6).map(|_| ("k", Who::Known)))
        {
            let (waiting, task_turns, order) = (turns.waiting(), turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let turn = task_turns.take(who).await;
                order.lock().push(name);
                drop(turn);
            }));
            while turns.waiting() == waiting {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["k", "k", "k", "n1", "k", "k", "k", "n2"]);
    }

    #[tokio::test]
    async fn who_gives_up_loses_his_place_and_no_turn_is_lost() {
        let turns = Turns::new(2);
        let held = (turns.take(Who::Known).await, turns.take(Who::Known).await);
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.take(Who::Newcomer))).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        // One was called and never looks, the others are gone before they are called.
        waiting.truncate(50);
        drop(held.0);
        drop(waiting);
        drop(held.1);
        assert_eq!(turns.waiting(), 0);
        assert_eq!(turns.0.lock().free, 2);
    }
}
