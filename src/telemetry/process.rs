//! What the kernel knows of this process, under the names that Prometheus clients share: `process_*`.
//!
//! Read from `/proc` when asked for. Where that is missing (not Linux, or hidden) a figure is left out, never invented.

use std::{collections::HashMap, fs};

use prometheus::{
    core::Desc,
    proto::{MetricFamily, MetricType},
};

use super::single;

/// Clock ticks a second in `/proc/*/stat`: the kernel's interface fixes it, whatever its own timer.
const TICKS_PER_SECOND: f64 = 100.0;

const METRICS: [(&str, MetricType, &str); 7] = [
    ("process_cpu_seconds_total", MetricType::COUNTER, "User and system CPU time spent."),
    ("process_resident_memory_bytes", MetricType::GAUGE, "Memory that is resident."),
    ("process_virtual_memory_bytes", MetricType::GAUGE, "Address space that is reserved."),
    ("process_open_fds", MetricType::GAUGE, "File descriptors that are open."),
    ("process_max_fds", MetricType::GAUGE, "File descriptors that may be open."),
    ("process_threads", MetricType::GAUGE, "Threads."),
    (
        "process_start_time_seconds",
        MetricType::GAUGE,
        "When the process started, in seconds since 1970.",
    ),
];

/// Reads `/proc/self` at each scrape.
pub struct Collector {
    descs: Vec<Desc>,
}

impl Collector {
    /// A collector.
    pub fn new() -> prometheus::Result<Self> {
        let desc = |(name, _, help): (&str, MetricType, &str)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new());
        Ok(Self {
            descs: METRICS.into_iter().map(desc).collect::<prometheus::Result<_>>()?,
        })
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let figures = Figures::read();
        let values = [
            figures.cpu_seconds,
            figures.resident_bytes,
            figures.virtual_bytes,
            figures.open_fds,
            figures.max_fds,
            figures.threads,
            figures.start_time,
        ];
        let families = METRICS.into_iter().zip(values);
        families
            .filter_map(|((name, kind, help), value)| Some(single(name, kind, help, value?)))
            .collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
    threads: Option<f64>,
    start_time: Option<f64>,
}

impl Figures {
    /// Without the start time and the descriptors.
    pub(super) fn of_memory_and_cpu() -> Self {
        Self::parse(&file("/proc/self/stat"), &file("/proc/self/status"), "")
    }

    fn read() -> Self {
        let mut figures = Self::parse(&file("/proc/self/stat"), &file("/proc/self/status"), &file("/proc/stat"));
        // The descriptor that lists the directory is in the list.
        figures.open_fds = fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| entries.count().saturating_sub(1) as f64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        figures.max_fds = limit.map(|limit| limit as f64);
        figures
    }

    /// From the texts of `/proc/self/stat`, `/proc/self/status` and `/proc/stat` (proc(5)).
    fn parse(stat: &str, status: &str, system: &str) -> Self {
        // The name of the program is in brackets and may hold anything; what follows it starts with field 3.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks = |field: usize| number(fields.get(field - 3)).map(|ticks| ticks / TICKS_PER_SECOND);
        let line = |text: &str, name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            number(value.split_whitespace().next().as_ref())
        };
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            resident_bytes: line(status, "VmRSS:").map(|kib| kib * 1_024.0),
            virtual_bytes: line(status, "VmSize:").map(|kib| kib * 1_024.0),
            threads: line(status, "Threads:"),
            start_time: ticks(22).zip(line(system, "btime ")).map(|(after_boot, boot)| boot + after_boot),
            ..Self::default()
        }
    }
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(text: Option<&&str>) -> Option<f64> {
    text.and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_spaces_is_no_trap() {
        let stat = "77 (un) (poll) S 1 1 1 0 -1 4194304 5 0 0 0 250 50 0 0 20 0 9 0 12345 1000 5 18446744073709551615";
        let status = "Name:\tunpoll\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n";
        let figures = Figures::parse(stat, status, "cpu 1 2 3\nbtime 1700000000\n");
        assert_eq!(figures.cpu_seconds, Some(3.0));
        assert_eq!(figures.start_time, Some(1_700_000_123.45));
        assert_eq!(figures.resident_bytes, Some(1_048_576.0));
        assert_eq!(figures.virtual_bytes, Some(2_097_152.0));
        assert_eq!(figures.threads, Some(9.0));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let figures = Figures::parse("", "", "");
        assert_eq!(figures.cpu_seconds, None);
        assert_eq!(figures.start_time, None);
        assert_eq!(figures.resident_bytes, None);
    }
}
