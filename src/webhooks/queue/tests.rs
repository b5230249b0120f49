//! Order, bounds, and what is stored when.

use std::collections::HashMap as Map;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_000);

fn receipt(position: u64, device: &str) -> Receipt {
    let receipt = serde_json::json!({
        "position": position, "event": "e", "device": device, "state": "delivered", "at": Timestamp(position), "latency_ms": 0,
    });
    serde_json::from_value(receipt).unwrap()
}

fn queue(receipts: &[(u64, &str)]) -> Queue {
    let mut queue = Queue::new(0, Vec::new());
    let read = receipts.last().map_or(0, |(position, _)| *position);
    queue.take(receipts.iter().map(|(position, device)| receipt(*position, device)), read, NOW);
    queue
}

fn next(queue: &mut Queue, now: u64) -> Option<u64> {
    queue.next(Timestamp(now)).map(|unsent| unsent.receipt.position)
}

fn positions(unsent: &[Unsent]) -> Vec<u64> {
    unsent.iter().map(|unsent| unsent.receipt.position).collect()
}

#[test]
fn one_of_a_device_at_a_time_and_the_cursor_waits_for_the_first_that_is_open() {
    let mut queue = queue(&[(1, "a"), (2, "a"), (3, "b"), (5, "c")]);
    assert_eq!([(); 4].map(|()| next(&mut queue, 1_000)), [Some(1), Some(3), Some(5), None]);
    queue.sent(3);
    assert_eq!(queue.cursor(), 0);
    queue.sent(1);
    assert_eq!((queue.cursor(), next(&mut queue, 1_000)), (1, Some(2)));
    queue.sent(2);
    assert_eq!(queue.cursor(), 4, "positions may leap");
    queue.sent(5);
    assert_eq!((queue.cursor(), queue.oldest()), (5, None));
    assert!(queue.is_clean());
    assert_eq!(queue.delta(), Delta::default());
}

#[test]
fn what_fails_waits_with_its_device_and_the_others_go_on() {
    let mut queue = queue(&[(1, "a"), (2, "b"), (3, "a")]);
    assert_eq!((next(&mut queue, 1_000), next(&mut queue, 1_000)), (Some(1), Some(2)));
    queue.put_off(1, Timestamp(2_000), "status 500".into());
    queue.sent(2);
    assert_eq!((queue.waiting(), queue.cursor()), (2, 3));
    queue.take([receipt(4, "a"), receipt(6, "b")], 6, NOW);
    assert_eq!((next(&mut queue, 1_999), next(&mut queue, 1_999)), (Some(6), None));
    assert_eq!((queue.waiting(), queue.cursor(), queue.due_at()), (3, 5, Some(Timestamp(2_000))));
    let delta = queue.delta();
    assert_eq!((positions(&delta.waiting), delta.done.len()), (vec![1, 3, 4], 0));
    assert_eq!((delta.waiting[0].attempts, delta.waiting[1].attempts), (1, 0));
    assert_eq!(delta.waiting[0].error.as_deref(), Some("status 500"));
    queue.sent(6);
    // It comes through: those behind it follow at once, one after another.
    for position in [1, 3, 4] {
        assert_eq!((next(&mut queue, 2_000), next(&mut queue, 2_000)), (Some(position), None));
        queue.sent(position);
    }
    assert_eq!((queue.waiting(), queue.cursor()), (0, 6));
    let delta = queue.delta();
    assert_eq!((delta.waiting.len(), delta.done), (0, vec![1, 3, 4]));
}

#[test]
fn what_is_given_up_is_a_dead_letter_and_sets_its_device_free() {
    let mut queue = queue(&[(1, "a"), (2, "a")]);
    next(&mut queue, 1_000);
    queue.put_off(1, Timestamp(2_000), "x".into());
    next(&mut queue, 2_000);
    queue.give_up(1, Timestamp(2_000), "y".into());
    let delta = queue.delta();
    assert_eq!((positions(&delta.dead), positions(&delta.waiting)), (vec![1], vec![2]));
    assert_eq!((delta.dead[0].attempts, delta.dead[0].error.as_deref()), (2, Some("y")));
    assert!(delta.done.is_empty(), "it never had a row");
    assert_eq!(next(&mut queue, 2_000), Some(2));
    queue.sent(2);
    assert_eq!(queue.delta().done, [2]);
}

#[test]
fn when_too_much_waits_nothing_more_is_read() {
    let config = Config {
        window_max: 4,
        waiting_max: 3,
        stuck_devices_max: 2,
        ..Config::default()
    };
    let mut stuck = queue(&[(1, "a"), (2, "b")]);
    assert_eq!(stuck.room(&config), 2);
    next(&mut stuck, 1_000);
    stuck.put_off(1, Timestamp(2_000), String::new());
    assert_eq!(stuck.room(&config), 3);
    next(&mut stuck, 1_000);
    stuck.put_off(2, Timestamp(2_000), String::new());
    assert_eq!(stuck.room(&config), 0, "two devices are stuck");
    next(&mut stuck, 2_000);
    stuck.sent(1);
    assert_eq!(stuck.room(&config), 4);

    let mut full = queue(&[(1, "a"), (2, "a"), (3, "a")]);
    next(&mut full, 1_000);
    full.put_off(1, Timestamp(2_000), String::new());
    assert_eq!(full.room(&config), 0, "three wait");
}

