//! Logs and metrics: how they look, and where they are collected. What they say belongs to the parts.

mod family;
mod log;
mod process;
mod reference;
mod usage;

pub use family::{family, single};
pub use log::{Config, Format, LogError, init_logging};
pub use reference::reference;
pub use usage::Usage;

use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};

/// The content type of [`Metrics::text`]: Prometheus text format 0.0.4.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of this process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry with the metrics of the process and `unpoll_build_info`.
    ///
    /// # Errors
    /// A metric is registered twice: a bug.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(process::Collector::new()?))?;
        let build = IntGaugeVec::new(Opts::new("unpoll_build_info", "Always 1; the version is a label."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        Ok(Self { registry })
    }

    /// Where parts register theirs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// A collector gave something that has no text form: a bug.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_process_and_the_build() {
        let metrics = Metrics::new().expect("no metric twice");
        let text = String::from_utf8(metrics.text().expect("a text form")).expect("UTF-8");
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("no {name} in {text}"));
            line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
        };
        assert_eq!(
            value(&format!("unpoll_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))),
            1.0
        );
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_threads") >= 1.0);
    }
}
