//! What this process used, for parts that charge it to somebody.

use super::process::Figures;

/// CPU and memory of this process. `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time since its start, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory that is resident, in bytes.
    pub resident_bytes: Option<f64>,
}

impl Usage {
    /// As it is now.
    pub fn now() -> Self {
        let figures = Figures::of_memory_and_cpu();
        Self {
            cpu_seconds: figures.cpu_seconds,
            resident_bytes: figures.resident_bytes,
        }
    }
}