#[test]
fn a_receiver_that_is_back_is_not_waited_for() {
    let mut queue = queue(&[(1, "a"), (2, "b"), (3, "c")]);
    for position in 1..=3 {
        next(&mut queue, 1_000);
        queue.put_off(position, Timestamp(9_000 * position), String::new());
    }
    queue.hurry(NOW, Duration::from_millis(300));
    assert_eq!(queue.due_at(), Some(Timestamp(1_100)));
    assert_eq!([(); 4].map(|()| next(&mut queue, 1_300)), [Some(1), Some(2), Some(3), None]);
}

#[test]
fn one_that_was_interrupted_is_due_again() {
    let mut queue = queue(&[(1, "a")]);
    assert_eq!(next(&mut queue, 1_000), Some(1));
    queue.put_back(1);
    assert_eq!((queue.cursor(), next(&mut queue, 1_000)), (0, Some(1)));
}

/// A store that is no more than the contract of one, and a receiver that takes each device's receipts in order.
struct Model {
    cursor: u64,
    waiting: BTreeMap<u64, Unsent>,
    dead: BTreeSet<u64>,
    /// The newest position that each device's receiver has taken, for the first time.
    taken: Map<String, Vec<u64>>,
    /// Given up at some time, and by a process that was killed, too: nothing waits for these any more.
    given_up: BTreeSet<u64>,
}

impl Model {
    fn store(&mut self, queue: &mut Queue) {
        self.cursor = queue.cursor();
        let delta = queue.delta();
        for position in delta.done {
            self.waiting.remove(&position);
        }
        for unsent in delta.waiting {
            self.waiting.insert(unsent.receipt.position, unsent);
        }
        for unsent in delta.dead {
            self.waiting.remove(&unsent.receipt.position);
            self.dead.insert(unsent.receipt.position);
        }
    }

    fn reopen(&self) -> Queue {
        Queue::new(self.cursor, self.waiting.values().cloned().collect())
    }

    fn take(&mut self, unsent: &Unsent) {
        let taken = self.taken.entry(unsent.receipt.device.clone()).or_default();
        if !taken.contains(&unsent.receipt.position) {
            taken.push(unsent.receipt.position);
        }
    }
}

proptest! {
    /// Whatever fails, and whenever the process is killed: each receipt is taken or a dead letter at the end, and each device's first
    /// takes are in order.
    #[test]
    fn nothing_is_lost_and_order_is_kept(steps in prop::collection::vec((0_u8..8, 0_u8..6), 1..400)) {
        const LAST: u64 = 60;
        let log: Vec<Receipt> = (1..=LAST).map(|position| receipt(position, ["a", "b", "c", "d"][position as usize % 4])).collect();
        let config = Config { window_max: 5, waiting_max: 9, stuck_devices_max: 3, ..Config::default() };
        let mut model = Model { cursor: 0, waiting: BTreeMap::new(), dead: BTreeSet::new(), taken: Map::new(), given_up: BTreeSet::new() };
        let (mut queue, mut sending, mut now) = (model.reopen(), Vec::<Unsent>::new(), 1_u64);
        let calm = std::iter::repeat_n([(0, 0), (1, 0), (2, 0), (6, 5)], 400).flatten();
        for (step, which) in steps.into_iter().chain(calm) {
            now += u64::from(which);
            match step {
                0 => {
                    let (room, read) = (queue.room(&config), queue.read());
                    let page: Vec<Receipt> = log.iter().filter(|receipt| receipt.position > read).take(room).cloned().collect();
                    let read = page.last().map_or(read, |last| last.position);
                    queue.take(page, read, Timestamp(now));
                }
                1 => sending.extend(queue.next(Timestamp(now))),
                2..=4 if !sending.is_empty() => {
                    let unsent = sending.remove(usize::from(which) % sending.len());
                    let position = unsent.receipt.position;
                    match step {
                        2 => {
                            model.take(&unsent);
                            queue.sent(position);
                        }
                        3 => queue.put_off(position, Timestamp(now + 3), "no".into()),
                        _ => {
                            model.given_up.insert(position);
                            queue.give_up(position, Timestamp(now), "no".into());
                        }
                    }
                }
                5 => {
                    // Killed; what was being sent may have been taken all the same.
                    sending.iter().for_each(|unsent| model.take(unsent));
                    (queue, sending) = (model.reopen(), Vec::new());
                }
                6 => model.store(&mut queue),
                _ => queue.hurry(Timestamp(now), Duration::from_millis(2)),
            }
            let mut devices: Vec<&str> = sending.iter().map(|unsent| unsent.receipt.device.as_str()).collect();
            devices.sort_unstable();
            prop_assert!(devices.is_sorted_by(|a, b| a < b), "two of one device at once: {devices:?}");
        }
        model.store(&mut queue);
        prop_assert_eq!((model.cursor, model.waiting.len(), queue.waiting()), (LAST, 0, 0));
        for receipt in &log {
            let taken = model.taken.get(&receipt.device).is_some_and(|taken| taken.contains(&receipt.position));
            prop_assert!(taken || model.dead.contains(&receipt.position), "{} is lost", receipt.position);
        }
        for taken in model.taken.values() {
            let in_order = taken.iter().filter(|position| !model.given_up.contains(position));
            prop_assert!(in_order.is_sorted(), "{taken:?}");
        }
    }
}
