//! What is counted: one name, one place.

use crate::domain::{Cohort, Direction, Overhead, PollResult, Uncredited, Urgency};

/// Upper bounds of the histogram of latency saved, in seconds. Negative: polling would have been faster.
pub const SAVED_BUCKETS: [f64; 25] = [
    -3600.0, -900.0, -300.0, -60.0, -10.0, -1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 450.0, 600.0, 750.0,
    900.0, 1200.0, 1800.0, 3600.0,
];

/// Upper bounds of the histogram of the virtual wait, in seconds.
pub const WAIT_BUCKETS: [f64; 10] = [1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 450.0, 600.0, 900.0, 3600.0];

/// Upper bounds of the histogram of how long a poll took, in seconds.
pub const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the histogram of the time between two polls of a device, in seconds.
pub const INTERVAL_BUCKETS: [f64; 14] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 3600.0, 86400.0,
];

/// Groups that the devices of cohort control fall into, by hash. The even ones are one half of the cohort, the odd ones the other.
pub const GROUPS: usize = 32;

/// Where a device's poll interval comes from: the label `policy`, with two values whatever the intervals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `[ledger] poll_interval_secs`.
    Default,
    /// An interval of the device's own.
    Attribute,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::Attribute];
}

/// What is counted of a group of the control cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Polls that the declared interval predicts for the time in which devices were there, in millionths.
    Predicted,
    /// Polls that they made.
    Observed,
    /// Of those, polls that found events.
    Found,
    /// Whole intervals of the virtual clock.
    Ticks,
    /// Of those, intervals with an event.
    TicksFound,
    /// Like `Predicted`, of polls whose bytes are known.
    Weighed,
    /// Bytes of those polls, both ways.
    Bytes,
    /// Of those polls, empty ones.
    Empty,
    /// Their bytes.
    EmptyBytes,
    /// Time from acceptance to acknowledgement, in milliseconds.
    Latency,
    /// What the virtual clock says instead, in milliseconds.
    VirtualLatency,
}

impl Control {
    /// All, with the letters that name them in a minute of the ledger.
    pub const ALL: [(Self, &str); 11] = [
        (Self::Predicted, "p"),
        (Self::Observed, "n"),
        (Self::Found, "f"),
        (Self::Ticks, "k"),
        (Self::TicksFound, "v"),
        (Self::Weighed, "w"),
        (Self::Bytes, "b"),
        (Self::Empty, "e"),
        (Self::EmptyBytes, "z"),
        (Self::Latency, "l"),
        (Self::VirtualLatency, "m"),
    ];
}

/// What is counted of the whole control cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlSum {
    /// Time between polls, in milliseconds.
    GapMs,
    /// Squares of the time between polls, in intervals, in millionths.
    GapSquares,
    /// Bytes in of empty polls.
    EmptyBytesIn,
    /// Events with a latency.
    Events,
}

impl ControlSum {
    /// All, with the letters that name them in a minute of the ledger.
    pub const ALL: [(Self, &str); 4] = [
        (Self::GapMs, "g"),
        (Self::GapSquares, "q"),
        (Self::EmptyBytesIn, "i"),
        (Self::Events, "a"),
    ];
}

/// One count.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// Connected time that earns, in milliseconds.
    CreditedMs(Policy),
    /// Polls avoided, in millionths.
    MicroPolls(Policy),
    /// Virtual polls that would have found an event.
    EventPolls(Policy),
    /// Connected time that earns nothing, in milliseconds.
    UncreditedMs(Uncredited),
    /// Bytes that push cost.
    Bytes(Overhead, Direction),
    /// Packets that push cost.
    Packets(Overhead, Direction),
    /// Signs of life that came in.
    Keepalives,
    /// User and system time of the process, in microseconds.
    CpuMicros,
    /// Events that would have expired before the virtual tick.
    SavedFromExpiry,
    /// The sum of latency saved by events of an urgency, in milliseconds, two's complement.
    SavedSumMs(Urgency),
    /// The sum of virtual waits, in milliseconds.
    WaitSumMs,
    /// A bucket of the histogram of latency saved; the last is +Inf.
    SavedBucket(Urgency, usize),
    /// A bucket of the histogram of virtual waits; the last is +Inf.
    WaitBucket(usize),
    /// Connected time that was compared with the control cohort, in milliseconds.
    MeasuredMs,
    /// Polls avoided by the measured interval, in millionths.
    MeasuredMicroPolls(Policy),
    /// Virtual polls with events since there is a control cohort.
    MeasuredEventPolls(Policy),
    /// Bytes of polls avoided by the measured size, in thousandths.
    MeasuredMilliBytes(Policy, Direction),
    /// Like `SavedSumMs`, by the measured interval and its variation.
    MeasuredSavedSumMs(Urgency),
    /// Like `SavedBucket`, by the measured interval and its variation.
    MeasuredSavedBucket(Urgency, usize),
    /// Polls that devices really made.
    Polls(Cohort, PollResult),
    /// Bytes of real polls and their acknowledgements.
    PollBytes(Cohort, Direction),
    /// Polls of devices that are not followed, because too many poll.
    Untracked,
    /// The sum of how long polls took, in microseconds.
    DurationSumMicros,
    /// A bucket of the histogram of how long polls took.
    DurationBucket(usize),
    /// The sum of times between polls, in milliseconds.
    IntervalSumMs,
    /// A bucket of the histogram of times between polls.
    IntervalBucket(usize),
    /// The control cohort as a whole.
    ControlSum(ControlSum),
    /// A group of the control cohort.
    Control(usize, Control),
}

