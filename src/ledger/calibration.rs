//! The prediction against the control cohort: ratios, and how sure they are.
//!
//! Each ratio is predicted / observed. What was measured on one half of the cohort predicts the other half, so no prediction
//! uses its own observation. The interval comes from leaving out one group of devices at a time (delete-a-group jackknife):
//! polls of one device depend on each other, groups do not. Figures of groups only add up, so an interval can be had for any
//! period, over restarts and over nodes. See docs/decisions/0006.

use serde::{Deserialize, Serialize};

use super::{
    cell::{Cell, Control, ControlSum, GROUPS},
    figures::Figures,
    tally::Sums,
};

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Predicted / observed.
    pub ratio: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Ratio {
    /// Whether all of the interval lies within a tenth of 1.
    pub fn is_valid(self) -> bool {
        self.low >= 0.9 && self.high <= 1.1
    }
}

/// What the ledger predicts for the control cohort, by what that cohort did. `None`: nothing to compare yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Polls.
    pub requests: Option<Ratio>,
    /// Bytes of polls, payload left out.
    pub bytes: Option<Ratio>,
    /// Share of polls that found nothing.
    pub empty: Option<Ratio>,
    /// Time from acceptance to acknowledgement.
    pub latency: Option<Ratio>,
}

impl Calibration {
    /// All four, by name.
    pub fn all(self) -> [(&'static str, Option<Ratio>); 4] {
        [
            ("requests", self.requests),
            ("bytes", self.bytes),
            ("empty", self.empty),
            ("latency", self.latency),
        ]
    }
}

/// Figures of one group, in polls, bytes and seconds.
type Group = [f64; Control::ALL.len()];

/// What the control cohort did in some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    groups: [Group; GROUPS],
    sums: [f64; ControlSum::ALL.len()],
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            groups: [Group::default(); GROUPS],
            sums: [0.0; ControlSum::ALL.len()],
        }
    }
}

impl From<&Sums> for Observed {
    fn from(sums: &Sums) -> Self {
        let mut observed = Self::default();
        for (at, group) in observed.groups.iter_mut().enumerate() {
            for (figure, _) in Control::ALL {
                group[figure as usize] = sums.get(Cell::Control(at, figure)) as f64 * figure.unit();
            }
        }
        for (sum, _) in ControlSum::ALL {
            observed.sums[sum as usize] = sums.get(Cell::ControlSum(sum)) as f64 * sum.unit();
        }
        observed
    }
}

impl From<&Figures> for Observed {
    fn from(figures: &Figures) -> Self {
        let get = |name: &str| figures.get(name).copied().unwrap_or(0.0);
        let mut observed = Self::default();
        for (at, group) in observed.groups.iter_mut().enumerate() {
            for (figure, letter) in Control::ALL {
                group[figure as usize] = get(&format!("c{at}.{letter}"));
            }
        }
        for (sum, letter) in ControlSum::ALL {
            observed.sums[sum as usize] = get(&format!("c.{letter}"));
        }
        observed
    }
}

impl Observed {
    /// By name, as a minute of the ledger keeps them: `c7.p` is a figure of group 7, `c.g` one of the whole cohort.
    pub fn named(&self) -> impl Iterator<Item = (String, f64)> {
        let groups = self.groups.iter().enumerate().flat_map(|(at, group)| {
            let of = |(figure, letter): (Control, &str)| (format!("c{at}.{letter}"), group[figure as usize]);
            Control::ALL.map(of)
        });
        groups.chain(ControlSum::ALL.map(|(sum, letter)| (format!("c.{letter}"), self.sums[sum as usize])))
    }

    /// Adds `more`.
    pub fn add(&mut self, more: &Self) {
        let groups = self.groups.as_flattened_mut().iter_mut().zip(more.groups.as_flattened());
        groups
            .chain(self.sums.iter_mut().zip(&more.sums))
            .for_each(|(sum, more)| *sum += more);
    }

    /// A figure over all groups.
    pub fn total(&self, figure: Control) -> f64 {
        self.groups.iter().map(|group| group[figure as usize]).sum()
    }

    /// A figure of the whole cohort.
    pub fn sum(&self, sum: ControlSum) -> f64 {
        self.sums[sum as usize]
    }

