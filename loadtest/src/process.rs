//! What the kernel says about a process and this machine.

use std::{fs, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};
use serde::Serialize;

use crate::Error;

/// Bytes of anonymous resident memory (RssAnon) of a process: its user-space memory, without mapped files.
///
/// # Errors
/// The process is gone.
pub fn memory(pid: u32) -> Result<u64, Error> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| Error::Machine(format!("no RssAnon for process {pid}")))
}

/// User plus system time a process has used, all threads, to the clock tick (10 ms).
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> Result<Duration, Error> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // The command in parentheses may hold blanks, so count from its end: utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(Error::Machine(format!("no times for process {pid}")));
    };
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_nanos((user + system).saturating_mul(1_000_000_000 / per_second)))
}

/// Raises the soft limit of open files to the hard one, and refuses when `wanted` sockets do not fit beside 64 others.
///
/// # Errors
/// The limit is too low; the text says how many processes would do.
pub fn allow_files(wanted: u64) -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .map_err(|e| Error::Machine(format!("the limit of open files cannot be raised to {most}: {e}")))?;
    let each = most.saturating_sub(64).max(1);
    if wanted > each {
        let processes = wanted.div_ceil(each);
        return Err(Error::Machine(format!(
            "{wanted} devices need as many open files, but a process may have {most}: use --processes {processes}"
        )));
    }
    Ok(())
}

/// Keeps the calling thread, and those it starts later, on one core.
///
/// # Errors
/// There is no such core.
pub fn pin(core: usize) -> Result<(), Error> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).map_err(|e| Error::Machine(format!("core {core}: {e}")))
}

/// Everything else on its core goes before this thread, and those it starts later.
///
/// # Errors
/// The system refuses.
pub fn stand_back() -> Result<(), Error> {
    rustix::process::nice(10)
        .map(drop)
        .map_err(|e| Error::Machine(format!("the priority cannot be lowered: {e}")))
}

/// The machine a figure was measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Number of processors.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Total memory, MiB.
    pub memory_mib: u64,
    /// The load averages now: what else ran beside.
    pub load_average: String,
}

impl Machine {
    /// Reads it from `/proc`. What cannot be read is left empty.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let value = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let total = value(&read("/proc/meminfo").unwrap_or_default(), "MemTotal").unwrap_or_default();
        Self {
            cpu: value(&cpuinfo, "model name").unwrap_or_default(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_mib: total.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            load_average: read("/proc/loadavg").unwrap_or_default().trim().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            memory_mib,
            load_average,
        } = self;
        write!(
            f,
            "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, load average {load_average}"
        )
    }
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|e| Error::Machine(format!("{path}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap() > 10_000);
        let before = cpu(pid).unwrap();
        let mut x = 1u64;
        while cpu(pid).unwrap() - before < Duration::from_millis(20) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(memory(u32::MAX).is_err());
    }

    #[test]
    fn too_many_devices_for_one_process_are_refused_with_the_way_out() {
        let error = allow_files(1 << 40).unwrap_err().to_string();
        assert!(error.contains("--processes"), "{error}");
    }
}