/// Reasons for time that earns nothing, with their label.
pub const UNCREDITED: [(Uncredited, &str); 3] = [
    (Uncredited::NoProof, "no_proof"),
    (Uncredited::PollingOn, "polling_on"),
    (Uncredited::ModeUnknown, "mode_unknown"),
];

/// Directions, with their label.
pub const DIRECTIONS: [(Direction, &str); 2] = [(Direction::In, "in"), (Direction::Out, "out")];

/// Cohorts, with their label.
pub const COHORTS: [(Cohort, &str); 3] = [(Cohort::Push, "push"), (Cohort::Poll, "poll"), (Cohort::Control, "control")];

const KINDS: usize = Overhead::ALL.len() * DIRECTIONS.len();
const UNCREDITED_AT: usize = 6;
const BYTES_AT: usize = UNCREDITED_AT + UNCREDITED.len();
const PACKETS_AT: usize = BYTES_AT + KINDS;
const SINGLES_AT: usize = PACKETS_AT + KINDS;
const SAVED_SUM_AT: usize = SINGLES_AT + 8;
const SAVED_AT: usize = SAVED_SUM_AT + 2 * Urgency::ALL.len();
const SAVED_CELLS: usize = Urgency::ALL.len() * (SAVED_BUCKETS.len() + 1);
const WAIT_AT: usize = SAVED_AT + SAVED_CELLS;
const MEASURED_AT: usize = WAIT_AT + WAIT_BUCKETS.len() + 1;
const MEASURED_SAVED_AT: usize = MEASURED_AT + 8;
const POLLS_AT: usize = MEASURED_SAVED_AT + SAVED_CELLS;
const POLL_BYTES_AT: usize = POLLS_AT + COHORTS.len() * PollResult::ALL.len();
const DURATION_AT: usize = POLL_BYTES_AT + COHORTS.len() * DIRECTIONS.len();
const INTERVAL_AT: usize = DURATION_AT + DURATION_BUCKETS.len() + 1;
const CONTROL_SUM_AT: usize = INTERVAL_AT + INTERVAL_BUCKETS.len() + 1;
const CONTROL_AT: usize = CONTROL_SUM_AT + ControlSum::ALL.len();

/// How many there are.
pub const CELLS: usize = CONTROL_AT + GROUPS * Control::ALL.len();

impl Cell {
    /// Its place, below [`CELLS`].
    pub fn index(self) -> usize {
        match self {
            Self::CreditedMs(policy) => policy as usize,
            Self::MicroPolls(policy) => 2 + policy as usize,
            Self::EventPolls(policy) => 4 + policy as usize,
            Self::UncreditedMs(why) => UNCREDITED_AT + why as usize,
            Self::Bytes(kind, direction) => BYTES_AT + kind as usize * DIRECTIONS.len() + direction as usize,
            Self::Packets(kind, direction) => PACKETS_AT + kind as usize * DIRECTIONS.len() + direction as usize,
            Self::SavedFromExpiry => SINGLES_AT,
            Self::WaitSumMs => SINGLES_AT + 1,
            Self::Keepalives => SINGLES_AT + 2,
            Self::CpuMicros => SINGLES_AT + 3,
            Self::MeasuredMs => SINGLES_AT + 4,
            Self::Untracked => SINGLES_AT + 5,
            Self::DurationSumMicros => SINGLES_AT + 6,
            Self::IntervalSumMs => SINGLES_AT + 7,
            Self::SavedSumMs(urgency) => SAVED_SUM_AT + urgency as usize,
            Self::MeasuredSavedSumMs(urgency) => SAVED_SUM_AT + Urgency::ALL.len() + urgency as usize,
            Self::SavedBucket(urgency, bucket) => SAVED_AT + saved_place(urgency, bucket),
            Self::WaitBucket(bucket) => WAIT_AT + bucket.min(WAIT_BUCKETS.len()),
            Self::MeasuredMicroPolls(policy) => MEASURED_AT + policy as usize,
            Self::MeasuredEventPolls(policy) => MEASURED_AT + 2 + policy as usize,
            Self::MeasuredMilliBytes(policy, direction) => MEASURED_AT + 4 + policy as usize * 2 + direction as usize,
            Self::MeasuredSavedBucket(urgency, bucket) => MEASURED_SAVED_AT + saved_place(urgency, bucket),
            Self::Polls(cohort, result) => POLLS_AT + cohort as usize * PollResult::ALL.len() + result as usize,
            Self::PollBytes(cohort, direction) => POLL_BYTES_AT + cohort as usize * DIRECTIONS.len() + direction as usize,
            Self::DurationBucket(bucket) => DURATION_AT + bucket.min(DURATION_BUCKETS.len()),
            Self::IntervalBucket(bucket) => INTERVAL_AT + bucket.min(INTERVAL_BUCKETS.len()),
            Self::ControlSum(sum) => CONTROL_SUM_AT + sum as usize,
            Self::Control(group, figure) => CONTROL_AT + (group % GROUPS) * Control::ALL.len() + figure as usize,
        }
    }
}