    /// The four ratios.
    pub fn calibration(&self) -> Calibration {
        Calibration {
            requests: self.ratio(requests),
            bytes: self.ratio(bytes),
            empty: self.ratio(empty),
            latency: self.ratio(latency),
        }
    }

    /// The estimate over all groups, and its interval: the logarithm of the estimate without one group, for each group in
    /// turn, and the quantile of Student's t for as many groups as polled.
    fn ratio(&self, estimate: impl Fn(&[Group; GROUPS]) -> Option<f64>) -> Option<Ratio> {
        let ratio = estimate(&self.groups)?;
        let present: Vec<usize> = (0..GROUPS)
            .filter(|at| self.groups[*at][Control::Observed as usize] > 0.0)
            .collect();
        let without = |at: &usize| {
            let mut groups = self.groups;
            groups[*at] = Group::default();
            estimate(&groups).map(f64::ln)
        };
        let without: Vec<f64> = present.iter().map(without).collect::<Option<_>>()?;
        let count = without.len() as f64;
        let freedom = without.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
        let mean = without.iter().sum::<f64>() / count;
        let squares: f64 = without.iter().map(|estimate| (estimate - mean).powi(2)).sum();
        let deviation = (squares * (count - 1.0) / count).sqrt();
        let reach = deviation * STUDENT_T[freedom.min(STUDENT_T.len()) - 1];
        let millionths = |number: f64| (number * 1e6).round() / 1e6;
        let finite = Ratio {
            ratio: millionths(ratio),
            low: millionths(ratio * (-reach).exp()),
            high: millionths(ratio * reach.exp()),
        };
        (ratio > 0.0 && ratio.is_finite() && reach.is_finite()).then_some(finite)
    }
}

impl Control {
    /// What one of its counts is worth.
    fn unit(self) -> f64 {
        match self {
            Self::Predicted | Self::Weighed => 1e-6,
            Self::Latency | Self::VirtualLatency => 1e-3,
            _ => 1.0,
        }
    }
}

impl ControlSum {
    /// What one of its counts is worth.
    fn unit(self) -> f64 {
        match self {
            Self::GapMs => 1e-3,
            Self::GapSquares => 1e-6,
            Self::EmptyBytesIn | Self::Events => 1.0,
        }
    }
}

fn sum<'a>(groups: impl IntoIterator<Item = &'a Group>, figure: Control) -> f64 {
    groups.into_iter().map(|group| group[figure as usize]).sum()
}

/// `above / below`, if there is anything below.
fn quotient(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

/// The time that devices were there by their declared interval, against the polls that they made.
fn requests(groups: &[Group; GROUPS]) -> Option<f64> {
    quotient(sum(groups, Control::Predicted), sum(groups, Control::Observed))
}

/// The predicted polls of each half at the mean size of an empty poll of the other half, against the bytes of all polls.
fn bytes(groups: &[Group; GROUPS]) -> Option<f64> {
    let half = |odd: usize, figure| sum(groups.iter().skip(odd).step_by(2), figure);
    let size = |odd| quotient(half(odd, Control::EmptyBytes), half(odd, Control::Empty));
    let predicted = half(0, Control::Weighed) * size(1)? + half(1, Control::Weighed) * size(0)?;
    quotient(predicted, sum(groups, Control::Bytes))
}

/// The share of whole intervals of the virtual clock without an event, against the share of polls that found none.
fn empty(groups: &[Group; GROUPS]) -> Option<f64> {
    let predicted = 1.0 - quotient(sum(groups, Control::TicksFound), sum(groups, Control::Ticks))?;
    let observed = 1.0 - quotient(sum(groups, Control::Found), sum(groups, Control::Observed))?;
    quotient(predicted, observed)
}

/// The latency of the virtual clock, against the one that was seen, over the same events.
fn latency(groups: &[Group; GROUPS]) -> Option<f64> {
    quotient(sum(groups, Control::VirtualLatency), sum(groups, Control::Latency))
}

/// The 97.5 % quantile of Student's t, for 1 to 31 degrees of freedom.
const STUDENT_T: [f64; GROUPS - 1] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 2.040,
];
