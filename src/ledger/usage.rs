//! The CPU and memory of the process, charged to push as a whole: the most unfavourable assumption.

use parking_lot::Mutex;

use super::{cell::Cell, tally::Tally};
use crate::telemetry::Usage;

/// What was charged, and what the process had before there were sessions.
#[derive(Debug)]
pub struct Charge {
    charged_micros: Mutex<u64>,
    resident_at_start: Option<f64>,
}

impl Charge {
    /// Begins with the CPU time since the start of the process uncharged.
    pub fn begin() -> Self {
        Self {
            charged_micros: Mutex::new(0),
            resident_at_start: Usage::now().resident_bytes,
        }
    }

    /// Charges the CPU time since the last call.
    pub fn charge(&self, tally: &Tally) {
        let Some(seconds) = Usage::now().cpu_seconds else { return };
        let mut charged = self.charged_micros.lock();
        let micros = (seconds * 1e6) as u64;
        tally.add(Cell::CpuMicros, micros.saturating_sub(*charged));
        *charged = micros.max(*charged);
    }

    /// Resident memory now less what it was before there were sessions. May be negative. `None`: the kernel does not say.
    pub fn memory_bytes(&self) -> Option<f64> {
        Some(Usage::now().resident_bytes? - self.resident_at_start?)
    }
}