fn saved_place(urgency: Urgency, bucket: usize) -> usize {
    urgency as usize * (SAVED_BUCKETS.len() + 1) + bucket.min(SAVED_BUCKETS.len())
}

/// The bucket that holds `value`: the first whose upper bound it does not exceed.
pub fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_count_has_a_place_of_its_own() {
        let mut cells = vec![
            Cell::SavedFromExpiry,
            Cell::WaitSumMs,
            Cell::Keepalives,
            Cell::CpuMicros,
            Cell::MeasuredMs,
            Cell::Untracked,
            Cell::DurationSumMicros,
            Cell::IntervalSumMs,
        ];
        for policy in Policy::ALL {
            cells.extend([Cell::CreditedMs(policy), Cell::MicroPolls(policy), Cell::EventPolls(policy)]);
            cells.extend([Cell::MeasuredMicroPolls(policy), Cell::MeasuredEventPolls(policy)]);
            cells.extend(DIRECTIONS.map(|(direction, _)| Cell::MeasuredMilliBytes(policy, direction)));
        }
        cells.extend(UNCREDITED.map(|(why, _)| Cell::UncreditedMs(why)));
        for (direction, _) in DIRECTIONS {
            cells.extend(Overhead::ALL.map(|kind| Cell::Bytes(kind, direction)));
            cells.extend(Overhead::ALL.map(|kind| Cell::Packets(kind, direction)));
            cells.extend(COHORTS.map(|(cohort, _)| Cell::PollBytes(cohort, direction)));
        }
        for (cohort, _) in COHORTS {
            cells.extend(PollResult::ALL.map(|result| Cell::Polls(cohort, result)));
        }
        for urgency in Urgency::ALL {
            cells.extend([Cell::SavedSumMs(urgency), Cell::MeasuredSavedSumMs(urgency)]);
            let both = |bucket| [Cell::SavedBucket(urgency, bucket), Cell::MeasuredSavedBucket(urgency, bucket)];
            cells.extend((0..=SAVED_BUCKETS.len()).flat_map(both));
        }
        cells.extend((0..=WAIT_BUCKETS.len()).map(Cell::WaitBucket));
        cells.extend((0..=DURATION_BUCKETS.len()).map(Cell::DurationBucket));
        cells.extend((0..=INTERVAL_BUCKETS.len()).map(Cell::IntervalBucket));
        cells.extend(ControlSum::ALL.map(|(sum, _)| Cell::ControlSum(sum)));
        for group in 0..GROUPS {
            cells.extend(Control::ALL.map(|(figure, _)| Cell::Control(group, figure)));
        }
        let places: HashSet<usize> = cells.iter().map(|cell| cell.index()).collect();
        assert_eq!(places.len(), cells.len());
        assert_eq!(places.len(), CELLS);
        assert!(places.iter().all(|place| *place < CELLS));
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        assert_eq!(bucket(&WAIT_BUCKETS, 0.0), 0);
        assert_eq!(bucket(&WAIT_BUCKETS, 1.0), 0);
        assert_eq!(bucket(&WAIT_BUCKETS, 1.001), 1);
        assert_eq!(bucket(&WAIT_BUCKETS, 4_000.0), WAIT_BUCKETS.len());
        assert_eq!(bucket(&SAVED_BUCKETS, -5_000.0), 0);
        assert_eq!(bucket(&SAVED_BUCKETS, -0.5), 6);
    }
}
