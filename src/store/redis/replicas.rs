//! How many replicas of a primary the writes wait for: all that are in step with it.
//!
//! One would do if a primary were always dead when another takes its place. It is not: Sentinels make a replica the primary while the
//! old one lives (`SENTINEL FAILOVER`, or a primary that was too slow to answer them), and the other replicas go on acknowledging what
//! the old one is told until they hear of it. What only they have is lost. So the one that was chosen must have it, too, and since
//! nobody knows which one that will be, all must. A replica that is gone may be the new primary; it counts for a while longer.
//! Pure: time is given.

use std::time::{Duration, Instant};

/// What was seen of the replicas of one primary.
#[derive(Debug, Default)]
pub(super) struct InStep {
    wait_for: u32,
    fewer_since: Option<Instant>,
}

impl InStep {
    /// So many are in step now. Answers how many to wait for: at least one. Fewer than before only after `gone_after`.
    pub(super) fn seen(&mut self, now_in_step: u32, now: Instant, gone_after: Duration) -> u32 {
        let gone = now_in_step < self.wait_for && now.duration_since(*self.fewer_since.get_or_insert(now)) >= gone_after;
        if gone || now_in_step >= self.wait_for {
            self.wait_for = now_in_step;
            self.fewer_since = None;
        }
        self.wait_for.max(1)
    }
}

/// How many replicas get each write as it is made, as INFO says: one that still loads what came before, or has said nothing for
/// `gone_after`, acknowledges nothing.
pub(super) fn in_step(info: &str, gone_after: Duration) -> u32 {
    let is_in_step = |line: &&str| {
        let Some((name, facts)) = line.trim().split_once(':') else {
            return false;
        };
        let fact = |wanted: &str| facts.split(',').find_map(|fact| fact.strip_prefix(wanted)?.strip_prefix('='));
        let lag = fact("lag").and_then(|lag| lag.parse().ok()).map(Duration::from_secs);
        name.starts_with("slave") && fact("state") == Some("online") && lag.is_some_and(|lag| lag < gone_after)
    };
    u32::try_from(info.lines().filter(is_in_step).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE_AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn a_replica_that_is_gone_counts_for_a_while_and_one_that_comes_counts_at_once() {
        let start = Instant::now();
        let mut replicas = InStep::default();
        for (second, in_step, expected) in [
            (0, 0, 1),
            (1, 2, 2),
            (2, 1, 2),
            (11, 0, 2),
            (12, 1, 1),
            (13, 2, 2),
            // Gone and back: it is counted anew.
            (14, 1, 2),
            (20, 2, 2),
            (26, 1, 2),
            (35, 1, 2),
            (36, 1, 1),
            (37, 0, 1),
            (47, 0, 1),
        ] {
            let seen = replicas.seen(in_step, start + Duration::from_secs(second), GONE_AFTER);
            assert_eq!(seen, expected, "second {second}");
        }
    }

    #[test]
    fn only_those_that_follow_are_in_step() {
        let info = "role:master\r\nconnected_slaves:4\r\n\
            slave0:ip=127.0.0.1,port=6380,state=online,offset=84,lag=0\r\n\
            slave1:ip=127.0.0.1,port=6381,state=wait_bgsave,offset=0,lag=0\r\n\
            slave2:ip=127.0.0.1,port=6382,state=online,offset=84,lag=9\r\n\
            slave3:ip=127.0.0.1,port=6383,state=online,offset=12,lag=10\r\n\
            slave_read_only:1\r\n";
        assert_eq!(in_step(info, GONE_AFTER), 2);
        assert_eq!(in_step("", GONE_AFTER), 0);
    }
}
