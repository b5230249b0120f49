//! What is counted about tokens: of devices, and of backends.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::TokenError;

#[derive(Clone)]
pub(super) struct TokenMetrics {
    checks: IntCounterVec,
    loads: IntCounterVec,
    pub(super) keys: IntGauge,
}

impl TokenMetrics {
    /// Of devices.
    pub(super) fn of_devices(registry: &Registry) -> prometheus::Result<Self> {
        Self::register(
            registry,
            ["unpoll_token_checks_total", "Device tokens that were checked, by what was found."],
            [
                "unpoll_token_key_loads_total",
                "Looks at the keys of device tokens that found them (ok), or could not use what they found (failed).",
            ],
            ["unpoll_token_keys", "Public keys that device tokens are checked with."],
        )
    }

    /// Of backends. A token that was found valid is not checked again for a minute.
    pub(super) fn of_backends(registry: &Registry) -> prometheus::Result<Self> {
        Self::register(
            registry,
            [
                "unpoll_jwt_checks_total",
                "Tokens of backends that were checked, by what was found; one that was valid is not checked again for a minute.",
            ],
            [
                "unpoll_jwt_key_loads_total",
                "Looks at the keys of backends' tokens that found them (ok), or could not use what they found (failed).",
            ],
            ["unpoll_jwt_keys", "Public keys that tokens of backends are checked with."],
        )
    }

    fn register(registry: &Registry, checks: [&str; 2], loads: [&str; 2], keys: [&str; 2]) -> prometheus::Result<Self> {
        let counter = |[name, help]: [&str; 2], results: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["result"])?;
            for result in results {
                counter.get_metric_with_label_values(&[result])?;
            }
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let checks = counter(checks, &["valid", "expired", "unknown-key", "invalid", "unavailable"])?;
        let loads = counter(loads, &["ok", "failed"])?;
        let [name, help] = keys;
        let keys = IntGauge::new(name, help)?;
        registry.register(Box::new(keys.clone()))?;
        Ok(Self { checks, loads, keys })
    }

    pub(super) fn checked<T>(&self, found: &Result<T, TokenError>) {
        let result = match found {
            Ok(_) => "valid",
            Err(TokenError::Expired) => "expired",
            Err(TokenError::UnknownKey) => "unknown-key",
            Err(TokenError::NoKeys) => "unavailable",
            Err(_) => "invalid",
        };
        if let Ok(counter) = self.checks.get_metric_with_label_values(&[result]) {
            counter.inc();
        }
    }

    pub(super) fn loaded(&self, ok: bool) {
        if let Ok(counter) = self.loads.get_metric_with_label_values(&[if ok { "ok" } else { "failed" }]) {
            counter.inc();
        }
    }
}
