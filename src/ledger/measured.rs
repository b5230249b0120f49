//! What the control cohort teaches: the parameters of the baseline `measured`.
//!
//! They are taken from the last 24 hours, over restarts, and move as polls come in. Credit is priced when it is earned, with
//! the parameters of that moment, so no figure ever falls.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    calibration::Observed,
    cell::{Control, ControlSum},
    tally::{Sums, Tally},
};
use crate::domain::Timestamp;

/// Polls of the control cohort, with their bytes, before it is taken as a measure.
const POLLS_MIN: f64 = 30.0;

/// How far back, in hours.
pub const WINDOW_HOURS: u64 = 24;

/// How real polls differ from the declared ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Polls made for each one that the declared interval predicts.
    pub polls: f64,
    /// Mean wait for a poll by the declared interval's: the interval, and how much intervals vary.
    pub wait: f64,
    /// Bytes in of an empty poll.
    pub bytes_in: f64,
    /// Bytes out of an empty poll.
    pub bytes_out: f64,
}

impl Parameters {
    /// As observed. `None`: too little.
    pub fn of(observed: &Observed) -> Option<Self> {
        let predicted = observed.total(Control::Predicted);
        let polls = observed.total(Control::Observed);
        let empty = observed.total(Control::Empty);
        if polls < POLLS_MIN || empty < POLLS_MIN || predicted <= 0.0 {
            return None;
        }
        let inward = observed.sum(ControlSum::EmptyBytesIn);
        Some(Self {
            polls: polls / predicted,
            wait: observed.sum(ControlSum::GapSquares) / predicted,
            bytes_in: inward / empty,
            bytes_out: (observed.total(Control::EmptyBytes) - inward) / empty,
        })
    }
}

/// The control cohort in the last 24 hours.
#[derive(Debug, Default)]
pub struct Measured {
    window: Mutex<Window>,
    /// The bits of the parameters; all zero while there are none.
    parameters: [AtomicU64; 4],
}

#[derive(Debug, Default)]
struct Window {
    /// The sums up to which figures are in `hours`.
    taken: Sums,
    hours: VecDeque<(u64, Observed)>,
}

impl Measured {
    /// The parameters, if enough was observed. Cheap.
    pub fn parameters(&self) -> Option<Parameters> {
        let [polls, wait, bytes_in, bytes_out] = self.parameters.each_ref().map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)));
        (polls > 0.0).then_some(Parameters {
            polls,
            wait,
            bytes_in,
            bytes_out,
        })
    }

    /// What earlier lives of the service left in the store.
    pub fn restore(&self, hour: u64, observed: Observed) {
        self.window.lock().hours.push_front((hour, observed));
    }

    /// Takes in what was counted up to now.
    pub fn update(&self, now: Timestamp, tally: &Tally) {
        let observed = self.observed(now, tally);
        if let Some(found) = Parameters::of(&observed) {
            let figures = [found.polls, found.wait, found.bytes_in, found.bytes_out];
            for (place, figure) in self.parameters.iter().zip(figures) {
                place.store(figure.to_bits(), Ordering::Relaxed);
            }
        }
    }

    /// The control cohort in the last 24 hours.
    pub fn observed(&self, now: Timestamp, tally: &Tally) -> Observed {
        let hour = now.0 / 3_600_000;
        let mut window = self.window.lock();
        let sums = tally.sums();
        let new = Observed::from(&sums.since(&window.taken));
        window.taken = sums;
        match window.hours.back_mut() {
            Some((last, observed)) if *last >= hour => observed.add(&new),
            _ => window.hours.push_back((hour, new)),
        }
        while window.hours.front().is_some_and(|(first, _)| first + WINDOW_HOURS < hour) {
            window.hours.pop_front();
        }
        let mut all = Observed::default();
        window.hours.iter().for_each(|(_, observed)| all.add(observed));
        all
    }
}
