//! What happens in a sequence: steps with arguments that collide on purpose, and the dice that throws them.

use serde::{Deserialize, Serialize};

/// Devices of a sequence: two ids in each of two tenants.
pub(super) const DEVICES: usize = 4;

/// One step. Numbers of nodes, devices and events are taken modulo how many there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A backend posts events in one call.
    Post(usize, Vec<Post>),
    /// A device connects to a node, and reads so much at once; `stale`: with credentials of an earlier life of it.
    Connect {
        node: usize,
        device: usize,
        stale: bool,
        page: usize,
    },
    /// The session of a device goes on and reads from its cursor, in pages of so many.
    Resume { device: usize, page: usize },
    /// The session of a device is gone, and nobody says goodbye.
    Drop { device: usize },
    /// A goodbye with the last epoch of a device, or with one so many before it.
    Release { node: usize, device: usize, back: usize },
    /// Deliveries end, or are put off, in one call.
    Settle(usize, Vec<End>),
    /// What waited out its pause goes to the tail: so many at most.
    Requeue { node: usize, limit: usize },
    /// Housekeeping, at the time of a node.
    Sweep { node: usize },
    /// A device is removed.
    Remove { node: usize, device: usize },
    /// A device is added, or is there already.
    Add { node: usize, device: usize },
    /// The next hints for sessions of a node are lost.
    LoseHints { node: usize, hints: usize },
    /// The clock of a node leaps.
    Clock { node: usize, secs: i64 },
    /// A node is killed; another takes its place.
    Crash { node: usize },
    /// The server is killed and started again.
    KillServer,
    /// The server forgets its scripts.
    FlushScripts,
    /// A post of one event or one end is under way when something else happens: its answer may be lost.
    Interrupted(Box<Step>, Interruption),
}

/// What comes between a step and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interruption {
    /// Whoever asked goes away.
    Caller,
    /// The node is killed.
    Node,
    /// The server is killed.
    Server,
}

/// An event to post.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Post {
    pub device: usize,
    /// 0 to 3, from `very-low` to `high`.
    pub urgency: usize,
    pub ttl_secs: u64,
    /// 0 to 2: acknowledged, received, processed.
    pub require: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse: Option<u8>,
    /// Idempotency key and body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<(u8, u8)>,
    /// It is to be delivered so many seconds later, or was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_in: Option<i64>,
    /// Bytes beside the least.
    pub bytes: usize,
}

/// Whether an event with that idempotency key is a copy: then the key names a group.
pub(super) fn is_copy(key: u8) -> bool {
    key % 2 == 1
}

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Which one, counted from the newest.
    pub event: usize,
    pub what: What,
    /// Whether the session says so.
    pub by_session: bool,
    /// Whether it is named by the place where it was born, instead of the one where it waits.
    pub born: bool,
    /// Whether another device says so.
    pub wrong_device: bool,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Delivered,
    Processed,
    /// With words of the device.
    Done,
    Rejected,
    Failed,
    Cancelled,
    Expired,
    /// Once more, in so many seconds.
    Again(u32),
    /// With the next session.
    Later,
}

/// Throws steps: the same ones for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.throw() % bound.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A whole sequence.
    pub(super) fn sequence(&mut self, least: usize, most: usize) -> Vec<Step> {
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Step {
        let (node, device) = (self.below(2), self.below(DEVICES));
        match self.below(100) {
            0..28 => {
                let events = if self.one_in(4) { 2 + self.below(3) } else { 1 };
                Step::Post(node, (0..events).map(|_| self.post()).collect())
            }
            28..46 => {
                let ends = if self.one_in(4) { 2 + self.below(3) } else { 1 };
                Step::Settle(node, (0..ends).map(|_| self.end()).collect())
            }
            46..55 => Step::Connect {
                node,
                device,
                stale: self.one_in(10),
                page: self.pick(&[0, 1, 100, 100]),
            },
            55..63 => Step::Resume {
                device,
                page: self.pick(&[1, 2, 100]),
            },
            63..66 => Step::Drop { device },
            66..71 => Step::Release {
                node,
                device,
                back: self.pick(&[0, 0, 1, 2]),
            },
            71..77 => Step::Requeue {
                node,
                limit: self.pick(&[1, 2, 100, 100, 100]),
            },
            77..80 => Step::Sweep { node },
            80..82 => Step::Remove { node, device },
            82..84 => Step::Add { node, device },
            84..88 => Step::LoseHints {
                node,
                hints: 1 + self.below(3),
            },
            88..93 => Step::Clock {
                node,
                secs: self.pick(&[1, 5, 31, 60, 61, 700, 3_600, 172_800, -1, -30, -600, -86_400]),
            },
            93..95 => Step::Crash { node },
            95 => self.pick_server_fault(),
            _ => {
                let step = if self.one_in(3) {
                    Step::Settle(node, vec![self.end()])
                } else {
                    Step::Post(node, vec![self.post()])
                };
                let by = self.pick(&[Interruption::Caller, Interruption::Node, Interruption::Node, Interruption::Server]);
                Step::Interrupted(Box::new(step), by)
            }
        }
    }

    fn pick_server_fault(&mut self) -> Step {
        if self.one_in(2) { Step::KillServer } else { Step::FlushScripts }
    }

    fn post(&mut self) -> Post {
        Post {
            // Most of it meets on two devices of one id.
            device: self.pick(&[0, 0, 0, 1, 2, 2, 2, 3]),
            urgency: self.pick(&[0, 1, 2, 2, 3, 3]),
            ttl_secs: self.pick(&[0, 1, 20, 60, 90, 90, 600, 3_600, 200_000]),
            require: self.pick(&[0, 0, 1, 2]),
            collapse: self.pick(&[None, None, None, Some(0), Some(0), Some(1)]),
            key: self.pick(&[None, None, None, Some((0, 0)), Some((0, 0)), Some((0, 1)), Some((1, 0))]),
            deliver_in: if self.one_in(5) {
                self.pick(&[Some(0), Some(5), Some(30), Some(60), Some(700), Some(-30)])
            } else {
                None
            },
            bytes: self.pick(&[0, 0, 10, 100, 300]),
        }
    }

    fn end(&mut self) -> End {
        let what = [
            What::Delivered,
            What::Delivered,
            What::Delivered,
            What::Processed,
            What::Done,
            What::Done,
            What::Rejected,
            What::Failed,
            What::Cancelled,
            What::Expired,
            What::Again(0),
            What::Again(30),
            What::Later,
        ];
        End {
            event: self.pick(&[0, 0, 0, 1, 1, 2, 3, 4, 6, 9]),
            what: self.pick(&what),
            by_session: !self.one_in(4),
            born: self.one_in(2),
            wrong_device: self.one_in(16),
        }
    }
}
