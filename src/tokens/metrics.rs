//! What is counted about tokens.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::TokenError;

#[derive(Clone)]
pub(super) struct TokenMetrics {
    checks: IntCounterVec,
    loads: IntCounterVec,
    pub(super) keys: IntGauge,
}

impl TokenMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let checks = IntCounterVec::new(
            Opts::new("unpoll_token_checks_total", "Device tokens that were checked, by what was found."),
            &["result"],
        )?;
        for result in ["valid", "expired", "unknown-key", "invalid", "unavailable"] {
            checks.get_metric_with_label_values(&[result])?;
        }
        let loads = IntCounterVec::new(
            Opts::new(
                "unpoll_token_key_loads_total",
                "Looks at the keys of device tokens that found them (ok), or could not use what they found (failed).",
            ),
            &["result"],
        )?;
        for result in ["ok", "failed"] {
            loads.get_metric_with_label_values(&[result])?;
        }
        let keys = IntGauge::new("unpoll_token_keys", "Public keys that device tokens are checked with.")?;
        registry.register(Box::new(checks.clone()))?;
        registry.register(Box::new(loads.clone()))?;
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
